with

versions as (
    {{ versions_of(
        source('raw', 'kiosk_temperatures'),
        key=['kiosk', 'measured_at'],
        known_at='published_at',
    ) }}
),

renamed as (
    select
        kiosk,

        temperature,

        measured_at,
        published_at as known_at
    from versions
    where is_current
)

select * from renamed
