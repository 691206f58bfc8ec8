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
    select * from {{ ref('members_history') }}
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
        loans.known_at
    from loans
    left join members
        on members.member_id = loans.member_id
        and {{ was_known_at('members', 'loans.known_at') }}
)

select * from final
