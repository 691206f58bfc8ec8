with

results as (
    select
        season,
        match_number,
        home_id,
        away_id,
        home_goals,
        away_goals,
        goal_difference,
        home_won,
        away_won,
        outcome,
        finished_at,
        known_at
    from {{ ref('results_history') }}
    where is_current
)

select * from results
