{{ config(materialized='table') }}

with

airports as (
    select
        faa,
        name,
        time_zone,
        latitude,
        longitude,
        altitude_ft,
        known_at
    from {{ ref('stg_airports') }}
    where is_current
)

select * from airports
