"""Predictions over HTTP: asked of a real server on loopback, as clients would."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from pipeline_assets.core.settings import PredictionSettings, ServeSettings, Settings
from pipeline_assets.serving.realtime.service.app import Service, build_app
from pipeline_assets_tests.served_models import FEED, INSTANCE, MODEL, ROWS, keep_departures, project_of, promote, put_package
from pipeline_assets_tests.stream_records import until

PREDICT = "/v1/models/flight_delay:predict"
NOW = (ROWS[-1]["recorded_at"] + timedelta(minutes=1)).isoformat()
KNOWN = {**INSTANCE, "decision_at": NOW}


@pytest.fixture
def service(isolated: Settings, tmp_path: Path) -> Service:
    """A service whose model has two packages, the first of which is live."""
    keep_departures(isolated)
    for version in (1, 2):
        put_package(isolated, MODEL, version, version)
    promote(isolated, MODEL, 1)
    own = PredictionSettings.model_construct(**{name: getattr(isolated, name) for name in PredictionSettings.model_fields})
    return Service(settings=own, project=project_of(MODEL), feeds=[FEED], serve=ServeSettings(), folder=tmp_path)


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    """A client of a server of the service."""
    server = uvicorn.Server(uvicorn.Config(build_app(service), host="127.0.0.1", port=0, log_level="warning"))
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


def asked(client: httpx.Client, *instances: Any, **headers: str) -> httpx.Response:
    """The answer to some instances."""
    return client.post(PREDICT, json={"instances": list(instances)}, headers=headers)


def test_predictions_are_those_of_the_features_that_the_store_serves(client: httpx.Client, service: Service) -> None:
    """A known, an unknown and a keyless entity: scores to the bit, the version, and where features come from; the time of each stage."""
    questions = [KNOWN, {**KNOWN, "origin": "XXX"}, {**KNOWN, "tailnum": None}]
    answer = asked(client, *questions)
    found = answer.json()["predictions"]
    predictor = service.predictors[MODEL.name]
    served = service.readers.read(
        MODEL,
        predictor.schema.questions(
            predictor.schema.read(httpx.Request("POST", "http://x", json={"instances": questions}).content), ROWS[-1]["recorded_at"]
        ),
    )
    scores = service.live.serving[MODEL.name].loaded.scorer.score(served.features)

    assert answer.status_code == 200
    assert np.array([one["score"] for one in found]).tobytes() == scores.tobytes()
    assert {one["model_version"] for one in found} == {1}
    assert [one["feature_status"]["origin_departures"] for one in found] == ["fresh", "unknown", "fresh"]
    assert {one["features_from"] for one in found} == {"online"}
    assert len({one["id"] for one in found}) == 3
    assert [part.partition(";")[0] for part in answer.headers["server-timing"].split(", ")] == ["features", "model", "rest"]
