{{
    config(
        materialized='incremental',
        unique_key=['library_id', 'loan_no'],
        event_time='loaned_at',
    )
}}

with

outcomes as (
    {{ rows_of_asked_days(ref('loan_outcomes')) }}
),

damages as (
    select library_id, loan_no, is_damaged, loaned_at, returned_at
    from outcomes
)

select * from damages
