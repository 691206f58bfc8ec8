with

arrivals as (
    select
        flight_id,
        carrier,
        tailnum,
        origin,
        dest,
        delay_minutes,
        is_late,
        event_at,
        known_at
    from {{ ref('arrivals_history') }}
    where is_current
)

select * from arrivals
