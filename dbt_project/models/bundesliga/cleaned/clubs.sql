with

clubs as (
    select
        club_id,
        name,
        first_season,
        is_founder,
        known_at
    from {{ ref('clubs_history') }}
    where is_current
)

select * from clubs
