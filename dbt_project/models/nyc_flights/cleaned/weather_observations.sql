with

weather_observations as (
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
        known_at
    from {{ ref('weather_observations_history') }}
    where is_current
)

select * from weather_observations
