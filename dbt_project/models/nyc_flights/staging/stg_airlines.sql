with

versions as (
    {{ versions_of(
        source('raw', 'airlines'),
        key=['carrier'],
        known_at='updated_at',
    ) }}
),

renamed as (
    select
        carrier,

        name,

        updated_at as known_at,
        superseded_at,
        version,
        is_current
    from versions
)

select * from renamed
