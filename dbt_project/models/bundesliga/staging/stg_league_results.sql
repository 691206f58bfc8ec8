with

source as (
    select * from {{ source('raw', 'league_results') }}
),

renamed as (
    select
        season,
        match_number,
        home_id,
        away_id,

        home_goals,
        away_goals,

        finished_at,
        recorded_at as known_at
    from source
),

-- An event may be sent again with corrections: the one known last counts.
newest as (
    select distinct on (season, match_number) *
    from renamed
    order by season, match_number, known_at desc, renamed desc
)

select * from newest
