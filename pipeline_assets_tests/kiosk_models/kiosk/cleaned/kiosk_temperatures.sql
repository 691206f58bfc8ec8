{{
    config(
        materialized='incremental',
        unique_key=['kiosk', 'measured_at'],
        event_time='measured_at',
    )
}}

with

temperatures as (
    {{ rows_of_asked_days(ref('stg_temperatures')) }}
)

select * from temperatures
