"""Three months replayed step by step: what was given for each decision at its time is given for it at the end, byte for byte."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.streaming.staged.state import stage_state
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH, feature_hashes
from pipeline_assets.model_lifecycle.feature_store.parity import count_different
from pipeline_assets.model_lifecycle.training.dataset import build_training_set
from pipeline_assets.model_lifecycle.training.inputs import read_inputs, read_labels
from pipeline_assets.processing.cleaning.dbt import PROGRAM, between, project_folder, variables
from pipeline_assets.processing.cleaning.manifest import ensure_manifest
from pipeline_assets.processing.cleaning.models import ProjectModels
from pipeline_assets.processing.cleaning.publish import publish
from pipeline_assets.processing.cleaning.raw_tables import load_raw_days, load_raw_snapshot
from pipeline_assets.processing.features.cleaned import midnight, read_observations, snapshots_of
from pipeline_assets.processing.features.materialize import materialize_view
from pipeline_assets.processing.features.view import feature_names, view_features
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.models import Split
from pipeline_assets.use_cases import nyc_flights
from pipeline_assets.use_cases.nyc_flights import features
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets.use_cases.nyc_flights.sources import planes
from pipeline_assets_tests.airport_course import DAYS, DEPARTURES, FIRST, SCHEDULE, WEATHER, Course, course, log_between, stage_known
from pipeline_assets_tests.change_logs import put_log

STEP, WEEK = timedelta(days=10), timedelta(days=7)
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
import time as tm
T=tm.time()
ASKED = [*MODEL.observations.keys, MODEL.observations.decision_at]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What was given at the end of a step: its decisions and their vectors, the labels known by then, and a training set from the fourth on."""

    first: date
    last: date
    observations: pa.Table
    vectors: pa.Table
    labels: pa.Table
    training_set: pa.Table | None

    @property
    def end(self) -> datetime:
        """The end of its last day."""
        return midnight(self.last + timedelta(days=1))


def play(settings: Settings, folder: Path, made: Course) -> Iterator[Step]:
    """Thirteen steps, at the end of each of which the sources hold what was known by then and no more."""
    before: datetime | None = None
    for first in (FIRST + number * STEP for number in range(DAYS // STEP.days)):
        step = first, first + STEP - timedelta(days=1)
        now = midnight(first) + STEP
        bring(settings, folder, made, before, now)
        print("brought", tm.time() - T)
        materialize(settings, *step)
        print("made", tm.time() - T)
        yield given(settings, *step)
        before = now


def bring(settings: Settings, folder: Path, made: Course, after: datetime | None, until: datetime) -> None:
    """Takes what became known after one time (None: ever) and up to another from the sources to the cleaned tables."""
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


def clean(settings: Settings, folder: Path, first: date, last: date) -> None:
    """Has dbt build the models of the days, and publishes what changed: what the assets of cleaning do, without dbt's tests."""
    target = ["--target-path", str(folder), "--log-path", str(folder)]
    command = [PROGRAM, "run", "--quiet", *target, "--select", *MODELS, *between(first, last)]
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


def given(settings: Settings, first: date, last: date) -> Step:
    """What is there of the days now."""
    end = midnight(last) + timedelta(days=1)
    snapshots = snapshots_of(settings, [names.cleaned(MODEL.observations.table)])
    labels = read_labels(settings, MODEL.label, midnight(FIRST), end)
    return Step(
        first=first,
        last=last,
        observations=read_observations(settings, MODEL.observations, first, last, snapshots),
        vectors=offline.vectors(settings, MODEL, first, last),
        labels=labels.sort_by([(name, "ascending") for name in labels.column_names]),
        training_set=training_set(settings, end) if end >= midnight(FIRST) + BLOCKS else None,
    )


def training_set(settings: Settings, as_of: datetime) -> pa.Table:
    """What a training as of a time learns from."""
    inputs = read_inputs(settings, MODEL, as_of)
    return build_training_set(MODEL, inputs.vectors, inputs.labels, inputs.as_of)


def differing(ours: pa.Table, theirs: pa.Table) -> dict[str, int]:
    """In how many rows each column differs that does at all, to the bit; the rows themselves must be the same decisions."""
    assert ours.select(ASKED).equals(theirs.select(ASKED))
    counts = {name: count_different(ours[name], theirs[name]) for name in [*offline.feature_names(MODEL), FEATURE_HASH]}
    return {name: count for name, count in counts.items() if count}


def asked_of_current_rows(settings: Settings, step: Step) -> pa.Table:
    """The features of the decisions of a step where only the rows that stand today are known, as in a register without versions."""
    requests = step.observations
    found = []
    for view in VIEWS:
        rows = tables.read_all(settings, names.cleaned(view.source.name)).read_all()
        current = rows.filter(pc.field("is_current"))
        found.append(view_features(view, requests, current).select(feature_names(view)))
    return pa.table({name: column for part in found for name, column in zip(part.column_names, part.columns, strict=True)})


@pytest.mark.timeout(600)
def test_what_was_given_is_given_again(isolated: Settings, tmp_path: Path) -> None:
    """Every decision of three months finds at the end what it found at its time: features, vectors, labels and training sets, to the bit.

    Meanwhile plans, departures, weather and aircraft were corrected, moved, deleted, sent again and known late.
    """
    made = course()
    steps = list(play(isolated, tmp_path, made))
    print(made.counts, sum(w.vectors.num_rows for w in steps))
    import time as tm

    t = tm.time()

    spine = pa.concat_tables([step.observations for step in steps])
    found = offline.historical_features(isolated, PROJECT, MODEL.name, spine)
    found = found.append_column(FEATURE_HASH, feature_hashes(found, offline.feature_names(MODEL)))
    print("a", differing(found, pa.concat_tables([step.vectors for step in steps])), tm.time() - t)
    computed = materialize(isolated, FIRST, steps[-1].last)
    print("computed", computed, tm.time() - t)
    for step in steps:
        again = given(isolated, step.first, step.last)
        print(
            step.first,
            again.vectors.num_rows,
            step.vectors.num_rows,
            again.labels.equals(step.labels),
            step.labels.num_rows,
            again.training_set and again.training_set.equals(step.training_set),
            again.training_set and again.training_set.num_rows,
        )
        o = pl.DataFrame(again.observations)
        n = pl.DataFrame(step.observations)
        print(
            o.join(n, on=["flight_id", "decision_at"], how="anti").select(
                "flight_id", "decision_at", "known_at", "superseded_at", "version"
            )
        )
        print(
            n.join(o, on=["flight_id", "decision_at"], how="anti").select(
                "flight_id", "decision_at", "known_at", "superseded_at", "version"
            )
        )
        cur = asked_of_current_rows(isolated, step)
        print({n: count_different(cur[n], step.vectors[n]) for n in cur.column_names})
    assert 0
