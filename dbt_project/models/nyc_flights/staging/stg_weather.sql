with

source as (
    select * from {{ source('raw', 'weather') }}
),

renamed as (
    select
        origin,

        temperature_f,
        dew_point_f,
        humidity_percent,
        wind_direction_deg,
        wind_speed_mph,
        wind_gust_mph,
        precipitation_in,
        pressure_mb,
        visibility_miles,

        observed_at,
        published_at as known_at
    from source
),

-- A row may be published again with corrections: the one known last counts.
newest as (
    select distinct on (origin, observed_at) *
    from renamed
    order by origin, observed_at, known_at desc, renamed desc
)

select * from newest
