"""What is known of both clubs, and of their earlier matches, when a match is announced."""

from datetime import timedelta

from pipeline_assets.spec.features import CleanedTable, Entity, FeatureView, Windowed

OWNER = "forecasts@bundesliga.example"
DAY = timedelta(days=1)
SEASON, YEARS = 365 * DAY, 3 * 365 * DAY

home_club = Entity(name="home_club", keys=("home_id",), description="A club at home.")
away_club = Entity(name="away_club", keys=("away_id",), description="A club as a guest.")
pairing = Entity(name="pairing", keys=("home_id", "away_id"), description="Two clubs, the home club first.")

results = CleanedTable(
    name="results_history",
    event_at="finished_at",
    known_at="known_at",
    superseded_at="superseded_at",
    order_by=("season", "match_number"),
)

home_form = FeatureView(
    name="home_form",
    entity=home_club,
    source=results,
    features=(
        Windowed(name="matches", aggregate="count", windows=(90 * DAY,)),
        Windowed(name="goal_difference", aggregate="mean", column="goal_difference", windows=(90 * DAY, SEASON)),
        Windowed(name="won", aggregate="rate", column="home_won", windows=(90 * DAY, SEASON)),
        Windowed(name="since_match", aggregate="time_since_last", windows=(90 * DAY,)),
    ),
    owner=OWNER,
    description="How the club has played at home.",
    freshness=7 * DAY,
    online="stream",
)

away_form = FeatureView(
    name="away_form",
    entity=away_club,
    source=results,
    features=(
        Windowed(name="matches", aggregate="count", windows=(90 * DAY,)),
        Windowed(name="goal_difference", aggregate="mean", column="goal_difference", windows=(90 * DAY, SEASON)),
        Windowed(name="won", aggregate="rate", column="away_won", windows=(90 * DAY, SEASON)),
    ),
    owner=OWNER,
    description="How the club has played as a guest; the difference of goals is that of the home club.",
    freshness=7 * DAY,
    online="stream",
)

pairing_history = FeatureView(
    name="pairing_history",
    entity=pairing,
    source=results,
    features=(
        Windowed(name="matches", aggregate="count", windows=(YEARS,)),
        Windowed(name="last_difference", aggregate="last", column="goal_difference", windows=(YEARS,)),
    ),
    owner=OWNER,
    description="How the two have played against each other here.",
    freshness=7 * DAY,
    online="stream",
)
