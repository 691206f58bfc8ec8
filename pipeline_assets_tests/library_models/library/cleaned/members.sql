with

members as (
    select member_id, level, known_at
    from {{ ref('members_history') }}
    where is_current
)

select * from members
