"""A small model of departures with an online store that keeps them, and versions of it that are live, for the tests of the service."""

from dataclasses import replace
from functools import cache

import numpy as np

from pipeline_assets.core.connections import online
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import ObjectStoreSettings, OnlineSettings, Settings
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_records
from pipeline_assets.model_lifecycle.feature_store.online.session import open_session
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.model_lifecycle.training.candidate import Candidate, train_candidate
from pipeline_assets.model_lifecycle.training.dataset import build_training_set
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.serving.realtime.package import files_of, write_package
from pipeline_assets.serving.realtime.selftest import golden_rows
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Binary, Task
from pipeline_assets.use_cases import nyc_flights
from pipeline_assets_tests.model_rows import AS_OF, START, labels, record_of, small_model, vectors
from pipeline_assets_tests.online_departures import PROJECT, departures, feed, table_of

ROWS = departures(np.random.default_rng(30), 60)
FEED = feed("departures_history")
MODEL = replace(small_model("flight_delay"), views=FEED.views)
FLIGHT = {"scheduled_departure_at": "2013-05-04T21:30:00Z", "distance_miles": 2454, "planned_minutes": 360.5}
INSTANCE = {"origin": "EWR", "carrier": "AA", "dest": "LAX", "tailnum": "N1", **FLIGHT}


def model_of(task: Task) -> Model:
    """The small model with another task."""
    return replace(small_model("flight_delay", task), views=FEED.views)


def project_of(*models: Model) -> Project:
    """A project of these models alone."""
    return Project(use_cases=(replace(nyc_flights.use_case, models=models),), tables=PROJECT.tables)


def keep_departures(settings: OnlineSettings) -> None:
    """Builds the feed of departures, in the place of the one that is there."""
    with online(settings) as connection:
        kept = store.begin(connection, FEED)
        store.go_live(connection, kept)
    with open_session(settings, kept) as session:
        keep_records(session, table_of(ROWS), {0: len(ROWS)})


@cache
def candidate(model_seed: int, task: Task = Binary()) -> Candidate:  # noqa: B008 - a declaration, never changed
    """What was learned with a seed; another seed gives another one. Trained once a session."""
    model = model_of(task)
    asked = vectors(model, seed=model_seed)
    rows = build_training_set(model, asked, labels(model, asked), AS_OF)
    return train_candidate(model, record_of(model, rows), rows, lambda _: None)


def files(model: Model, seed: int) -> dict[str, bytes]:
    """The files of the package of a seed."""
    found = candidate(seed, model.task)
    scorer = Scorer.load(found.fitted.artifact, replace(found.contract, model=model.name))
    rows = golden_rows(model, vectors(model, 200), [one.name for one in scorer.contract.features])
    return files_of(scorer, found.fitted.artifact, rows)


def put_package(settings: ObjectStoreSettings, model: Model, version: int, seed: int) -> None:
    """Puts the package of a version on the object store."""
    write_package(settings, model.name, version, files(model, seed))


def promote(settings: Settings, model: Model, version: int) -> ledger.Entry:
    """Writes into the ledger that a version is live."""
    decision = ledger.Decision(version=version, actor="a test", reason="it is needed", live_from=START)
    return ledger.promote(settings, model, decision, expected_version=ledger.live_version(settings, model))
