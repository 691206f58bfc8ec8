{{
    config(
        materialized='incremental',
        unique_key='sale_id',
        event_time='sold_at',
    )
}}

with

sales as (
    {{ rows_of_asked_days(ref('stg_sales')) }}
)

select * from sales
