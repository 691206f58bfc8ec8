"""Versions beyond a declared retention on a real warehouse and lake: they are gone, no answer from then on changes, others are refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from pipeline_assets.core import connections, names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import VersionsNotKept
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import DELETED_AT, versioned
from pipeline_assets.model_lifecycle.feature_store.offline import historical_features
from pipeline_assets.model_lifecycle.training.inputs import read_labels
from pipeline_assets.processing.cleaning.raw_schema import follow_contract
from pipeline_assets.processing.features.cleaned import read_observations, snapshots_of
from pipeline_assets.processing.features.materialize import materialize_view
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.features import CleanedTable, Entity, FeatureView, Latest, Learned, Windowed
from pipeline_assets.spec.models import Label, Observations, Versions
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets.use_cases.nyc_flights.sources import planes
from pipeline_assets_tests.cleaning_runs import metadata_of, room
from pipeline_assets_tests.flight_rows import DEPARTURES, Row, at, cleaned_rows, day, departure, departures, expected_departures, put_raw
from pipeline_assets_tests.january import store
from pipeline_assets_tests.kept_versions import build, keeping_versions

DAYS, KEPT = 8, timedelta(days=3)
TICK = timedelta(microseconds=1)
NAME, REGISTER = "departures_history", "aircraft_history"
LAKE = names.cleaned(NAME)
MODELS = ((names.STAGING, names.stg(DEPARTURES.name)), LAKE, names.cleaned("departures"))
REGISTERS = ((names.STAGING, names.stg(planes.contract.name)), names.cleaned(REGISTER))
# The newest row of `corrected_rows` is known then, in the middle of the last day.
NEWEST = at(DAYS - 1, 700)
SINCE = NEWEST - KEPT


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    """Cleaning that keeps versions of departures and of aircraft for three days."""
    return keeping_versions(tmp_path_factory.mktemp("short") / "dbt", **dict.fromkeys((NAME, REGISTER), "3 days"))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    """Cleaning that keeps versions of departures for five days."""
    return keeping_versions(tmp_path_factory.mktemp("long") / "dbt", **{NAME: "5 days"})


def corrected_rows() -> list[Row]:
    """Planned departures of all days: corrected again and again, moved to other days and carriers, deleted, or left as they are.

    Versions follow each other half a day apart and, of some flights, exactly at `SINCE` and a microsecond beside it.
    """
    rows: list[Row] = []
    number = count()
    for on in range(DAYS):
        for minute in range(5, 600, 85):
            of_flight = list(_versions(next(number), at(on, minute)))
            rows.extend(row for row in of_flight if row["recorded_at"] < NEWEST)
    for name, moment in (("before", SINCE - TICK), ("exactly", SINCE), ("after", SINCE + TICK)):
        planned = departure(name, at(4, 100), at(0, 10), 3)
        rows.extend((planned, planned | {"delay_minutes": 90, "recorded_at": moment}))
    return [*rows, departure("newest", at(DAYS - 1, 690), NEWEST)]


def _versions(number: int, planned: datetime) -> Iterator[Row]:
    """One flight, known a day and a half before it leaves; each version changes something else."""
    row = departure(f"flight-{number}", planned, planned - timedelta(hours=36), number % 50) | {"carrier": ("AA", "UA", "DL")[number % 3]}
    changes: list[dict[str, Any]] = [
        {"delay_minutes": 7 * number % 80, "is_cancelled": False},
        {"carrier": "B6"},
        {"event_at": planned + timedelta(hours=30)},
        {"delay_minutes": None, "is_cancelled": True},
        {"event_at": planned, "delay_minutes": 33, "is_cancelled": False},
    ]
    for step, changed in enumerate([{}, *changes[: number % 6]]):
        row = row | changed | {"recorded_at": planned + timedelta(hours=12 * (step - 3), minutes=number % 7)}
        is_last = step == number % 6
        yield row | {DELETED_AT: row["recorded_at"] + timedelta(hours=20) if is_last and number % 4 == 3 else None}


def put(settings: Settings, rows: list[Row]) -> None:
    """Puts the raw departures of all days in the place of what was there."""
    put_raw(settings, DEPARTURES, day(-3), day(DAYS + 3), rows)


def in_lake(settings: Settings, name: str = NAME) -> list[Row]:
    """A cleaned table of the lake, in the order of the warehouse's rows."""
    rows = cleaned_rows(settings, name)
    first = next(iter(rows[0]))
    found = tables.read_all(settings, names.cleaned(name), [*rows[0]]).read_all()
    return list(found.sort_by([(first, "ascending"), ("known_at", "ascending")]).to_pylist())


def kept(rows: list[Row], since: datetime) -> list[Row]:
    """The rows that counted at a time or later."""
    return [row for row in rows if row["superseded_at"] is None or row["superseded_at"] > since]


def noted(settings: Settings) -> list[tuple[str, date]]:
    """What dbt has changed and the lake does not have yet."""
    with connections.warehouse(settings) as connection:
        return connection.execute("select table_name, day from publishing.changed_days where table_name = %s", [NAME]).fetchall()


def raw_by_day() -> dict[int, list[Row]]:
    """Departures of each day, and flights that are published again on later and on earlier days."""
    rows = {on: departures(on, 10, seed=on) for on in range(DAYS)}
    for on in range(DAYS - 2):
        for step, other in enumerate((on, (on + 3) % DAYS, on)):
            rows[other].append(departure(f"moved-{on}", at(other, 60 * step), at(on, 700 * (step + 1)), 10 * step))
    return rows


def test_any_order_of_days_gives_what_a_full_refresh_gives(isolated: Settings, platform: Platform, short: dg.Definitions) -> None:
    """Versions beyond the retention are gone from warehouse and lake, also of days that were not asked for; and they stay so.

    Not even withdrawing the newest rows brings them back: what was given up once stays refused. Regression: one row that said to be known
    in the year 2099 made all that was superseded before disappear.
    """
    rows = raw_by_day()
    since = max(row["known_at"] for row in expected_departures(row for on in sorted(rows) for row in rows[on])) - KEPT
    rows[0].append(departure("future", at(0, 30), datetime(2099, 1, 1, tzinfo=UTC)))
    everything = expected_departures(row for on in sorted(rows) for row in rows[on])
    put(isolated, [row for on in rows for row in rows[on]])
    for days in ((4, 7), (0, 3)):
        build(short, platform, days, *MODELS)
    by_days = cleaned_rows(isolated, NAME)
    assert by_days == in_lake(isolated) == kept(everything, since)
    assert len(everything) - len(by_days) > 4
    assert tables.versions_since(isolated, LAKE) == since

    rows[7] = []
    put(isolated, [row for on in rows for row in rows[on]])
    build(short, platform, (7, 7), *MODELS)
    withdrawn, snapshot = cleaned_rows(isolated, NAME), tables.snapshot_id(isolated, LAKE)
    build(short, platform, (0, 0), *MODELS, full_refresh=True)

    remaining = expected_departures(row for on in sorted(rows) for row in rows[on])
    assert max(row["known_at"] for row in remaining if row["flight_id"] != "future") - KEPT < since
    assert withdrawn == cleaned_rows(isolated, NAME) == in_lake(isolated) == kept(remaining, since)
    assert (noted(isolated), tables.snapshot_id(isolated, LAKE)) == ([], snapshot)
    assert tables.versions_since(isolated, LAKE) == since


CARRIER = Entity(name="carrier", keys=("carrier",), description="An airline.")
SPANS = (timedelta(hours=6), timedelta(days=2), timedelta(days=30))
NUMBERS = ("count", "sum", "mean", "stddev", "variance", "min", "max", "last")
VIEW = FeatureView(
    name="kept",
    entity=CARRIER,
    source=CleanedTable(name=NAME, event_at="event_at", known_at="known_at", order_by=("flight_id",), superseded_at="superseded_at"),
    features=(
        *(Windowed(name=f"{kind}_delay", aggregate=kind, column="delay_minutes", windows=SPANS) for kind in NUMBERS),  # type: ignore[arg-type]
        Windowed(name="departures", aggregate="count", windows=SPANS),
        Windowed(name="since", aggregate="time_since_last", windows=SPANS),
        Windowed(name="late", aggregate="rate", column="is_late", windows=SPANS),
        Latest(name="delay", column="delay_minutes"),
        Latest(name="was_late", column="is_late", ttl=timedelta(days=1)),
        Latest(name="tail", column="tailnum", values=Learned()),
        Latest(name="age", column="known_at"),
    ),
    owner="team:test",
    description="What an airline's departures were.",
    freshness=timedelta(days=1),
)
ASKED = Observations(table=NAME, keys=("flight_id",), decision_at="event_at", event_at="event_at", versions=Versions())
LABEL = Label(table=NAME, keys=("flight_id",), column="is_late", known_at="known_at", superseded_at="superseded_at")
FLIGHTS = replace(flight_delay, name="of_flights", observations=ASKED, label=LABEL, views=(VIEW,), request_features=(), slices=())
HOURS = replace(
    FLIGHTS, name="of_hours", observations=Observations(table="hours", keys=("number",), decision_at="asked_at", event_at="asked_at")
)
PROJECT = Project(use_cases=(replace(use_case, models=(FLIGHTS, HOURS)),), tables=load_project().tables)


def moments(first: datetime) -> pl.DataFrame:
    """Decisions about each airline at a time, at the times around each change of versions, and at each hour afterwards."""
    hours = [SINCE + timedelta(hours=hour) for hour in range(96)]
    times = {moment for hour in hours for moment in (hour, hour + timedelta(minutes=3), hour + TICK)} | {first}
    asked = pl.DataFrame({"asked_at": sorted(times)}, schema={"asked_at": pl.Datetime("us", "UTC")})
    return asked.join(pl.DataFrame({"carrier": ["AA", "UA", "DL", "B6"]}), how="cross").with_row_index("number")


def answers(settings: Settings, first: datetime) -> dict[str, pa.Table]:
    """Everything that can be asked of the departures at `first` and later; days begin at the midnight after it."""
    spine = moments(first).rename({"asked_at": "decision_at"}).select("carrier", "decision_at").to_arrow()
    snapshots, whole = snapshots_of(settings, [LAKE]), [day(5), day(DAYS + 1)]
    store(settings, {"hours": moments(first)})
    assert materialize_view(settings, VIEW, [HOURS], first.date(), day(DAYS)).kept == 0
    labels = read_labels(settings, LABEL, at(0), first)
    return {
        "historical": historical_features(settings, PROJECT, FLIGHTS.name, spine),
        "view": tables.read_all(settings, names.features(VIEW.name)).read_all(),
        "observations": read_observations(settings, ASKED, whole[0], whole[1], snapshots),
        "labels": labels.sort_by([("flight_id", "ascending"), ("known_at", "ascending")]),
    }


def in_bytes(found: pa.Table) -> bytes:
    """The table as it is written."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, found.schema) as writer:
        writer.write_table(found.combine_chunks())
    return bytes(sink.getvalue().to_pybytes())


def test_decisions_from_then_on_are_answered_as_before(isolated: Settings, platform: Platform, short: dg.Definitions) -> None:
    """Features of every kind, stored ones, observations and labels are equal byte for byte at the instant itself and at all later ones."""
    put(isolated, corrected_rows())
    build(room(), platform, (-3, DAYS + 3), *MODELS)
    versions, current = cleaned_rows(isolated, NAME), cleaned_rows(isolated, "departures")
    before = answers(isolated, SINCE)
    assert tables.versions_since(isolated, LAKE) is None

    done = build(short, platform, (DAYS, DAYS), *MODELS)
    after = answers(isolated, SINCE)

    assert cleaned_rows(isolated, NAME) == in_lake(isolated) == kept(versions, SINCE)
    assert len(versions) - len(in_lake(isolated)) > 50
    assert cleaned_rows(isolated, "departures") == current
    assert metadata_of(done, LAKE)["versions_since"] == SINCE.isoformat()
    assert {name: found.num_rows > 20 for name, found in before.items()} == dict.fromkeys(before, True)
    assert {name: in_bytes(found) for name, found in after.items()} == {name: in_bytes(found) for name, found in before.items()}


def test_an_instant_before_is_refused_and_nothing_is_written(isolated: Settings, platform: Platform, short: dg.Definitions) -> None:
    """A microsecond earlier is an error that names the table, what was asked and since when versions are kept; of days, their midnight."""
    put(isolated, corrected_rows())
    build(short, platform, (-3, DAYS + 3), *MODELS)
    stored = answers(isolated, SINCE)["view"]
    early = SINCE - TICK
    spine = moments(early).rename({"asked_at": "decision_at"}).select("carrier", "decision_at").to_arrow()
    store(isolated, {"hours": moments(early)})
    asks: list[Callable[[], object]] = [
        lambda: historical_features(isolated, PROJECT, FLIGHTS.name, spine),
        lambda: materialize_view(isolated, VIEW, [HOURS], early.date(), day(DAYS)),
        lambda: materialize_view(isolated, VIEW, [FLIGHTS], SINCE.date(), SINCE.date()),
        lambda: read_observations(isolated, ASKED, SINCE.date(), day(DAYS), snapshots_of(isolated, [LAKE])),
        lambda: read_labels(isolated, LABEL, at(0), early),
    ]
    refused = []
    for ask in asks:
        with pytest.raises(
            VersionsNotKept, match=r"'cleaned\.departures_history' .* keeps all versions since 2013-03-05T11:40:00\+00:00"
        ) as no:
            ask()
        refused.append(no.value.asked)

    midnight = at(4)
    assert refused == [early, early, midnight, midnight, early]
    assert {no.value.since} == {SINCE}
    assert in_bytes(tables.read_all(isolated, names.features(VIEW.name)).read_all()) == in_bytes(stored)


def test_another_retention_begins_with_a_table_made_anew(
    isolated: Settings, platform: Platform, short: dg.Definitions, long: dg.Definitions
) -> None:
    """A longer one brings versions back at the next full refresh, from the raw rows, and not before; without one all come back."""
    put(isolated, corrected_rows())
    steps = {"short": short, "longer": long, "longer, anew": long, "none, anew": room()}
    found = {}
    for name, definitions in steps.items():
        full_refresh = name == "short" or name.endswith("anew")
        build(definitions, platform, (-3, DAYS + 3) if full_refresh else (DAYS, DAYS), *MODELS, full_refresh=full_refresh)
        assert cleaned_rows(isolated, NAME) == in_lake(isolated)
        found[name] = tables.versions_since(isolated, LAKE), len(in_lake(isolated))

    longer = NEWEST - timedelta(days=5)
    assert [since for since, _ in found.values()] == [SINCE, SINCE, longer, None]
    assert found["short"][1] == found["longer"][1] < found["longer, anew"][1] < found["none, anew"][1]


def test_a_register_keeps_its_versions_as_long(isolated: Settings, platform: Platform, short: dg.Definitions) -> None:
    """A table without days that is made anew by each build: what was deleted beyond the retention, too, and the newest row stays."""
    contract = versioned(planes.contract)
    follow_contract(isolated, contract)
    insert = "insert into raw.planes (tailnum, seats, updated_at, _deleted_at) values (%s, %s, %s, %s)"
    rows = [("N1", 1, at(0), None), ("N1", 2, at(2), None), ("N1", 3, at(6), None), ("N2", 1, at(0), at(2)), ("N3", 1, at(-90), None)]
    with connections.warehouse(isolated) as connection, connection.cursor() as cursor:
        cursor.executemany(insert, rows)
    for _ in range(2):
        build(short, platform, None, *REGISTERS)

    assert [(row["tailnum"], row["version"]) for row in in_lake(isolated, REGISTER)] == [("N1", 2), ("N1", 3), ("N3", 1)]
    assert in_lake(isolated, REGISTER) == cleaned_rows(isolated, REGISTER)
    assert tables.versions_since(isolated, names.cleaned(REGISTER)) == at(3)
