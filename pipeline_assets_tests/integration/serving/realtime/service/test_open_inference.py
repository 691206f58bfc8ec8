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


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("is_one", [True, False], ids=["one-tensor", "tensor-per-feature"])
def test_a_foreign_client_gets_the_scores_of_its_vectors(client: httpx.Client, service: Service, *, is_binary: bool, is_one: bool) -> None:
    """Live, ready, metadata, and inference: the scores are those of the model to the bit."""
    scorer = scorer_of(service)
    values = columns(scorer)
    if not is_binary:
        # JSON has no NaN.
        values = {name: np.nan_to_num(column) for name, column in values.items()}
    given = {"features": np.column_stack([*values.values()])} if is_one else values
    inputs = []
    for name, column in given.items():
        tensor = triton.InferInput(name, list(column.shape), "FP64")
        tensor.set_data_from_numpy(column, binary_data=is_binary)
        inputs.append(tensor)
    headers = {"Authorization": client.headers["Authorization"]}
    outputs = [triton.InferRequestedOutput("scores", binary_data=is_binary)]
    with triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as foreign:
        is_live, is_ready = foreign.is_server_live(headers=headers), foreign.is_model_ready(MODEL.name, headers=headers)
        metadata = foreign.get_model_metadata(MODEL.name, headers=headers)
        answer = foreign.infer(MODEL.name, inputs, outputs=outputs, request_id="7", headers=headers)
    expected = scorer.score_values(np.column_stack([*values.values()]).astype(np.float32))

    assert (is_live, is_ready) == (True, True)
    assert [one["name"] for one in metadata["inputs"]] == [one.name for one in scorer.contract.features]
    assert answer.as_numpy("scores").tobytes() == expected.tobytes()
    assert (answer.get_response()["model_version"], answer.get_response()["id"]) == ("1", "7")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"shape": [2, 3]}, 422),
        ({"shape": [-1, 5]}, 422),
        ({"shape": [10**9, 10**9]}, 422),
        ({"datatype": "COMPLEX"}, 422),
        ({"data": None}, 422),
        ({"data": ["far"]}, 422),
        ({"name": "other"}, 422),
        ({"parameters": {"binary_data_size": 8}}, 422),
        ({"shape": "many"}, 422),
    ],
    ids=["shape", "negative", "huge", "type", "no-data", "text", "unknown", "no-bytes", "no-shape"],
)
def test_a_tensor_that_does_not_fit_is_named(client: httpx.Client, service: Service, change: dict[str, Any], status: int) -> None:
    """422, as a problem document."""
    width = len(scorer_of(service).contract.features)
    tensor = {"name": "features", "shape": [1, width], "datatype": "FP64", "data": [0.0] * width, **change}
    answer = client.post(INFER, json={"inputs": [tensor]})

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("length", ["0", "-1", "7", "9999999", "many"])
def test_a_header_length_that_lies_is_refused(client: httpx.Client, length: str) -> None:
    """400 for a binary request whose JSON is not where the header says."""
    headers = {"Inference-Header-Content-Length": length, "Content-Type": "application/octet-stream"}
    answer = client.post(INFER, content=b'{"inputs": []}', headers=headers)

    assert answer.status_code == 400


def test_other_versions_do_not_answer(client: httpx.Client) -> None:
    """404 for a version that does not serve, and the one that does."""
    answer = client.post("/v2/models/flight_delay/versions/7/infer", json={"inputs": []})

    assert answer.status_code == 404
    assert "version 1 does" in answer.json()["detail"]
