{{ config(materialized='table') }}

with

members as (
    select * from {{ ref('stg_members') }}
)

select * from members
