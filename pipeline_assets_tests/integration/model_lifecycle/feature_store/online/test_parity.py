"""Served vectors held against the lake: equal where nothing is wrong, and a skew is found and named."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
import typer
from psycopg import sql
from typer.testing import CliRunner, Result

from pipeline_assets.core import names
from pipeline_assets.core.connections import online
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.model_lifecycle.feature_store.assets import served_check
from pipeline_assets.model_lifecycle.feature_store.commands import register
from pipeline_assets.model_lifecycle.feature_store.online import commands, store
from pipeline_assets.model_lifecycle.feature_store.online.build import build, follow
from pipeline_assets.model_lifecycle.feature_store.online.compare import online_features
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.findings import draw_findings, findings
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_records
from pipeline_assets.model_lifecycle.feature_store.online.recomputed import ServedParity, served_parity
from pipeline_assets.model_lifecycle.feature_store.online.served import keep_sample, newest_samples
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.model_lifecycle.registry.gate import served_rule
from pipeline_assets.model_lifecycle.registry.judgement import served_compared
from pipeline_assets.processing.cleaning.derivations import Step
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.monitors import Sampling
from pipeline_assets.use_cases import nyc_flights
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.online_departures import (
    INSTANT,
    PROJECT,
    START,
    departures,
    feed,
    observed,
    put_history,
    put_typed,
    questions,
    table_of,
)
from pipeline_assets_tests.stack_env import write_stack_env

ALL = Sampling(share=1.0)
ROWS = departures(np.random.default_rng(40), 150)
HISTORY, TYPED = len(ROWS) // 3, 2 * len(ROWS) // 3
HISTORY_END = TYPED - HISTORY


def model_of(declared: Feed) -> Model:
    """The reference model with the views of one feed, which keeps every vector that is served."""
    return replace(flight_delay, views=declared.views, monitor=replace(flight_delay.monitor, served=ALL))


@dataclass(frozen=True, kw_only=True)
class Site:
    """A feed that is read, and the model that asks it."""

    settings: Settings
    feed: Feed
    model: Model

    @property
    def project(self) -> Project:
        """The model alone."""
        return Project(use_cases=(replace(nyc_flights.use_case, models=(self.model,)),), tables=PROJECT.tables)

    def ask(self, at: datetime) -> int:
        """Asks for all entities at a time, and keeps what is served; how many vectors."""
        asked = questions(at)
        fields = {
            "scheduled_departure_at": pa.array([at + timedelta(hours=2)] * asked.num_rows, INSTANT),
            "distance_miles": pa.array([None, *range(1, asked.num_rows)], pa.int64()),
            "planned_minutes": pa.array([place / 7 for place in range(asked.num_rows)]),
        }
        for name, column in fields.items():
            asked = asked.append_column(name, column)
        served = online_features(self.settings, self.project, [self.feed], self.model, asked, "the questions")
        return keep_sample(self.settings, self.model, asked, served, Random(1))  # noqa: S311

    def parity(self) -> ServedParity:
        """All that was kept, held against the lake."""
        with online(self.settings) as connection:
            samples = newest_samples(connection, self.model)
        return served_parity(self.settings, self.project, [self.feed], self.model, samples)

    def live(self) -> store.Kept:
        """The feed as it is read."""
        with online(self.settings) as connection:
            return store.live(connection, self.feed)


@pytest.fixture
def site(isolated: Settings) -> Site:
    """Departures, built from rows of before and typed records."""
    declared = feed("departures_history")
    put_history(isolated, table_of(ROWS[:HISTORY]))
    put_typed(isolated, table_of(ROWS[HISTORY:TYPED]), 0)
    build(isolated, declared, lambda _: None)
    return Site(settings=isolated, feed=declared, model=model_of(declared))


@pytest.fixture
def session(site: Site) -> Iterator[Session]:
    """What a worker has of the feed."""
    with open_session(site.settings, site.live()) as opened:
        yield opened


def take(session: Session, first: int, end: int, lost: int = 0) -> datetime:
    """Has the states see records of the topic, less the last `lost` of them; gives the time of the newest."""
    keep_records(session, table_of(ROWS[first : end - lost]), {0: end - HISTORY})
    newest: datetime = ROWS[end - 1]["recorded_at"]
    return newest + timedelta(seconds=1)


def type_rest(site: Site) -> None:
    """Has the lake catch up with the topic."""
    put_typed(site.settings, table_of(ROWS[TYPED:]), HISTORY_END)


def test_what_was_served_while_events_came_is_what_the_lake_gives(site: Site, session: Session) -> None:
    """Asked after the build and between batches, of all entities: pending until the lake has typed so far, then equal to the bit."""
    count = site.ask(ROWS[TYPED - 1]["recorded_at"])
    for first in range(TYPED, len(ROWS), 20):
        count += site.ask(take(session, first, min(first + 20, len(ROWS))))
    before = site.parity()
    type_rest(site)
    after = site.parity()

    assert (before.checked, before.pending, before.differing) == (20, count - 20, {})
    assert (after.checked, after.pending, after.unclear, after.differing) == (count, 0, {}, {})
    assert count > 60


def test_an_event_that_was_lost_is_found(site: Site, session: Session) -> None:
    """Offsets moved on without the newest record: the counts and rates of its origin differ, and both values are shown."""
    late = [row["recorded_at"] - row["event_at"] for row in ROWS]
    lost = next(place for place in range(TYPED + 20, len(ROWS)) if late[place] < timedelta(minutes=10))
    site.ask(take(session, TYPED, lost + 1, lost=1))
    type_rest(site)
    found = site.parity()
    shown = next(one for one in found.examples if one.feature == "origin_departures__flights_1h")

    assert {"origin_departures__flights_1h", "origin_departures__late_rate_7d", "route_departures__flights_7d"} <= found.differing.keys()
    assert not [name for name in found.differing if name.startswith("request__")]
    assert shown.entity["origin"] == ROWS[lost]["origin"]
    assert shown.served != shown.recomputed


def test_a_worker_with_another_derivation_is_found(site: Site) -> None:
    """It takes forty minutes for late, as a text of the model of before did: rates of being late differ, counts and means do not."""
    derivation = site.feed.derivation
    assert derivation is not None
    steps = tuple(Step(one.relation, one.name, one.sql.replace("delay_minutes >= 15", "delay_minutes >= 40")) for one in derivation.steps)
    assert steps != derivation.steps
    kept = site.live()
    other = replace(site.feed, derivation=replace(derivation, steps=steps))
    with open_session(site.settings, replace(kept, feed=other)) as session:
        at = take(session, TYPED, len(ROWS))
    site.ask(at)
    type_rest(site)
    found = site.parity()

    assert found.differing
    assert {name.partition("__")[2].rpartition("_")[0] for name in found.differing} == {"late_rate"}


def test_vectors_of_another_definition_are_counted_apart(site: Site) -> None:
    """What was served as the view was declared before is neither equal nor different."""
    count = site.ask(ROWS[TYPED - 1]["recorded_at"])
    site.feed.__dict__["hash"] = "another"
    found = site.parity()

    assert (found.checked, found.pending, found.differing) == (0, 0, {})
    assert found.unclear == {"declared otherwise": count}


def plant(site: Site, feature: str, key: str, change: Callable[[float], float]) -> tuple[float, float]:
    """Has one finished float be another; what it was and is."""
    slot, layout = next((slot, one) for slot, one in enumerate(site.feed.layouts) if feature.startswith(f"{one.view.name}__"))
    kept, size = site.live(), layout.finished.itemsize
    place = [one.name for one in layout.outputs].index(feature)
    with online(site.settings) as connection:
        query = sql.SQL("select value from {} where view = %s and key = %s").format(kept.state)
        (value,) = connection.execute(query, (slot, key)).fetchone() or (b"",)
        fixed = np.frombuffer(value[:size], layout.finished).copy()
        numbers = fixed["values"][0].view(np.float64)
        before, numbers[place] = float(numbers[place]), change(float(numbers[place]))
        text = sql.SQL("update {} set value = %s where view = %s and key = %s")
        connection.execute(text.format(kept.state), (fixed.tobytes() + value[size:], slot, key))
    return before, float(numbers[place])


def test_a_last_bit_that_is_another_is_found(site: Site) -> None:
    """Of one feature and entity alone, with both values."""
    was, planted = plant(site, "carrier_departures__delay_mean_7d", "UA", lambda mean: float(np.nextafter(mean, np.inf)))
    site.ask(ROWS[TYPED - 1]["recorded_at"])
    found = site.parity()

    assert list(found.differing) == ["carrier_departures__delay_mean_7d"]
    assert {(one.entity["carrier"], one.served, one.recomputed) for one in found.examples} == {("UA", planted, was)}
    assert was != planted == pytest.approx(was)


def test_the_check_of_vectors_names_the_feature(site: Site) -> None:
    """It is passed and says so where nothing was kept, and fails with the feature, both values and the course once one differs."""
    nothing = served_check(site.settings, site.project, site.model)
    plant(site, "carrier_departures__delay_mean_7d", "UA", lambda mean: float(np.nextafter(mean, np.inf)))
    site.ask(ROWS[TYPED - 1]["recorded_at"])
    check = served_check(site.settings, site.project, site.model)

    assert nothing.passed
    assert nothing.description == "No vectors of the model that were served online were kept."
    assert not check.passed
    assert str(check.description).startswith("carrier_departures__delay_mean_7d in 5 of them; 20 vectors compared")
    assert "data:image/png" in str(check.metadata["over_time"].value)
    assert str(check.metadata["examples"].value).count("'served'") == 5


def test_a_table_is_held_against_the_snapshot_that_was_followed(isolated: Settings) -> None:
    """Vectors of before and after a commit are equal each to its snapshot; while a commit is taken they are counted apart."""
    declared = feed("weather_observations_history")
    site = Site(settings=isolated, feed=declared, model=model_of(declared))
    hours = [START + timedelta(hours=hour) for hour in range(24 * 3)]
    table, first, last = names.cleaned(declared.table.name), START.date(), hours[-1].date()
    tables.replace_days(isolated, table, observed(declared, hours, {}), "observed_at", first, last)
    build(isolated, declared, lambda _: None)
    count, at = site.ask(hours[-1] + timedelta(minutes=5)), hours[-1] + timedelta(minutes=10)
    tables.replace_days(isolated, table, observed(declared, hours[:-3], {hours[-4].isoformat(): 1e9}), "observed_at", first, last)
    follow(isolated, declared)
    count += site.ask(at)
    equal = site.parity()
    with open_session(isolated, site.live()) as session, session.transaction() as cursor:
        session.begin_commit(cursor)
    between = site.ask(at)
    found = site.parity()

    assert (equal.checked, equal.pending, equal.differing) == (count, 0, {})
    assert (found.checked, found.unclear) == (count, {"between two commits": between})


def test_floats_that_were_summed_in_another_order_are_found(isolated: Settings) -> None:
    """Ten times 0.1 are 1.0; added one by one, as a worker without exact sums would, they are a bit less, and the feature is named."""
    declared = feed("weather_observations_history")
    site = Site(settings=isolated, feed=declared, model=model_of(declared))
    hours = [START + timedelta(hours=hour) for hour in range(10)]
    tables.replace_days(
        isolated, names.cleaned(declared.table.name), observed(declared, hours, {}), "observed_at", START.date(), START.date()
    )
    build(isolated, declared, lambda _: None)
    was, planted = plant(site, "origin_weather__precipitation_1d", "EWR", lambda _: sum([0.1] * 10))
    site.ask(hours[-1] + timedelta(minutes=2))
    found = site.parity()

    assert (was, planted) == (1.0, 0.9999999999999999)
    assert list(found.differing) == ["origin_weather__precipitation_1d"]
    assert {(one.entity["origin"], one.served, one.recomputed) for one in found.examples} == {("EWR", planted, was)}


def test_what_is_kept_is_bounded_and_by_chance(site: Site) -> None:
    """No more than declared, the newest; none that is older than declared; with a share of a tenth about a tenth."""
    monitor = site.model.monitor
    few = replace(site, model=replace(site.model, monitor=replace(monitor, served=Sampling(share=1.0, most=25))))
    at = ROWS[TYPED - 1]["recorded_at"]
    for later in range(3):
        few.ask(at + timedelta(seconds=later))
    with online(site.settings) as connection:
        newest = newest_samples(connection, site.model)
    tenth = replace(site, model=replace(site.model, monitor=replace(monitor, served=Sampling(share=0.1, most=10_000))))
    kept = sum(tenth.ask(at) for _ in range(10))
    none = replace(site, model=replace(site.model, monitor=replace(monitor, served=Sampling(share=1.0, kept_for=timedelta(0)))))
    none.ask(at)
    with online(site.settings) as connection:
        left = newest_samples(connection, site.model)

    assert [sample.asked["decision_at"] for sample in newest[:20]] == [(at + timedelta(seconds=2)).isoformat()] * 20
    assert len(newest) == 25
    assert 5 <= kept <= 40
    assert len(left) <= 20


Command = Callable[..., Result]


@pytest.fixture
def asked(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command, asked about the model of the site."""
    write_stack_env(site.settings, tmp_path)
    monkeypatch.setenv(f"{PREFIX}HOME", str(tmp_path))
    monkeypatch.setattr(commands, "declared", lambda: (site.project, (site.feed,)))
    app = typer.Typer()
    register(app)
    return lambda *options: CliRunner().invoke(app, ["features", "parity", "--model", site.model.name, *options], catch_exceptions=False)


def test_the_command_names_what_differs_and_keeps_it(site: Site, asked: Command) -> None:
    """Without vectors it says so; with a skew its exit code is 1; the finding is what the gate refuses the next promotion by."""
    nothing, before = asked(), served_compared(site.settings, site.model)
    site.ask(ROWS[TYPED - 1]["recorded_at"])
    equal = asked("--all")
    name = "carrier_departures__delay_mean_7d"
    was, planted = plant(site, name, "UA", lambda mean: float(np.nextafter(mean, np.inf)))
    site.ask(ROWS[TYPED - 1]["recorded_at"])
    differing, as_json = asked("--all"), asked("--sample", "20", "--json")
    found, rule = json.loads(as_json.stdout), served_rule(served_compared(site.settings, site.model))
    course = findings(site.settings, site.model)

    assert (nothing.exit_code, before) == (0, None)
    assert "No vectors of flight_delay were kept." in nothing.stdout
    assert (equal.exit_code, equal.stdout) == (0, "20 vectors compared, 0 values differ.\n")
    assert (differing.exit_code, as_json.exit_code) == (1, 1)
    assert f"{name}: 5 of 40 values differ" in differing.stdout
    assert f"{planted!r} was served, {was!r} is right" in differing.stdout
    assert (found["checked"], found["differing"]) == (20, {name: 5})
    assert not rule.passed
    assert name in str(rule)
    assert [(one.checked, sum(one.differing.values())) for one in course] == [(20, 5), (40, 5), (20, 0)]
    assert draw_findings(course).startswith(b"\x89PNG")
