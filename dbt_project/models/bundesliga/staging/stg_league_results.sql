with

versions as (
    {{ versions_of(
        source('raw', 'league_results'),
        key=['season', 'match_number'],
        known_at='recorded_at',
    ) }}
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
        recorded_at as known_at,
        superseded_at,
        version,
        is_current
    from versions
)

select * from renamed
