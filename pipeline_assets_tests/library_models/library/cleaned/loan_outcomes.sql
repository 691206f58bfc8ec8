{{
    config(
        materialized='incremental',
        unique_key=['library_id', 'loan_no'],
        event_time='loaned_at',
    )
}}
{%- set returned = related_rows(
    ref('stg_returns'), key=['library_id', 'loan_no'], at='returned_at'
) %}

with

loans as (
    {{ rows_of_asked_days(ref('stg_loans'), changed_by=[returned]) }}
),

returns as (
    {{ rows_of_keys(returned, of='loans') }}
),

final as (
    select
        loans.library_id,
        loans.loan_no,
        coalesce(returns.is_damaged, false) as is_damaged,
        loans.loaned_at,
        returns.returned_at,
        greatest(loans.known_at, returns.known_at) as known_at
    from loans
    left join returns using (library_id, loan_no)
)

select * from final
