{{
    config(
        materialized='incremental',
        unique_key=['season', 'match_number', 'known_at'],
        event_time='finished_at',
        indexes=[{'columns': ['finished_at']}],
    )
}}

with

ended as (
    {{ rows_of_asked_days(ref('stg_league_results')) }}
),

results as (
    select
        season,
        match_number,
        home_id,
        away_id,

        home_goals,
        away_goals,
        home_goals - away_goals as goal_difference,

        home_goals > away_goals as home_won,
        home_goals < away_goals as away_won,

        case
            when home_goals > away_goals then 'home'
            when home_goals < away_goals then 'away'
            else 'draw'
        end as outcome,

        finished_at,
        known_at,
        superseded_at,
        version,
        is_current
    from ended
)

select * from results
