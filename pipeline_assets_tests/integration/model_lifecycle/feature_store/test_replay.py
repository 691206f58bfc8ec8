"""Three months replayed step by step: what was given for each decision at its time is given for it at the end, byte for byte."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from psycopg.sql import SQL

from pipeline_assets.core import connections, names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.names import OBSERVATION_KNOWN_AT
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.streaming.staged.state import stage_state
from pipeline_assets.local_stack.demo_online import compared
from pipeline_assets.local_stack.worlds import Days
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH, feature_hashes
from pipeline_assets.model_lifecycle.feature_store.offline import silent
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.build import build, follow
from pipeline_assets.model_lifecycle.feature_store.online.compare import beside
from pipeline_assets.model_lifecycle.feature_store.online.feeds import feeds_of
from pipeline_assets.model_lifecycle.feature_store.parity import differs
from pipeline_assets.model_lifecycle.feature_store.spine import entity_keys
from pipeline_assets.model_lifecycle.training.dataset import build_training_set
from pipeline_assets.model_lifecycle.training.inputs import read_inputs, read_labels
from pipeline_assets.processing.cleaning.dbt import PROGRAM, between, project_folder, variables
from pipeline_assets.processing.cleaning.manifest import ensure_manifest, read_manifest
from pipeline_assets.processing.cleaning.models import ProjectModels
from pipeline_assets.processing.cleaning.publish import publish
from pipeline_assets.processing.cleaning.raw_tables import load_raw_days, load_raw_snapshot
from pipeline_assets.processing.features.cleaned import midnight, read_observations, snapshots_of
from pipeline_assets.processing.features.materialize import materialize_view
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.models import Split
from pipeline_assets.use_cases import nyc_flights
from pipeline_assets.use_cases.nyc_flights import features
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets.use_cases.nyc_flights.sources import planes
from pipeline_assets_tests.airport_course import DAYS, DEPARTURES, FIRST, SCHEDULE, WEATHER, Course, course, log_between, stage_known
from pipeline_assets_tests.change_logs import put_log

STEP, WEEK, DAY = timedelta(days=15), timedelta(days=7), timedelta(days=1)
VIEWS = (
    features.origin_departures,
    features.route_departures,
    features.aircraft_departures,
    features.origin_weather,
    features.aircraft_attributes,
)
SPLIT = Split(train=2 * WEEK, validation=WEEK, holdout=WEEK)
BLOCKS = SPLIT.train + SPLIT.validation + SPLIT.holdout
MODEL = replace(flight_delay, views=VIEWS, split=SPLIT)
PROJECT = Project(use_cases=(replace(nyc_flights.use_case, models=(MODEL,)),), tables=load_project().tables)
CLEANED = ("flights_history", "departures_history", "weather_observations_history", "aircraft_history")
MODELS = (*(names.stg(table) for table in ("flight_schedule", "flight_departures", "weather", "planes")), *CLEANED)
FEATURES = offline.feature_names(MODEL)
FEEDS = feeds_of(PROJECT, read_manifest(project_folder()))


@dataclass(frozen=True, kw_only=True)
class Given:
    """What is given of some days: their decisions with their vectors, the labels known by their end, and a training as of then, if any."""

    first: date
    last: date
    observations: pa.Table
    vectors: pa.Table
    labels: pa.Table
    training_set: pa.Table | None

    @property
    def end(self) -> datetime:
        """The end of the last day."""
        return midnight(self.last + DAY)


def play(settings: Settings, folder: Path, made: Course) -> Iterator[Given]:
    """What is given of the days of each step at its end, when the sources have brought what was known by then and no more."""
    before: datetime | None = None
    for first in (FIRST + number * STEP for number in range(DAYS // STEP.days)):
        now = midnight(first + STEP)
        changed = bring(settings, folder, made, before, now)
        # As the sensors ask for it: from the first day that holds other rows than before.
        materialize(settings, max(FIRST, min(first, changed)), first + STEP - DAY)
        yield given(settings, first, first + STEP - DAY)
        before = now


def bring(settings: Settings, folder: Path, made: Course, after: datetime | None, until: datetime) -> date:
    """Takes what became known after one time (None: ever) and up to another from the sources to the cleaned tables.

    Returns the first day with decisions about planned flights of which other rows are there than before.
    """
    spans = []
    for contract in (SCHEDULE, DEPARTURES, WEATHER):
        spans.append(stage_known(settings, made, contract, after, until))
        tables.publish_days(settings, contract, *spans[-1])
        load_raw_days(settings, contract, *spans[-1])
    put_log(settings, planes.contract, log_between(made, after, until))
    stage_state(settings, planes, run_id="replay")
    tables.publish_snapshot(settings, versioned(planes.contract))
    load_raw_snapshot(settings, versioned(planes.contract))
    clean(settings, folder, min(first for first, _ in spans), max(last for _, last in spans))
    return spans[0][0] - DAY


def clean(settings: Settings, folder: Path, first: date, last: date) -> None:
    """Has dbt build the models of the days, and publishes what changed: what the assets of cleaning do, without dbt's tests."""
    target = ["--target-path", str(folder), "--log-path", str(folder)]
    command = [str(PROGRAM), "run", "--quiet", *target, "--select", *MODELS, *between(first, last)]
    done = subprocess.run(command, cwd=project_folder(), env=os.environ | variables(settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    models = ProjectModels(project=PROJECT, manifest=json.loads(ensure_manifest(project_folder()).read_text(encoding="utf-8")))
    for table in CLEANED:
        built = models.built(f"model.pipeline.{table}")
        assert built is not None
        publish(settings, built)


def materialize(settings: Settings, first: date, last: date) -> int:
    """Makes features and vectors of days; how many rows of features were computed."""
    computed = sum(materialize_view(settings, view, [MODEL], first, last).computed for view in VIEWS)
    offline.materialize_vectors(settings, MODEL, first, last)
    return computed


def given(settings: Settings, first: date, last: date) -> Given:
    """What is given of the days now, of decisions that were known by their end."""
    end = midnight(last + DAY)
    snapshots = snapshots_of(settings, [names.cleaned(MODEL.observations.table)])
    observations = read_observations(settings, MODEL.observations, first, last, snapshots)
    labels = read_labels(settings, MODEL.label, midnight(FIRST), end)
    return Given(
        first=first,
        last=last,
        observations=_until(observations, "known_at", end),
        vectors=_until(offline.vectors(settings, MODEL, first, last), OBSERVATION_KNOWN_AT, end),
        labels=labels.sort_by([(name, "ascending") for name in labels.column_names]),
        training_set=training_set(settings, end) if end >= midnight(FIRST) + BLOCKS else None,
    )


def _until(rows: pa.Table, column: str, end: datetime) -> pa.Table:
    return rows.filter(pc.less_equal(rows[column], pa.scalar(end, rows.schema.field(column).type)))


def training_set(settings: Settings, as_of: datetime) -> pa.Table:
    """What a training as of a time learns from."""
    inputs = read_inputs(settings, MODEL, as_of)
    return build_training_set(MODEL, inputs.vectors, inputs.labels, inputs.as_of)


def differing(ours: pa.Table, theirs: pa.Table) -> dict[str, int]:
    """In how many rows each feature, or the hash of all, differs in any bit; none where no row does."""
    counts = {name: int(differs(ours[name], theirs[name]).sum()) for name in (*FEATURES, FEATURE_HASH)}
    return {name: count for name, count in counts.items() if count}


def changed_since(settings: Settings, asked: pa.Table, vectors: pa.Table) -> int:
    """How many of the decisions find other features among the rows that stand today alone, as a platform without versions would."""
    found: dict[str, pa.ChunkedArray] = {}
    for view in VIEWS:
        rows = tables.read_all(settings, names.cleaned(view.source.name)).read_all()
        of_view = view_features(view, asked, rows.filter(pc.field("is_current")))
        found |= dict(zip(of_view.column_names, of_view.columns, strict=True))
    return int(np.any([differs(column, vectors[name]) for name, column in found.items()], axis=0).sum())


def keep_online(settings: Settings) -> None:
    """Has the online store follow the lake: views of tables by its commits, those of streams built anew."""
    for feed in FEEDS:
        if feed.stream is not None or follow(settings, feed) is None:
            build(settings, feed, silent)


def differing_online(settings: Settings, step: Given) -> tuple[int, Mapping[str, int]]:
    """At the end of some days, of all entities that were decided about: how many were asked, and the values that differ from offline."""
    keys = step.observations.select(entity_keys(MODEL)).group_by(list(entity_keys(MODEL))).aggregate([])
    spine = keys.append_column(names.DECISION_AT, pa.array([step.end] * keys.num_rows, pa.timestamp("us", "UTC")))
    past = offline.historical_features(settings, PROJECT, MODEL.name, spine, on_notice=silent)
    return keys.num_rows, beside(settings, PROJECT, FEEDS, MODEL.name, spine, past, name="the end").differing


def lose_a_state(settings: Settings) -> None:
    """Removes what the online store has of an airport's departures."""
    (departures,) = [feed for feed in FEEDS if VIEWS[0] in feed.views]
    with connections.online(settings) as connection:
        kept = store.live(connection, departures)
        slot = departures.views.index(VIEWS[0])
        connection.execute(SQL("delete from {} where view = {}").format(kept.state, slot))


@pytest.mark.timeout(600)
def test_what_was_given_is_given_again(isolated: Settings, tmp_path: Path) -> None:
    """Every decision of three months finds at the end what it found at its time: features, vectors, labels and training sets, to the bit.

    Meanwhile plans, departures, weather and aircraft were corrected, moved, deleted, sent again and known late. At the end of each step the
    online store gives what the lake gives; what the demo compares finds a state that is lost.
    """
    steps, online_at_ends = list[Given](), list[tuple[int, Mapping[str, int]]]()
    for step in play(isolated, tmp_path, course()):
        keep_online(isolated)
        online_at_ends.append(differing_online(isolated, step))
        steps.append(step)
    shown = compared(isolated, PROJECT, FEEDS, MODEL, Days(first=steps[-1].first, last=steps[-1].last))
    lose_a_state(isolated)
    lacking = compared(isolated, PROJECT, FEEDS, MODEL, Days(first=steps[-1].first, last=steps[-1].last))
    asked, vectors = (pa.concat_tables([getattr(step, what) for step in steps]) for what in ("observations", "vectors"))
    found = offline.historical_features(isolated, PROJECT, MODEL.name, asked)
    found = found.append_column(FEATURE_HASH, feature_hashes(found, FEATURES))
    computed = materialize(isolated, FIRST, steps[-1].last)
    again = [given(isolated, step.first, step.last) for step in steps]

    assert [different for _, different in online_at_ends] == [{}] * len(steps)
    assert min(asked_for for asked_for, _ in online_at_ends) > 10
    assert (shown.differing, shown.vectors > 10) == ({}, True)
    assert lacking.vectors == shown.vectors
    assert {name.partition("__")[0] for name in lacking.differing} == {VIEWS[0].name}
    assert vectors.num_rows > 1_000
    assert changed_since(isolated, asked, vectors) > vectors.num_rows // 2
    assert computed > vectors.num_rows // 2
    assert differing(found, vectors) == {}
    assert [differing(after.vectors, before.vectors) for after, before in zip(again, steps, strict=True)] == [{}] * len(steps)
    assert all(after.vectors.equals(before.vectors) for after, before in zip(again, steps, strict=True))
    assert all(after.labels.equals(before.labels) for after, before in zip(again, steps, strict=True))
    trained = [(after.training_set, before.training_set) for after, before in zip(again, steps, strict=True) if before.training_set]
    assert len(trained) > len(steps) // 2
    assert [after is not None and after.equals(before) for after, before in trained] == [True] * len(trained)
