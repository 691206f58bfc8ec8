{{
    config(
        materialized='incremental',
        unique_key=['flight_id', 'known_at'],
        event_time='event_at',
        indexes=[{'columns': ['event_at']}],
    )
}}

-- From how many minutes behind schedule a flight counts as late.
{%- set late_from_minutes = 15 %}

with

events as (
    {{ rows_of_asked_days(ref('stg_flight_departures')) }}
),

departures as (
    select
        flight_id,
        carrier,
        tailnum,
        origin,
        dest,

        case when not is_cancelled then delay_minutes end as delay_minutes,

        is_cancelled,
        is_cancelled
        or delay_minutes >= {{ late_from_minutes }} as is_late,

        event_at,
        known_at,
        superseded_at,
        version,
        is_current
    from events
)

select * from departures
