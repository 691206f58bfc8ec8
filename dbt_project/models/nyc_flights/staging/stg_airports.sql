with

source as (
    select * from {{ source('raw', 'airports') }}
),

renamed as (
    select
        faa,

        name,
        time_zone,

        latitude,
        longitude,
        altitude_ft,

        updated_at as known_at
    from source
),

-- A row may be published again with corrections: the one known last counts.
newest as (
    select distinct on (faa) *
    from renamed
    order by faa, known_at desc, renamed desc
)

select * from newest
