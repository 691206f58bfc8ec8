with

fixtures as (
    select
        season,
        match_number,
        home_id,
        away_id,
        round,
        is_founder_at_home,
        kick_off_at,
        announced_at,
        known_at
    from {{ ref('fixtures_history') }}
    where is_current
)

select * from fixtures
