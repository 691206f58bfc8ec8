{{
    config(
        materialized='incremental',
        unique_key='loan_id',
        event_time='loaned_at',
    )
}}
{%- set paid = related_rows(
    ref('stg_payments'), key='loan', at='last_paid_at'
) %}

with

loans as (
    {{ rows_of_asked_days(ref('stg_loans'), changed_by=[paid]) }}
),

payments as (
    {{ rows_of_keys(paid, of='loans') }}
),

final as (
    select
        loans.loan_id,
        count(payments.loan) as payments,
        coalesce(sum(payments.amount), 0) as amount,
        loans.loaned_at,
        max(payments.paid_at) as last_paid_at
    from loans
    left join payments on payments.loan = loans.loan_id
    group by loans.loan_id, loans.loaned_at
)

select * from final
