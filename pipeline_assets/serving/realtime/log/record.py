"""A prediction as it is logged: one record of the topic of `core.prediction_streams.prediction_log`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.feature_store.online.position import Position

Role = Literal["live", "shadow", "canary"]
Tier = Literal["online", "last_good", "default", "caller"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """One answer of one version of a model.

    prediction_id: of this answer, at most 200 characters. One that is logged again counts once, so a client's retry has the same, and a
    shadow, whose answer nobody saw, one of its own; what was asked at once has one `request_id`. keys, request: as asked, by name.
    asked_at, decision_at: with a zone. features: values by name; a number that is not finite is logged as null. feature_status: by view.
    definitions: the hash of the definition that answered, by view. positions: of the feeds that the features were read from.
    scores: the answer by name: `score`, `value`, or each class. tier: of `caller` nothing was read, so keys,
    request, statuses, definitions and positions are empty. predicted_class: None of a model without classes. timings_ms: by step.
    """

    prediction_id: str
    model: str
    model_version: int
    role: Role
    keys: Mapping[str, Any]
    request: Mapping[str, Any]
    asked_at: datetime
    decision_at: datetime
    features: Mapping[str, Any]
    feature_status: Mapping[str, str]
    definitions: Mapping[str, str]
    positions: "Sequence[Position]"
    scores: Mapping[str, float]
    predicted_class: str | None
    tier: Tier
    timings_ms: Mapping[str, float]
    request_id: str | None = None
    trace_id: str | None = None
    traceparent: bytes | None = None

    @property
    def key(self) -> bytes:
        """The key of the record: all that is logged of one id is in one partition, in order."""
        return self.prediction_id.encode(errors="replace")

    def to_json(self) -> bytes:
        """The record, in the contract's fields; what has parts is JSON as text, each float with the digits that give its bits again."""
        return msgspec.json.encode(
            {
                "prediction_id": self.prediction_id,
                "model": self.model,
                "model_version": self.model_version,
                "role": self.role,
                "keys": _text(self.keys),
                "request": _text(self.request),
                "asked_at": self.asked_at,
                "decision_at": self.decision_at,
                "features": _text(self.features),
                "feature_status": _text(self.feature_status),
                "definitions": _text(self.definitions),
                "positions": _text([_position(one) for one in self.positions]),
                "scores": _text(self.scores),
                "predicted_class": self.predicted_class,
                "tier": self.tier,
                "timings_ms": _text(self.timings_ms),
                "request_id": self.request_id,
                "trace_id": self.trace_id,
            }
        )


def _position(one: "Position") -> dict[str, Any]:
    return {
        "feed": one.feed,
        "hash": one.hash,
        "watermark": one.watermark,
        "snapshot_id": one.snapshot_id,
        "is_between": one.is_between,
        "offsets": {str(partition): offset for partition, offset in one.offsets.items()},
    }


def _text(value: Mapping[str, Any] | list[Any]) -> str:
    if not value:
        # Most of what is logged of features that the caller brought, thousands at once.
        return "[]" if isinstance(value, list) else "{}"
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        # Half a surrogate is no Unicode, and JSON may have it escaped: a request is logged as it was asked.
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
