{{ config(materialized='table') }}

with

clubs as (
    select
        club_id,

        name,

        first_season,

        first_season = 1963 as is_founder,

        known_at,
        superseded_at,
        version,
        is_current
    from {{ ref('stg_league_clubs') }}
)

select * from clubs
