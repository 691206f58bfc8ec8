"""The OpenAPI document of the service, made from the declarations of its models."""

from collections.abc import Mapping
from typing import Any

import msgspec

from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.core.project import Project
from pipeline_assets.model_lifecycle.feature_store.online.app import PROBLEM
from pipeline_assets.serving.realtime.service.schema import DAY, EITHER, NUMBER, TIME, TRUTH, WHOLE, Field, RequestSchema
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Binary, Multiclass

EXAMPLES: tuple[tuple[object, Any], ...] = (
    (WHOLE, 7),
    (NUMBER, 1.5),
    (TRUTH, True),
    (DAY, "2013-06-30"),
    (TIME, "2013-06-30T12:00:00Z"),
    (EITHER, "A1"),
)


def document(project: Project, schemas: Mapping[str, RequestSchema]) -> bytes:
    """The document, with a path of its own for each model, as each has fields of its own."""
    paths: dict[str, Any] = {"/v1/models": {"get": _get("models", "The models.")}}
    components: dict[str, Any] = {"Problem": PROBLEM_SCHEMA}
    for model in project.models:
        schema = schemas[model.name]
        (found,), own = msgspec.json.schema_components([schema.request], ref_template="#/components/schemas/{name}")
        components |= own
        body = {"required": True, "content": {"application/json": {"schema": found, "example": {"instances": [example(schema)]}}}}
        name = model.name
        paths[f"/v1/models/{name}"] = {"get": _get(f"model_{name}", model.question)}
        paths[f"/v1/models/{name}:predict"] = {"post": _post(f"predict_{name}", model.question, body, _predictions(model))}
        paths[f"/v1/models/{name}:explain"] = {"post": _post(f"explain_{name}", f"Why: {model.question}", body, {"type": "object"})}
        paths[f"/v1/models/{name}:feedback"] = {
            "post": _post(f"feedback_{name}", f"What came of it: {model.question}", FEEDBACK, {"type": "object"})
        }
    for path, what in (("/v2/health/live", "It runs."), ("/v2/health/ready", "Every live model serves.")):
        paths[path] = {"get": _get(path.rpartition("/")[2], what, may_be_unready=True)}
    found_document = {
        "openapi": "3.1.0",
        "info": {"title": "Predictions", "version": "1", "description": "The live version of each model answers."},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}],
    }
    return msgspec.json.encode(found_document)


def example(schema: RequestSchema) -> dict[str, Any]:
    """An instance that a model takes."""
    return {one.name: example_of(one) for one in schema.fields if one.name != DECISION_AT}


def example_of(field: Field) -> Any:
    """A value that a field takes."""
    return next((value for kind, value in EXAMPLES if kind is field.kind), "A")


def _predictions(model: Model) -> dict[str, Any]:
    number: dict[str, Any] = {"type": "number"}
    if isinstance(model.task, Multiclass):
        scores = {"type": "object", "properties": dict.fromkeys(model.task.classes, number)}
        own = {"scores": scores, "predicted": {"enum": list(model.task.classes)}}
    else:
        own = {"score" if isinstance(model.task, Binary) else "value": number}
    one = {
        "type": "object",
        "required": ["id", "model_version", "feature_status", "features_from", *own],
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            **own,
            "model_version": {"type": "integer"},
            "feature_status": {"type": "object", "additionalProperties": {"enum": ["fresh", "stale", "default", "unknown"]}},
            "features_from": {"enum": ["online", "last_good", "default"]},
        },
    }
    return {"type": "object", "required": ["predictions"], "properties": {"predictions": {"type": "array", "items": one}}}


def _get(name: str, what: str, *, may_be_unready: bool = False) -> dict[str, Any]:
    unready = (
        {"503": {"description": "Not yet.", "content": {"application/json": {"schema": {"type": "object"}}}}} if may_be_unready else {}
    )
    return {
        "operationId": name,
        "summary": what,
        "responses": {"200": {"description": what, "content": {"application/json": {"schema": {"type": "object"}}}}, **unready, **REFUSED},
    }


def _post(name: str, what: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    done = {"description": what, "content": {"application/json": {"schema": answer}}}
    return {"operationId": name, "summary": what, "requestBody": body, "responses": {"200": done, **REFUSED}}


FEEDBACK: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["instances"],
                "properties": {
                    "instances": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["prediction_id", "label"],
                            "properties": {
                                "prediction_id": {"type": "string"},
                                "label": {"type": ["boolean", "number", "string", "null"]},
                                "given_at": {"type": "string", "format": "date-time"},
                            },
                            "additionalProperties": False,
                        },
                    }
                },
                "additionalProperties": False,
            }
        }
    },
}
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "model": {"type": "string"},
        "row": {"type": "integer"},
        "field": {"type": "string"},
    },
}
REFUSED = {
    "4XX": {"description": "The request cannot be answered.", "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}},
    "503": {"description": "Not now.", "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}},
}
