"""Labels and corrections by prediction id, answered once they are in their topic."""

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline_assets.core.prediction_streams import prediction_feedback
from pipeline_assets.serving.realtime.access.callers import caller_of
from pipeline_assets.serving.realtime.log.events import answer_of
from pipeline_assets.serving.realtime.log.feedback import Feedback, send_feedback
from pipeline_assets.serving.realtime.service.bodies import check_rows, read_body
from pipeline_assets.serving.realtime.service.problems import Problem, shown
from pipeline_assets.serving.realtime.service.schema import MOST_INSTANCES, Moment
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Binary, Multiclass

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.service.app import Service


class Row(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What came of a prediction; a label of null takes back an earlier one."""

    prediction_id: str
    label: bool | int | float | str | None
    given_at: Moment | None = None


class Given(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request."""

    instances: list[Row]


DECODER = msgspec.json.Decoder(Given)


def routes(service: "Service") -> list[Route]:
    """The route that takes labels."""

    async def feedback(request: Request) -> Response:
        model = service.project.model(request.path_params["model"])
        rows = _read(model, await read_body(request))
        check_rows(request, len(rows))
        actor = caller_of(request.scope).name
        sent = [
            Feedback(prediction_id=one.prediction_id, model=model.name, label=one.label, actor=actor, given_at=one.given_at) for one in rows
        ]
        return answer_of(prediction_feedback.contract.name, await send_feedback(service.producer, sent))

    return [Route("/v1/models/{model}:feedback", feedback, methods=["POST"], name="feedback")]


def _read(model: Model, body: bytes) -> list[Row]:
    """The labels of a request; raises Problem that names row and field."""
    try:
        rows = DECODER.decode(body).instances
    except msgspec.ValidationError as error:
        raise Problem(422, "Unfit", f"{shown(str(error))}.", model=model.name) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Problem(400, "NoJson", f"The body is no JSON: {shown(str(error))}.", model=model.name) from None
    if not 0 < len(rows) <= MOST_INSTANCES:
        raise Problem(413 if rows else 422, "RowsUnfit", f"`instances` has {len(rows)} rows, expected 1 to {MOST_INSTANCES:,}.")
    for place, row in enumerate(rows):
        expected = _unfit(model, row.label)
        if expected is not None:
            detail = f"Row {place}: the label {shown(repr(row.label))} is not {expected}, as model '{model.name}' has it."
            raise Problem(422, "LabelUnfit", detail, model=model.name, row=place, field="label")
    return rows


def _unfit(model: Model, label: Any) -> str | None:
    """What was expected of a label that the task of a model cannot have; None of one that it can."""
    if label is None:
        return None
    if isinstance(model.task, Binary):
        return None if isinstance(label, bool) else "true or false"
    if isinstance(model.task, Multiclass):
        return None if label in model.task.classes else f"one of {', '.join(model.task.classes)}"
    return None if isinstance(label, int | float) and not isinstance(label, bool) else "a number"
