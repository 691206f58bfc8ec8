"""The outside world: matches as they are announced and as they end, and the register of clubs."""

from datetime import timedelta

from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import EventStream, PostgresTable, Source

LEAGUE = "league-office@bundesliga.example"
# A day has a handful of matches, of which one that was sent twice counts as broken.
FEW_A_DAY = 0.5

SEASON = Field(name="season", type="integer", required=True, minimum=1963, maximum=2100, description="Year in which the season began.")
NUMBER = Field(name="match_number", type="integer", required=True, minimum=1, maximum=400, description="Number of the match in its season.")
HOME = Field(name="home_id", type="integer", required=True, minimum=1, description="Club that plays at home.")
AWAY = Field(name="away_id", type="integer", required=True, minimum=1, description="Club that is the guest.")
RECORDED_AT = Field(name="recorded_at", type="timestamp", required=True, description="When the event was recorded, and so could be known.")

fixtures = EventStream(
    contract=Contract(
        name="league_fixtures",
        version="1.0.0",
        owner=LEAGUE,
        description="Announced matches, one event per match, some three weeks before it begins.",
        fields=(
            SEASON,
            NUMBER,
            Field(name="round", type="integer", required=True, minimum=1, maximum=38, description="Round of the season."),
            HOME,
            AWAY,
            Field(name="kick_off_at", type="timestamp", required=True, description="When it is to begin."),
            Field(name="announced_at", type="timestamp", required=True, description="When it was announced."),
            RECORDED_AT,
        ),
        primary_key=("season", "match_number"),
        event_at="announced_at",
        known_at="recorded_at",
        lateness=timedelta(hours=1),
        freshness=timedelta(days=7),
        broken_share=FEW_A_DAY,
    ),
    topic="league-fixtures",
)

results = EventStream(
    contract=Contract(
        name="league_results",
        version="1.0.0",
        owner=LEAGUE,
        description="Results, one event per match that has ended.",
        fields=(
            SEASON,
            NUMBER,
            HOME,
            AWAY,
            Field(name="home_goals", type="integer", required=True, minimum=0, maximum=30, description="Goals of the home club."),
            Field(name="away_goals", type="integer", required=True, minimum=0, maximum=30, description="Goals of the guest."),
            Field(name="finished_at", type="timestamp", required=True, description="When it ended."),
            RECORDED_AT,
        ),
        primary_key=("season", "match_number"),
        event_at="finished_at",
        known_at="recorded_at",
        lateness=timedelta(hours=1),
        freshness=timedelta(days=7),
        broken_share=FEW_A_DAY,
    ),
    topic="league-results",
)

clubs = Source(
    contract=Contract(
        name="league_clubs",
        version="1.0.0",
        owner=LEAGUE,
        description="Clubs, one row per club.",
        fields=(
            Field(name="club_id", type="integer", required=True, minimum=1, description="Identifier of the club."),
            Field(name="name", type="string", required=True, max_length=80, description="Name of the club."),
            Field(name="first_season", type="integer", required=True, minimum=1963, description="First season that it played in."),
            Field(name="updated_at", type="timestamp", required=True, description="When the row last changed, and so could be known."),
        ),
        primary_key=("club_id",),
        event_at="updated_at",
        known_at="updated_at",
        lateness=timedelta(0),
        freshness=timedelta(days=400),
        broken_share=0.02,
    ),
    origin=PostgresTable(database="league", table="clubs"),
    load="changes",
)
