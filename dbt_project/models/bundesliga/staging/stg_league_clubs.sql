with

versions as (
    {{ versions_of(
        source('raw', 'league_clubs'),
        key=['club_id'],
        known_at='updated_at',
    ) }}
),

renamed as (
    select
        club_id,

        name,

        first_season,

        updated_at as known_at,
        superseded_at,
        version,
        is_current
    from versions
)

select * from renamed
