{{ config(materialized='table') }}

with

airlines as (
    select * from {{ ref('stg_airlines') }}
)

select * from airlines
