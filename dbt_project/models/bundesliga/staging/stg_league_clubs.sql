with

source as (
    select * from {{ source('raw', 'league_clubs') }}
),

renamed as (
    select
        club_id,

        name,

        first_season,

        updated_at as known_at
    from source
)

select * from renamed
