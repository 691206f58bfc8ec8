with

versions as (
    {{ versions_of(
        source('raw', 'airports'),
        key=['faa'],
        known_at='updated_at',
    ) }}
),

renamed as (
    select
        faa,

        name,
        time_zone,

        latitude,
        longitude,
        altitude_ft,

        updated_at as known_at,
        superseded_at,
        version,
        is_current
    from versions
)

select * from renamed
