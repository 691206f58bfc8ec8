"""What a request for a model looks like, from its declaration: fields with their types, read and checked in one pass.

An instance has the entity keys of the model's views, each of which may be null, the columns of its request features (those with a default
may be left out), and may have `decision_at`; it has nothing else. Numbers are finite, whole numbers of 64 bits, times have a zone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from types import GenericAlias
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.model_lifecycle.feature_store.spine import entity_keys
from pipeline_assets.serving.realtime.service.problems import Problem, shown
from pipeline_assets.spec.features import RequestFeature
from pipeline_assets.spec.models import Model

MOST_INSTANCES, LONGEST_TEXT = 1_000, 4_096
INSTANT = pa.timestamp("us", "UTC")
Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
PLACE = re.compile(r" - at `\$\.instances\[(\d+)\](?:\.([^`]*))?`$")
FIELD = re.compile(r"field `(.*)`$")

# Of each kind of a key or a field: its type in a request, and in Arrow.
Kinds = tuple[Any, pa.DataType]
TEXT: Kinds = (Text, pa.string())
WHOLE: Kinds = (Whole, pa.int64())
NUMBER: Kinds = (float, pa.float64())
TRUTH: Kinds = (bool, pa.bool_())
DAY: Kinds = (date, pa.date32())
TIME: Kinds = (Moment, INSTANT)
# A key of another type of Postgres: text, or a whole number that is taken for its digits.
EITHER: Kinds = (Text | Whole, pa.string())

Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of an instance. Without `is_required` it may be left out, which is the same as null."""

    name: str
    kind: Kinds
    is_required: bool
    description: str


@dataclass(frozen=True, kw_only=True)
class RequestSchema:
    """The requests of a model. kinds: those of the columns of its observations that a question has."""

    model: Model
    kinds: Mapping[str, ColumnKind]

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The fields of an instance, `decision_at` last."""
        keys = {key: Field(name=key, kind=_key(self.kinds[key]), is_required=True, description="An entity key.") for key in self._keys}
        asked: dict[str, Field] = {}
        for feature in self.model.request_features:
            if feature.column not in keys or feature.values:
                known = asked.get(feature.column)
                is_required = feature.default is None or (known is not None and known.is_required) or feature.column in keys
                kind = _asked(feature, self.kinds[feature.column])
                asked[feature.column] = Field(
                    name=feature.column, kind=kind, is_required=is_required, description=shown(feature.description)
                )
        at = Field(name=DECISION_AT, kind=TIME, is_required=False, description="As of when it is asked; now, where it is left out.")
        return (*(keys | asked).values(), at)

    @cached_property
    def instance(self) -> type[msgspec.Struct]:
        """The type of an instance; its attributes are numbered, as columns may have any names."""
        fields: list[Any] = []
        for place, one in enumerate(self.fields):
            kind = one.kind[0] | None
            fields.append((f"f{place}", kind) if one.is_required else (f"f{place}", kind, None))
        names = {f"f{place}": one.name for place, one in enumerate(self.fields)}
        return msgspec.defstruct(f"{self.model.name}_instance", fields, rename=names, forbid_unknown_fields=True, kw_only=True, gc=False)

    @cached_property
    def request(self) -> type[msgspec.Struct]:
        """The type of a request."""
        instances = GenericAlias(list, (self.instance,))
        return msgspec.defstruct(f"{self.model.name}_request", [("instances", instances)], forbid_unknown_fields=True)

    def read(self, body: bytes | bytearray) -> list[Row]:
        """The instances of a request, each with the values of the fields in their order.

        Raises Problem: 400 for what is no JSON, 413 for too many instances, 422 for anything else, with row and field.
        """
        try:
            found = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._unfit(str(error)) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Problem(400, "NoJson", f"The body is no JSON: {shown(str(error))}.", model=self.model.name) from None
        instances: list[msgspec.Struct] = found.instances
        if not instances:
            raise Problem(422, "NoInstances", "`instances` has no instance; at least one was expected.", model=self.model.name)
        if len(instances) > MOST_INSTANCES:
            detail = f"The body has {len(instances):,} instances; no more than {MOST_INSTANCES:,} are answered at once. Ask in parts."
            raise Problem(413, "TooManyInstances", detail, model=self.model.name)
        return list(map(msgspec.structs.astuple, instances))

    def questions(self, rows: Sequence[Row], now: datetime) -> pa.Table:
        """The rows as a reader of features takes them, typed; now: for those without `decision_at`."""
        *columns, at = zip(*rows, strict=True)
        arrays = [_column(one, values) for one, values in zip(self.fields, columns, strict=False)]
        arrays.append(pa.array([now if one is None else one for one in at], INSTANT))
        return pa.table(arrays, names=[one.name for one in self.fields])

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        return entity_keys(self.model)

    @cached_property
    def _decoder(self) -> "msgspec.json.Decoder[Any]":
        return msgspec.json.Decoder(self.request)

    def _unfit(self, words: str) -> Problem:
        """The problem that msgspec puts in words: what was expected, what was found, and where."""
        place = PLACE.search(words)
        what = words[: place.start()] if place is not None else words.replace(" - at `$", " - at `the body")
        named = FIELD.search(what)
        field = (place[2] if place is not None else None) or (named[1] if named is not None else None)
        row = None if place is None else int(place[1])
        where = "" if row is None else f"Instance {row}" + ("" if field is None else f", field '{shown(field)}'") + ": "
        detail = f"{where}{shown(what)}. Expected fields: {', '.join(one.name for one in self.fields)}."
        return Problem(422, "Unfit", detail, model=self.model.name, row=row, field=None if field is None else shown(field))


def _key(kind: ColumnKind) -> Kinds:
    return WHOLE if kind == "integer" else TEXT if kind == "string" else EITHER


def _asked(feature: RequestFeature, kind: ColumnKind) -> Kinds:
    """As `spine.check_requests` reads the column."""
    if feature.transform != "value" or kind == "timestamp":
        return TIME
    if feature.values:
        return TEXT
    return DAY if kind == "date" else TRUTH if kind == "boolean" else NUMBER


def _column(field: Field, values: Sequence[Any]) -> pa.Array:
    if field.kind is EITHER:
        values = [str(one) if isinstance(one, int) else one for one in values]
    return pa.array(values, field.kind[1])
