with

versions as (
    {{ versions_of(
        source('raw', 'planes'),
        key=['tailnum'],
        known_at='updated_at',
    ) }}
),

renamed as (
    select
        tailnum,

        kind,
        manufacturer,
        model,
        engine,

        year_built,
        engines,
        seats,

        updated_at as known_at,
        superseded_at,
        version,
        is_current
    from versions
)

select * from renamed
