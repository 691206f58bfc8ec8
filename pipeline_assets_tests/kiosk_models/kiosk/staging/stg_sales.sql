with

versions as (
    {{ versions_of(
        source('raw', 'kiosk_sales'),
        key=['sale_id'],
        known_at='recorded_at',
    ) }}
),

renamed as (
    select
        sale_id,
        kiosk,

        price,

        sold_at,
        recorded_at as known_at
    from versions
    where is_current
)

select * from renamed
