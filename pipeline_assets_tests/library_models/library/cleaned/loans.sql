{{
    config(
        materialized='incremental',
        unique_key=['library_id', 'loan_no'],
        event_time='loaned_at',
    )
}}

with

loans as (
    {{ rows_of_asked_days(ref('stg_loans')) }}
),

members as (
    select * from {{ ref('members') }}
),

final as (
    select
        loans.library_id,
        loans.loan_no,
        loans.loan_id,
        members.level,
        loans.fee,
        members.member_id is not null as is_member,
        loans.due_on,
        loans.loaned_at,
        greatest(loans.known_at, members.known_at) as known_at
    from loans
    left join members on members.member_id = loans.member_id
)

select * from final
