with

versions as (
    {{ versions_of(
        source('raw', 'weather'),
        key=['origin', 'observed_at'],
        known_at='published_at',
    ) }}
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
        published_at as known_at,
        superseded_at,
        version,
        is_current
    from versions
)

select * from renamed
