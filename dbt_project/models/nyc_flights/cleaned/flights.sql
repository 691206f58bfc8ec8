with

flights as (
    select
        flight_id,
        carrier,
        tailnum,
        origin,
        dest,
        flight_number,
        distance_miles,
        planned_minutes,
        scheduled_departure_at,
        scheduled_arrival_at,
        decision_at,
        known_at
    from {{ ref('flights_history') }}
    where is_current
)

select * from flights
