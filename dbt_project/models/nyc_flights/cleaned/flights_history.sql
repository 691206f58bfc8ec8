{{
    config(
        materialized='incremental',
        unique_key=['flight_id', 'known_at'],
        event_time='scheduled_departure_at',
        indexes=[
            {'columns': ['scheduled_departure_at']},
            {'columns': ['decision_at']},
        ],
    )
}}

-- How long before its scheduled departure a flight is asked about.
{%- set decision_lead_minutes = 60 %}

with

schedule as (
    {{ rows_of_asked_days(ref('stg_flight_schedule')) }}
),

flights as (
    select
        flight_id,
        carrier,
        tailnum,
        origin,
        dest,

        flight_number,
        distance_miles,
        (
            extract(epoch from scheduled_arrival_at - scheduled_departure_at)
            / 60
        )::bigint as planned_minutes,

        scheduled_departure_at,
        scheduled_arrival_at,
        scheduled_departure_at
        - interval '{{ decision_lead_minutes }} minutes' as decision_at,
        known_at,
        superseded_at,
        version,
        is_current
    from schedule
)

select * from flights
