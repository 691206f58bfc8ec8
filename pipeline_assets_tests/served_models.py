"""A small model of departures with an online store that keeps them, and versions of it that are live, for the tests of the service."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import AccessSettings, ObjectStoreSettings, OnlineSettings, PredictionSettings, ServeSettings, Settings
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.model_lifecycle.training.candidate import Candidate, train_candidate
from pipeline_assets.model_lifecycle.training.dataset import build_training_set
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.key_file import change_keys
from pipeline_assets.serving.realtime.access.keys import make_key
from pipeline_assets.serving.realtime.access.opened import open_access
from pipeline_assets.serving.realtime.package import files_of, write_package
from pipeline_assets.serving.realtime.selftest import golden_rows
from pipeline_assets.serving.realtime.service.app import Service, build_app
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Task
from pipeline_assets.use_cases import nyc_flights
from pipeline_assets_tests import online_departures
from pipeline_assets_tests.model_rows import AS_OF, START, labels, record_of, small_model, vectors
from pipeline_assets_tests.online_departures import PROJECT, departures, feed
from pipeline_assets_tests.stream_records import until

ROWS = departures(np.random.default_rng(30), 60)
FEED = feed("departures_history")
LEARNED: dict[tuple[int, Task, tuple[str, ...]], Candidate] = {}
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
    online_departures.keep_departures(settings, ROWS)


def put_live(settings: Settings, versions: int = 1) -> Settings:
    """An online store of departures, and so many packages of the model of which the first is live."""
    keep_departures(settings)
    for version in range(1, versions + 1):
        put_package(settings, MODEL, version, version)
    promote(settings, MODEL, 1)
    return settings


def candidate(model: Model, seed: int) -> Candidate:
    """What was learned with a seed; another seed gives another one. Trained once a session for the same task and views."""
    known = seed, model.task, tuple(view.name for view in model.views)
    if known not in LEARNED:
        asked = vectors(model, seed=seed)
        rows = build_training_set(model, asked, labels(model, asked), AS_OF)
        LEARNED[known] = train_candidate(model, record_of(model, rows), rows, lambda _: None)
    return LEARNED[known]


def files(model: Model, seed: int) -> dict[str, bytes]:
    """The files of the package of a seed."""
    found = candidate(model, seed)
    scorer = Scorer.load(found.fitted.artifact, replace(found.contract, model=model.name))
    rows = golden_rows(model, vectors(model, 200), [one.name for one in scorer.contract.features])
    return files_of(scorer, found.fitted.artifact, rows)


def put_package(settings: ObjectStoreSettings, model: Model, version: int, seed: int) -> None:
    """Puts the package of a version on the object store."""
    write_package(settings, model.name, version, files(model, seed))


def service_of(
    settings: Settings, folder: Path, *models: Model, features_ms: int = 2_000, feeds: Sequence[Feed] = (FEED,), **serve: Any
) -> Service:
    """A service of models of departures; reads may take long, as machines of tests are busy. `serve`: other settings of it."""
    own = PredictionSettings.model_construct(**{name: getattr(settings, name) for name in PredictionSettings.model_fields})
    own_serve = ServeSettings(serve_features_ms=features_ms, **serve)
    return Service(settings=own, project=project_of(*models), feeds=feeds, serve=own_serve, folder=folder)


@contextmanager
def client_of(service: Service, folder: Path, *roles: Role) -> Iterator[httpx.Client]:
    """A client, with a key that has the roles, of a server of the service."""
    access = AccessSettings.model_construct(home=folder, serve_keys=folder / "keys.json")
    key, text = make_key("test", roles, now=datetime.now(UTC), lives=timedelta(days=1))
    change_keys(access.keys_file, lambda keys: ({**keys, key.id: key}, None))
    server = uvicorn.Server(uvicorn.Config(build_app(service, open_access(access)), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, headers={"Authorization": f"Bearer {text}"}) as opened:
            yield opened
    finally:
        server.should_exit = True
        thread.join()


def promote(settings: Settings, model: Model, version: int) -> ledger.Entry:
    """Writes into the ledger that a version is live."""
    decision = ledger.Decision(version=version, actor="a test", reason="it is needed", live_from=START)
    return ledger.promote(settings, model, decision, expected_version=ledger.live_version(settings, model))
