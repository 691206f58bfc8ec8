{{
    config(
        materialized='incremental',
        unique_key=['season', 'match_number', 'known_at'],
        event_time='announced_at',
        indexes=[
            {'columns': ['announced_at']},
            {'columns': ['known_at']},
        ],
    )
}}

with

announced as (
    {{ rows_of_asked_days(ref('stg_league_fixtures')) }}
),

clubs as (
    select * from {{ ref('clubs_history') }}
),

fixtures as (
    select
        announced.season,
        announced.match_number,
        announced.home_id,
        announced.away_id,

        announced.round,

        clubs.is_founder as is_founder_at_home,

        announced.kick_off_at,
        announced.announced_at,
        announced.known_at,
        announced.superseded_at,
        announced.version,
        announced.is_current
    from announced
    left join clubs
        on clubs.club_id = announced.home_id
        and {{ was_known_at('clubs', 'announced.known_at') }}
)

select * from fixtures
