with

versions as (
    {{ versions_of(
        source('raw', 'flight_schedule'),
        key=['flight_id'],
        known_at='recorded_at',
    ) }}
),

renamed as (
    select
        flight_id,
        carrier,
        tailnum,
        origin,
        dest,

        flight_number,
        distance_miles,

        scheduled_departure_at,
        scheduled_arrival_at,
        recorded_at as known_at,
        superseded_at,
        version,
        is_current
    from versions
)

select * from renamed
