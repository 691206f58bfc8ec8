{{ config(materialized='table') }}

with

airlines as (
    select
        carrier,
        name,
        known_at
    from {{ ref('stg_airlines') }}
    where is_current
)

select * from airlines
