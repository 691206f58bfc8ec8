{{
    config(
        materialized='incremental',
        unique_key=['origin', 'observed_at', 'known_at'],
        event_time='observed_at',
        indexes=[{'columns': ['observed_at']}],
    )
}}

with

observations as (
    {{ rows_of_asked_days(ref('stg_weather')) }}
)

select * from observations
