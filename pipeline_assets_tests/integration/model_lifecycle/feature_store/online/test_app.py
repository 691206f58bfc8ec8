"""Online features over HTTP: asked of a real server on loopback, as a client would."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
import uvicorn
from pydantic import SecretStr

from pipeline_assets.core.connections import online
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import OnlineSettings, Settings
from pipeline_assets.model_lifecycle.feature_store.online.app import MOST_INSTANCES, build_app
from pipeline_assets.model_lifecycle.feature_store.online.pool import MOST_CONNECTIONS
from pipeline_assets.model_lifecycle.feature_store.online.served import Sample, newest_samples
from pipeline_assets.processing.features.catalogue import feature_columns
from pipeline_assets.spec.monitors import Sampling
from pipeline_assets.use_cases import nyc_flights
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.online_departures import PROJECT, departures, feed, keep_departures
from pipeline_assets_tests.stream_records import until

EVERY = replace(flight_delay.monitor, served=Sampling(share=1.0))
MODEL = replace(flight_delay, views=feed("departures_history").views, monitor=EVERY)
ROWS = departures(np.random.default_rng(30), 60)
NOW = (ROWS[-1]["recorded_at"] + timedelta(minutes=1)).isoformat()
FLIGHT = {"scheduled_departure_at": "2013-05-04T21:30:00Z", "distance_miles": 2454, "planned_minutes": 360.5}
KEYS = {"origin": "EWR", "carrier": "AA", "dest": "LAX", "tailnum": "N1"}
KNOWN = {**KEYS, **FLIGHT, "decision_at": NOW}


@pytest.fixture
def database(stores: Settings, fresh_database: Callable[..., SecretStr]) -> OnlineSettings:
    """An online store that has the departures."""
    settings = OnlineSettings.model_construct(home=stores.home, online_dsn=fresh_database(stores.online_dsn))
    keep_departures(settings, ROWS)
    return settings


@pytest.fixture
def client(database: OnlineSettings) -> Iterator[httpx.Client]:
    """A client of a server of these departures."""
    project = Project(use_cases=(replace(nyc_flights.use_case, models=(MODEL,)),), tables=PROJECT.tables)
    server = uvicorn.Server(
        uvicorn.Config(build_app(database, project, [feed("departures_history")]), host="127.0.0.1", port=0, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as opened:
            yield opened
    finally:
        server.should_exit = True
        thread.join()


def test_instances_are_answered_in_their_order(client: httpx.Client) -> None:
    """A known, an unknown and a keyless entity: values, a status for each view, and how far the source was followed."""
    asked = [KNOWN, {**KNOWN, "origin": "XXX"}, {**KNOWN, "tailnum": None}]
    answer = client.post("/v1/features/flight_delay", json={"instances": asked})
    found = answer.json()["instances"]

    assert answer.status_code == 200
    assert [one["status"]["origin_departures"] for one in found] == ["fresh", "unknown", "fresh"]
    assert [one["status"]["aircraft_departures"] for one in found] == ["fresh", "fresh", "unknown"]
    assert found[0]["features"]["origin_departures__late_rate_7d"] > 0
    assert found[1]["features"]["origin_departures__flights_1h"] == 0
    assert found[0]["known_to"]["origin_departures"] == ROWS[-1]["recorded_at"].isoformat()
    assert answer.json()["positions"]["departures_history:stream"]["offsets"] == {"0": len(ROWS)}


def test_features_of_the_request_stand_behind_those_of_views(client: httpx.Client) -> None:
    """All features come in the order of the model; those of the request are what the past has of the same values, null of null."""
    asked = [KNOWN, {**KNOWN, "origin": "XXX", "distance_miles": None}]
    found = [one["features"] for one in client.post("/v1/features/flight_delay", json={"instances": asked}).json()["instances"]]

    assert list(found[0]) == [column.name for column in feature_columns(MODEL)]
    assert [found[0][f"request__{name}"] for name in ("hour", "weekday", "distance_miles", "planned_minutes")] == [17, 6, 2454.0, 360.5]
    assert [found[1][f"request__{name}"] for name in ("hour", "distance_miles", "origin")] == [17, None, None]


def test_what_was_served_is_kept_with_its_position(client: httpx.Client, database: OnlineSettings) -> None:
    """Question and answer as they were, after the answer was given."""

    def kept() -> Sequence[Sample]:
        with online(database) as connection:
            return newest_samples(connection, MODEL)

    answer = client.post("/v1/features/flight_delay", json={"instances": [KNOWN, {**KNOWN, "origin": "XXX"}]}).json()
    second, first = until(kept, lambda samples: len(samples) == 2)

    assert [dict(one.features) for one in (first, second)] == [one["features"] for one in answer["instances"]]
    assert (dict(first.asked), second.asked["origin"]) == (KNOWN, "XXX")
    assert [dict(one.offsets) for one in first.positions] == [{0: len(ROWS)}]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"instances": []}, 422, "no list `instances`"),
        ([], 422, "no list `instances`"),
        ({"instances": [1]}, 422, "Instance 0 is no object"),
        ({"instances": [{**KNOWN, "orign": "EWR"}]}, 422, "Instance 0 has 'orign', which is no entity key"),
        ({"instances": [KNOWN, {**KNOWN, "origin": 1.5}]}, 422, "Instance 1: the entity key 'origin'"),
        ({"instances": [{**KNOWN, "origin": True}]}, 422, "the entity key 'origin' is missing, or neither text"),
        ({"instances": [KNOWN, {**KNOWN, "origin": 7}]}, 422, "'origin' is of one type in one instance and of another in another"),
        ({"instances": [KNOWN, KEYS]}, 422, "Instance 1 of the request lacks 'scheduled_departure_at'"),
        ({"instances": [{**KNOWN, "distance_miles": "far"}]}, 422, "column 'distance_miles' holds 'far' in row 1"),
        ({"instances": [{**KNOWN, "distance_miles": [1]}]}, 422, "Instance 0: 'distance_miles' is neither text"),
        ({"instances": [{**KNOWN, "origin": 2**70}]}, 422, "too large"),
        ({"instances": [{**KNOWN, "decision_at": "2013-05-01T12:00:00"}]}, 422, "no time with a zone"),
        ({"instances": [{**KNOWN, "decision_at": 5}]}, 422, "'decision_at' is no text"),
        ({"instances": [{**KNOWN, "decision_at": "2013-05-01T12:00:00Z"}]}, 422, "the online store knows it from"),
        ({"instances": [KNOWN] * (MOST_INSTANCES + 1)}, 413, "no more than 1,000 are answered at once"),
    ],
)
def test_what_cannot_be_answered_is_a_problem_that_names_it(client: httpx.Client, body: Any, status: int, detail: str) -> None:
    """Each is a problem document with its status, the instance and the field."""
    answer = client.post("/v1/features/flight_delay", json=body)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert detail in answer.json()["detail"]


def test_other_bodies_and_models_are_refused(client: httpx.Client) -> None:
    """No JSON, JSON that is nested too deep, another type, a body that is too large, a text that is no Unicode, an unknown model."""
    kind = {"content-type": "application/json"}
    path = "/v1/features/flight_delay"
    surrogate = b'{"instances": [{"origin": "\\ud800", "carrier": "A", "dest": "B", "tailnum": "C"}]}'

    assert client.post(path, content=b"{", headers=kind).status_code == 400
    assert client.post(path, content=b"[" * 100_000, headers=kind).status_code == 400
    assert client.post(path, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post(path, content=b" " * 1_000_001, headers=kind).status_code == 413
    assert client.post(path, content=surrogate, headers=kind).status_code == 422
    assert client.post("/v1/features/nobody", json={"instances": [KNOWN]}).status_code == 404
    assert client.get(path).status_code == 405


def test_a_feed_that_is_built_anew_is_read_on(client: httpx.Client, database: OnlineSettings) -> None:
    """The tables of the version that was read are gone; the next question is answered from the new ones."""
    before = client.post("/v1/features/flight_delay", json={"instances": [KNOWN]})
    keep_departures(database, ROWS)
    after = client.post("/v1/features/flight_delay", json={"instances": [KNOWN]})

    assert (before.status_code, after.status_code) == (200, 200)
    assert after.json()["instances"] == before.json()["instances"]


def test_many_questions_share_few_connections_that_may_break(client: httpx.Client, database: OnlineSettings) -> None:
    """Forty at once are answered by no more connections than are allowed, and the next after the server has ended them all."""
    own = "from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database() and backend_type = 'client backend'"
    with ThreadPoolExecutor(40) as threads:
        asked = [threads.submit(client.post, "/v1/features/flight_delay", json={"instances": [KNOWN] * 20}) for _ in range(40)]
        found = {one.result().status_code for one in asked}
    with psycopg.connect(database.online_dsn.get_secret_value(), autocommit=True) as connection:
        ended: dict[int, bool] = dict(connection.execute(f"select pid, pg_terminate_backend(pid, 5000) {own}").fetchall())
        left = {pid for (pid,) in connection.execute(f"select pid {own}")}
    after = client.post("/v1/features/flight_delay", json={"instances": [KNOWN]})

    assert found == {200}
    assert 1 <= len(ended) <= MOST_CONNECTIONS + 1
    # One that keeps samples of answers may end by itself meanwhile; the pool may have made others since.
    assert sum(ended.values()) >= len(ended) - 1
    assert not left & ended.keys()
    assert after.status_code == 200
