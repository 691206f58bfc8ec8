"""The Open Inference Protocol (V2), for callers that bring the features themselves: tensors in, tensors out, as JSON or binary.

The input is either one tensor `features` of shape [rows, features] in the model's order, or one tensor of shape [rows] or [rows, 1] per
feature by its name. Numbers are what a vector has: null as NaN in binary tensors, as null in JSON; categories as their codes, text of
learned categories as BYTES. Output: `scores`, FP64, of shape [rows] or [rows, classes]. The parameter `prediction_id` of an answer is the
id of its prediction; of several rows that of row n (from 0) is `prediction_id-n`.
"""

import asyncio
import struct
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline_assets.model_lifecycle.training.contract import ModelContract, ModelFeature
from pipeline_assets.processing.features.arrays import FeatureArrays
from pipeline_assets.serving.realtime.service.bodies import JSON, check_rows, read_body
from pipeline_assets.serving.realtime.service.features import Found
from pipeline_assets.serving.realtime.service.ids import prediction_ids
from pipeline_assets.serving.realtime.service.live import Serving
from pipeline_assets.serving.realtime.service.predictor import Answered, Part
from pipeline_assets.serving.realtime.service.problems import Problem, shown
from pipeline_assets.serving.realtime.service.schema import MOST_INSTANCES

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.service.app import Service

BINARY, LENGTH_HEADER = "application/octet-stream", "inference-header-content-length"
FEATURES, SCORES = "features", "scores"
DTYPES: dict[str, str] = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "INT32": "<i4", "INT16": "<i2", "INT8": "i1", "BOOL": "?"}
WIDTH_OF_LENGTH = 4
ENCODER = msgspec.json.Encoder()
NO_QUESTIONS = pa.table({})


class Parameters(msgspec.Struct, kw_only=True):
    """Of a tensor: how many bytes of the body are its own; of an output whether it is wanted in binary."""

    binary_data_size: int | None = None
    binary_data: bool | None = None
    binary_data_output: bool | None = None


class Tensor(msgspec.Struct, kw_only=True):
    """An input."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: Parameters = msgspec.field(default_factory=Parameters)


class Output(msgspec.Struct, kw_only=True):
    """An output that is asked for."""

    name: str
    parameters: Parameters = msgspec.field(default_factory=Parameters)


class Infer(msgspec.Struct, kw_only=True):
    """A request."""

    inputs: list[Tensor]
    id: str | None = None
    outputs: list[Output] = []
    parameters: Parameters = msgspec.field(default_factory=Parameters)


DECODER = msgspec.json.Decoder(Infer)
Column = list[Any] | npt.NDArray[Any]


def routes(service: "Service") -> list[Route]:
    """The routes of V2."""

    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        waiting = sorted(name for name in service.live.problems if name not in service.live.serving)
        is_ready = service.is_ready
        return _json({"ready": is_ready, "waiting": waiting}, 200 if is_ready else 503)

    async def metadata(request: Request) -> Response:
        return _json(described(_serving(service, request)))

    async def model_ready(request: Request) -> Response:
        is_ready = service.version(request.path_params["model"]) is not None
        return _json({"name": request.path_params["model"], "ready": is_ready}, 200 if is_ready else 503)

    async def infer(request: Request) -> Response:
        began, name = time.perf_counter(), service.predictor(request.path_params["model"]).model.name
        try:
            serving, body = _serving(service, request), await _body(request)
            asked, binary = _request(request, body)
            table = await asyncio.to_thread(_features, serving.loaded.contract, asked, binary)
            check_rows(request, table.num_rows)
            (number,) = prediction_ids(request, name, body, 1)
            part = await asyncio.to_thread(_inferred, serving, table)
        except Exception as error:
            service.metrics.failed(name, error)
            raise
        service.metrics.answered(part.of)
        service.answered(request, part, row_ids(number, part.rows))
        service.metrics.took(name, time.perf_counter() - began)
        return _answer(asked, part, number)

    found = [Route("/v2/health/live", live, name="health_live"), Route("/v2/health/ready", ready, name="health_ready")]
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        found += [
            Route(path, metadata, name="metadata"),
            Route(f"{path}/ready", model_ready, name="model_ready"),
            Route(f"{path}/infer", infer, methods=["POST"], name="infer"),
        ]
    return found


def described(serving: Serving) -> dict[str, Any]:
    """A version as its metadata has it."""
    contract = serving.loaded.contract
    inputs = [{"name": one.name, "datatype": "BYTES" if one.type == "text" else "FP64", "shape": [-1]} for one in contract.features]
    outputs = [{"name": SCORES, "datatype": "FP64", "shape": [-1, len(contract.classes)] if contract.classes else [-1]}]
    return {"name": contract.model, "versions": [str(serving.loaded.version)], "platform": "xgboost", "inputs": inputs, "outputs": outputs}


def _serving(service: "Service", request: Request) -> Serving:
    name, version = request.path_params["model"], request.path_params.get("version")
    serving = service.version(name)
    if serving is None:
        raise Problem(503, "NothingLive", f"No version of model '{name}' serves.", retry_after=5, model=name)
    if version is not None and version != str(serving.loaded.version):
        detail = f"Version {shown(version)} of model '{name}' does not serve; version {serving.loaded.version} does."
        raise Problem(404, "NotServing", detail, model=name)
    return serving


def row_ids(number: str, rows: int) -> Sequence[str]:
    """The ids of the predictions of an answer."""
    return [number] if rows == 1 else [f"{number}-{row}" for row in range(rows)]


async def _body(request: Request) -> bytes:
    return await read_body(request, BINARY if LENGTH_HEADER in request.headers else JSON, is_optional=True)


def _request(request: Request, body: bytes) -> tuple[Infer, memoryview]:
    """The request, and the bytes of its binary tensors."""
    length = request.headers.get(LENGTH_HEADER)
    size = len(body) if length is None else int(length) if length.isdecimal() else -1
    if not 0 < size <= len(body):
        raise Problem(400, "HeaderUnfit", f"`Inference-Header-Content-Length` is {shown(str(length))}, and the body has {len(body)} bytes.")
    try:
        return DECODER.decode(body[:size]), memoryview(body)[size:]
    except msgspec.ValidationError as error:
        raise Problem(422, "Unfit", f"{shown(str(error))}.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Problem(400, "NoJson", f"The body is no JSON: {shown(str(error))}.") from None


def _features(contract: ModelContract, asked: Infer, binary: memoryview) -> pa.Table:
    """The features that the caller brought, in the model's order."""
    tensors, rest = dict[str, tuple[Tensor, Column]](), binary
    for one in asked.inputs:
        if one.name in tensors:
            raise Problem(422, "Doubled", f"Input '{shown(one.name)}' is there more than once.", model=contract.model)
        column, rest = _values(contract, one, rest)
        tensors[one.name] = one, column
    if len(rest):
        raise Problem(422, "TooLong", f"The body has {len(rest)} bytes that belong to no input.", model=contract.model)
    unknown = [one.name for one in asked.outputs if one.name != SCORES]
    if unknown:
        raise Problem(422, "UnknownOutput", f"There is no output '{shown(unknown[0])}'; there is '{SCORES}'.", model=contract.model)
    return _table(contract, tensors)


def _inferred(serving: Serving, features: pa.Table) -> Part:
    """The answer of a version to features; raises ValueUnfit for values that it cannot take."""
    asked_at, began = datetime.now(UTC), time.perf_counter()
    scores, rows = serving.loaded.scorer.score(features), features.num_rows
    whole = Answered(
        serving=serving,
        asked_at=asked_at,
        questions=NO_QUESTIONS,
        found=Found(arrays=FeatureArrays.of_table(features), statuses={}, tiers=["caller"] * rows, known_to={}, positions={}),
        scores=scores,
        features_ms=0.0,
        model_ms=(time.perf_counter() - began) * 1000,
    )
    return Part(of=whole, first=0, rows=rows)


def _values(contract: ModelContract, tensor: Tensor, binary: memoryview) -> tuple[Column, memoryview]:
    """The values of an input in a flat list, and the bytes after its own."""
    count, size = 1, tensor.parameters.binary_data_size
    for length in tensor.shape:
        count *= max(length, 0)
    most = MOST_INSTANCES * max(len(contract.features), 1)
    if not 0 < count <= most:
        raise _unfit(contract, tensor, f"has the shape {tensor.shape[:8]}, expected 1 to {MOST_INSTANCES:,} rows")
    if size is None:
        if tensor.data is None or tensor.datatype not in {*DTYPES, "BYTES"}:
            raise _unfit(contract, tensor, f"has no `data`, or the unknown datatype {shown(tensor.datatype)}")
        flat = _flat(tensor.data, most)
        if len(flat) != count:
            raise _unfit(contract, tensor, f"has {len(flat)} values, expected {count} by its shape")
        return flat, binary
    if tensor.data is not None or not 0 <= size <= len(binary):
        raise _unfit(contract, tensor, f"has {size} binary bytes beside its `data`, or more than the {len(binary)} that are there")
    return _from_bytes(contract, tensor, binary[:size], count), binary[size:]


def _from_bytes(contract: ModelContract, tensor: Tensor, own: memoryview, count: int) -> Column:
    if tensor.datatype == "BYTES":
        return _texts(contract, tensor, own, count)
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None or np.dtype(dtype).itemsize * count != len(own):
        raise _unfit(contract, tensor, f"has {len(own)} bytes of {shown(tensor.datatype)} for {count} values")
    return np.frombuffer(own, dtype)


def _texts(contract: ModelContract, tensor: Tensor, own: memoryview, count: int) -> list[str]:
    """BYTES: each element is its length in four bytes, little-endian, and then itself."""
    found, place = list[str](), 0
    while place < len(own) and len(found) < count:
        end = place + WIDTH_OF_LENGTH
        size = struct.unpack("<I", own[place:end])[0] if end <= len(own) else len(own)
        if end + size > len(own):
            raise _unfit(contract, tensor, "ends within a text")
        try:
            found.append(bytes(own[end : end + size]).decode())
        except UnicodeDecodeError:
            raise _unfit(contract, tensor, f"has a text that is no UTF-8, element {len(found)}") from None
        place = end + size
    if len(found) != count or place != len(own):
        raise _unfit(contract, tensor, f"has {len(found)} texts for {count}")
    return found


def _flat(data: list[Any], most: int) -> list[Any]:
    """The values in row-major order, whether they are nested or not."""
    while data and all(isinstance(one, list) for one in data):
        data = [value for row in data for value in row]
        if len(data) > most:
            break
    return data


def _table(contract: ModelContract, tensors: dict[str, tuple[Tensor, Column]]) -> pa.Table:
    """The rows as columns, in the model's order; raises Problem that names what is missing, unknown or unfit."""
    names = [one.name for one in contract.features]
    if tensors.keys() == {FEATURES} and FEATURES not in names:
        tensor, values = tensors[FEATURES]
        if tensor.shape[1:] != [len(names)]:
            raise _unfit(contract, tensor, f"has the shape {tensor.shape[:8]}, expected [rows, {len(names)}]")
        columns: dict[str, Column] = {name: values[place :: len(names)] for place, name in enumerate(names)}
    else:
        columns = {name: values for name, (_, values) in tensors.items()}
    missing, unknown = [name for name in names if name not in columns], [name for name in columns if name not in names]
    if missing or unknown:
        detail = f"Input '{shown((missing or unknown)[0])}' is {'missing' if missing else 'no feature'} of model '{contract.model}'."
        raise Problem(422, "InputsUnfit", detail, model=contract.model, field=shown((missing or unknown)[0]))
    if len({len(one) for one in columns.values()}) > 1:
        raise Problem(422, "InputsUnfit", "The inputs have different numbers of rows.", model=contract.model)
    return pa.table({one.name: _arrow(contract, one, columns[one.name]) for one in contract.features})


def _arrow(contract: ModelContract, feature: ModelFeature, values: Column) -> pa.Array:
    try:
        if feature.type == "text":
            return pa.array(values, pa.string())
        # NaN is how a tensor says null.
        return pa.array(np.array(values, np.float64), pa.float64(), from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        expected = "texts" if feature.type == "text" else "numbers"
        raise Problem(
            422, "InputsUnfit", f"Input '{feature.name}' has other values than {expected}.", model=contract.model, field=feature.name
        ) from None


def _answer(asked: Infer, part: Part, number: str) -> Response:
    """The answer: in binary where the output or the request asks for that."""
    scores, loaded = part.scores, part.of.serving.loaded
    wanted = asked.outputs[0].parameters.binary_data if asked.outputs else asked.parameters.binary_data_output
    output: dict[str, Any] = {"name": SCORES, "datatype": "FP64", "shape": list(scores.shape)}
    found: dict[str, Any] = {
        "model_name": loaded.model.name,
        "model_version": str(loaded.version),
        "parameters": {"prediction_id": number},
        "outputs": [output],
    }
    if asked.id is not None:
        found["id"] = asked.id
    if not wanted:
        output["data"] = scores.reshape(-1).tolist()
        return _json(found)
    tail = scores.astype("<f8").tobytes()
    output["parameters"] = {"binary_data_size": len(tail)}
    head = ENCODER.encode(found)
    return Response(head + tail, headers={LENGTH_HEADER: str(len(head))}, media_type=BINARY)


def _unfit(contract: ModelContract, tensor: Tensor, problem: str) -> Problem:
    return Problem(422, "InputUnfit", f"Input '{shown(tensor.name)}' {problem}.", model=contract.model, field=shown(tensor.name))


def _json(found: dict[str, Any], status: int = 200) -> Response:
    return Response(ENCODER.encode(found), status, media_type=JSON)
