with

departures as (
    select
        flight_id,
        carrier,
        tailnum,
        origin,
        dest,
        delay_minutes,
        is_cancelled,
        is_late,
        event_at,
        known_at
    from {{ ref('departures_history') }}
    where is_current
)

select * from departures
