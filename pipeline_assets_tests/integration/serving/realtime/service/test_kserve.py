"""Predictions asked for by KServe's own client, by both of its protocols."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.service.app import Service
from pipeline_assets_tests.model_rows import vectors
from pipeline_assets_tests.served_models import INSTANCE, MODEL, ROWS, client_of, put_live, service_of

KNOWN = {**INSTANCE, "decision_at": ROWS[-1]["recorded_at"].isoformat()}


@pytest.fixture
def service(isolated: Settings, tmp_path: Path) -> Service:
    """A service of the model, with an online store of departures."""
    put_live(isolated)
    return service_of(isolated, tmp_path, MODEL)


@pytest.fixture
def client(service: Service, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client that may predict."""
    with client_of(service, tmp_path, Role.PREDICT) as opened:
        yield opened


def headers_of(client: httpx.Client) -> dict[str, str]:
    """The key of a client as headers."""
    return {"Authorization": client.headers["Authorization"]}


def test_it_asks_for_predictions_of_instances(client: httpx.Client) -> None:
    """V1: the model is ready, scores and explanations are those that any client gets; what is unfit is an error of its own."""
    base, headers, body = str(client.base_url), headers_of(client), {"instances": [KNOWN, {**KNOWN, "origin": "XXX"}]}

    async def asked() -> tuple[bool, dict[str, Any], dict[str, Any], str]:
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as foreign:
            is_ready = await foreign.is_model_ready(base, MODEL.name, headers=headers)
            answer = await foreign.infer(base, body, MODEL.name, headers=headers)
            why = await foreign.explain(base, MODEL.name, body, headers=headers)
            with pytest.raises(httpx.HTTPStatusError) as refused:
                await foreign.infer(base, {"instances": [{**KNOWN, "colour": "red"}]}, MODEL.name, headers=headers)
        return is_ready, answer, why, str(refused.value)

    is_ready, answer, why, problem = asyncio.run(asked())
    own = client.post(f"/v1/models/{MODEL.name}:predict", json=body).json()["predictions"]

    assert is_ready is True
    assert [one["score"] for one in answer["predictions"]] == [one["score"] for one in own]
    assert {one["features_from"] for one in answer["predictions"]} == {"online"}
    assert [one["score"] for one in why["explanations"]] == [one["score"] for one in own]
    assert "422" in problem


def test_it_asks_for_scores_of_tensors(client: httpx.Client, service: Service) -> None:
    """V2: live, ready, and the scores of its vectors to the bit, as JSON and as binary tensors."""
    scorer, base, headers = service.live.serving[MODEL.name].loaded.scorer, str(client.base_url), headers_of(client)
    table = vectors(MODEL, 20)
    values = np.nan_to_num(np.column_stack([table[one.name].cast(pa.float64()).to_numpy() for one in scorer.contract.features]))

    async def asked() -> tuple[list[bool], list[bytes]]:
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as foreign:
            are = [
                await foreign.is_server_live(base, headers=headers),
                await foreign.is_server_ready(base, headers=headers),
                await foreign.is_model_ready(base, MODEL.name, headers=headers),
            ]
            scores = []
            for is_binary in (False, True):
                tensor = InferInput("features", list(values.shape), "FP64")
                tensor.set_data_from_numpy(values, binary_data=is_binary)
                request = InferRequest(MODEL.name, [tensor])
                answer = await foreign.infer(base, request, MODEL.name, headers=dict(headers))
                scores.append(answer.outputs[0].as_numpy().astype(np.float64).tobytes())
        return are, scores

    are, scores = asyncio.run(asked())
    expected = scorer.score_values(values.astype(np.float32)).tobytes()

    assert are == [True, True, True]
    assert scores == [expected, expected]
