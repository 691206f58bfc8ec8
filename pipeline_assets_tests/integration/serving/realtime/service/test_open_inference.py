"""The Open Inference Protocol, asked by a client that others wrote (tritonclient), and by hand where it goes wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import tritonclient.http as triton

from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.log.record import Logged
from pipeline_assets.serving.realtime.service.app import Service
from pipeline_assets_tests.model_rows import vectors
from pipeline_assets_tests.served_models import MODEL, client_of, promote, put_package, service_of

INFER = "/v2/models/flight_delay/infer"
ROWS = 20


@pytest.fixture
def service(isolated: Settings, tmp_path: Path) -> Service:
    """A service of the model; V2 needs no online store."""
    put_package(isolated, MODEL, 1, 1)
    promote(isolated, MODEL, 1)
    return service_of(isolated, tmp_path, MODEL)


@pytest.fixture
def client(service: Service, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client that may predict."""
    with client_of(service, tmp_path, Role.PREDICT) as opened:
        yield opened


def scorer_of(service: Service) -> Scorer:
    """What the service scores with."""
    return service.live.serving[MODEL.name].loaded.scorer


def columns(scorer: Scorer) -> dict[str, np.ndarray]:
    """Features of some rows, NaN for null."""
    table = vectors(MODEL, ROWS)
    return {one.name: table[one.name].cast(pa.float64()).to_numpy() for one in scorer.contract.features}


UNFIT: dict[str, dict[str, Any]] = {
    "shape": {"shape": [2, 3]},
    "negative": {"shape": [-1, 5]},
    "huge": {"shape": [10**9, 10**9]},
    "type": {"datatype": "COMPLEX"},
    "no data": {"data": None},
    "text": {"data": ["far"]},
    "unknown": {"name": "other"},
    "no bytes": {"parameters": {"binary_data_size": 8}},
    "no shape": {"shape": "many"},
}


def inferred(foreign: triton.InferenceServerClient, values: dict[str, np.ndarray], headers: dict[str, str], *, is_binary: bool) -> bytes:
    """The scores of some tensors, as bytes."""
    inputs = []
    for name, column in values.items():
        tensor = triton.InferInput(name, list(column.shape), "FP64")
        tensor.set_data_from_numpy(column, binary_data=is_binary)
        inputs.append(tensor)
    outputs = [triton.InferRequestedOutput("scores", binary_data=is_binary)]
    # The client adds its own to the headers that it is given.
    answer = foreign.infer(MODEL.name, inputs, outputs=outputs, request_id="7", headers=dict(headers))
    assert (answer.get_response()["model_version"], answer.get_response()["id"]) == ("1", "7")
    assert answer.get_response()["parameters"]["prediction_id"]
    return bytes(answer.as_numpy("scores").tobytes())


def test_a_foreign_client_gets_the_scores_of_its_vectors(client: httpx.Client, service: Service) -> None:
    """Live, ready, metadata, and inference with one tensor or one per feature, binary or JSON: the scores of the model to the bit."""
    scorer, headers = scorer_of(service), {"Authorization": client.headers["Authorization"]}
    # JSON has no NaN.
    values = columns(scorer)
    whole = {name: np.nan_to_num(column) for name, column in values.items()}
    as_one, whole_as_one = ({"features": np.column_stack([*one.values()])} for one in (values, whole))
    with triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as foreign:
        is_live, is_ready = foreign.is_server_live(headers=headers), foreign.is_model_ready(MODEL.name, headers=headers)
        metadata = foreign.get_model_metadata(MODEL.name, headers=headers)
        binary = [inferred(foreign, one, headers, is_binary=True) for one in (values, as_one)]
        as_json = [inferred(foreign, one, headers, is_binary=False) for one in (whole, whole_as_one)]
    expected, of_whole = (scorer.score_values(next(iter(one.values())).astype(np.float32)).tobytes() for one in (as_one, whole_as_one))

    assert (is_live, is_ready) == (True, True)
    assert [one["name"] for one in metadata["inputs"]] == [one.name for one in scorer.contract.features]
    assert binary == [expected, expected]
    assert as_json == [of_whole, of_whole]


def test_what_is_answered_is_logged_and_counted(client: httpx.Client, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record per row, with the vector and the score of each; a key of the caller gives the same id again, what is refused has none."""
    values = {name: column[:3] for name, column in columns(scorer_of(service)).items()}
    inputs = [{"name": name, "shape": [3], "datatype": "FP64", "data": _with_nulls(column)} for name, column in values.items()]
    headers, made = {"Idempotency-Key": "order-7"}, list[Logged]()
    monkeypatch.setattr(service.log, "put_made", lambda _, make: made.extend(make()))
    first, again = (client.post(INFER, json={"inputs": inputs}, headers=headers).json() for _ in range(2))
    alone = client.post(INFER, json={"inputs": [{**one, "shape": [1], "data": one["data"][:1]} for one in inputs]}).json()
    refused = client.post(INFER, json={"inputs": inputs[1:]})
    number = first["parameters"]["prediction_id"]
    numbers = [f"{number}-{row}" for row in range(3)]
    requests = service.metrics.requests(MODEL.name)

    assert refused.status_code == 422
    assert again == first
    assert [one.prediction_id for one in made] == [*numbers, *numbers, alone["parameters"]["prediction_id"]]
    assert [one.scores["score"] for one in made[:3]] == first["outputs"][0]["data"]
    assert [list(one.features.values()) for one in made[:3]] == [list(row) for row in zip(*(one["data"] for one in inputs), strict=True)]
    assert {(one.tier, *map(len, (one.keys, one.request, one.feature_status, one.definitions, one.positions))) for one in made} == {
        ("caller", 0, 0, 0, 0, 0)
    }
    assert [one.request_id for one in made[:3]] == numbers[:1] * 3
    assert requests == 4


def _with_nulls(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def test_a_tensor_that_does_not_fit_is_refused(client: httpx.Client, service: Service) -> None:
    """422, as a problem document, for each way in which a tensor can be unfit."""
    width, found = len(scorer_of(service).contract.features), {}
    for case, change in UNFIT.items():
        tensor = {"name": "features", "shape": [1, width], "datatype": "FP64", "data": [0.0] * width, **change}
        answer = client.post(INFER, json={"inputs": [tensor]})
        found[case] = answer.status_code, answer.headers["content-type"]

    assert found == dict.fromkeys(UNFIT, (422, "application/problem+json"))


def test_a_header_length_that_lies_is_refused(client: httpx.Client) -> None:
    """400 for a binary request whose JSON is not where the header says."""
    headers = {"Content-Type": "application/octet-stream"}
    found = {
        length: client.post(INFER, content=b'{"inputs": []}', headers={**headers, "Inference-Header-Content-Length": length}).status_code
        for length in ("0", "-1", "7", "9999999", "many")
    }

    assert found == dict.fromkeys(found, 400)


def test_other_versions_do_not_answer(client: httpx.Client) -> None:
    """404 for a version that does not serve, and the one that does."""
    answer = client.post("/v2/models/flight_delay/versions/7/infer", json={"inputs": []})

    assert answer.status_code == 404
    assert "version 1 does" in answer.json()["detail"]
