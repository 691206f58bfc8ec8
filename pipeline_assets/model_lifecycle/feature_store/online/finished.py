"""Finished values: the features of a key as they are for a while, in some hundred bytes, so that most reads need no tiles.

A finished value has for each feature eight bytes: an integer, a float, or for features that are a length of time the instant from which it
is counted, in microseconds; then one bit a feature (the first in the lowest bit) that is set where it is null; then for each learned
category an int32 length and its UTF-8 bytes (-1: null). It holds from a moment on, and until another.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.aggregates import AGGREGATES
from pipeline_assets.model_lifecycle.feature_store.online.answers import (
    Moment,
    features_at,
    fresh,
    held_until,
    in_window,
    moment_of,
)
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout, cell_name, microseconds
from pipeline_assets.model_lifecycle.feature_store.online.rows import Rows
from pipeline_assets.model_lifecycle.feature_store.online.state import States
from pipeline_assets.processing.features.columns import Ints, arrow_numbers
from pipeline_assets.processing.features.hops import hop_of
from pipeline_assets.spec.features import Latest, Learned, Windowed

TEXT = struct.Struct("<i")
Kind = Literal["int", "float", "age", "text"]


@dataclass(frozen=True, kw_only=True)
class Output:
    """One feature of the view: its column, how its finished value is kept, and what it is made of."""

    name: str
    kind: Kind
    feature: Windowed | Latest
    window: int = 0
    hop: int = 0


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Finished values of some keys, each good for moments from `since` on and before `until`."""

    values: list[bytes]
    since: Ints
    until: Ints


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The features of a view in their order, and the size of what is fixed of their finished values."""

    each: tuple[Output, ...]

    @cached_property
    def dtype(self) -> np.dtype:
        """The fixed part."""
        return np.dtype([("values", "<i8", (len(self.each),)), ("nulls", "u1", (-(-len(self.each) // 8),))])

    @cached_property
    def texts(self) -> tuple[int, ...]:
        """The places of those that are text."""
        return tuple(place for place, one in enumerate(self.each) if one.kind == "text")


def outputs_of(layout: Layout) -> Outputs:
    """How the features of a view are kept when finished."""
    found: list[Output] = []
    for feature in layout.view.features:
        if isinstance(feature, Latest):
            found.append(Output(name=names.feature(layout.view.name, feature.name), kind=_latest_kind(layout, feature), feature=feature))
            continue
        for window in feature.windows:
            name, hop = names.feature(layout.view.name, feature.name, window), hop_of(window, feature.hop)
            kind: Kind = "age" if AGGREGATES[feature.aggregate].finish == "age" else "float"
            kind = "int" if AGGREGATES[feature.aggregate].dtype == "int64" else kind
            found.append(Output(name=name, kind=kind, feature=feature, window=microseconds(window), hop=microseconds(hop)))
    return Outputs(each=tuple(found))


def finished(layout: Layout, states: States, until: int) -> Finished:
    """The values of each key after all that counts by `until` (which every row that came was known by), or at its base if that is later."""
    at = np.maximum(states.base_at, _last_change(states, until))
    moment, outputs = moment_of(layout, states, at), outputs_of(layout)
    columns = features_at(moment)
    fixed = np.zeros(states.count, outputs.dtype)
    is_null = np.zeros((states.count, len(outputs.each)), np.bool_)
    texts: list[list[str | None]] = []
    for place, output in enumerate(outputs.each):
        column = columns[output.name]
        is_null[:, place] = ~column.is_valid().to_numpy(zero_copy_only=False)
        if output.kind == "text":
            texts.append(column.to_pylist())
        else:
            fixed["values"][:, place] = _as_integers(moment, output, column)
    fixed["nulls"] = np.packbits(is_null, axis=1, bitorder="little")
    whole, size = fixed.tobytes(), outputs.dtype.itemsize
    values = [whole[key * size : (key + 1) * size] + b"".join(_text_bytes(one[key]) for one in texts) for key in range(states.count)]
    return Finished(values=values, since=at, until=held_until(moment, states))


def restored(outputs: Outputs, values: Sequence[bytes], at: Ints) -> dict[str, pa.Array]:
    """The features at the times `at`, at which the finished values hold."""
    size = outputs.dtype.itemsize
    fixed = np.frombuffer(b"".join(one[:size] for one in values), outputs.dtype)
    present = ~np.unpackbits(fixed["nulls"], axis=1, count=len(outputs.each), bitorder="little").astype(np.bool_)
    texts = iter(zip(*(_read_texts(one, size, len(outputs.texts)) for one in values), strict=True))
    columns: dict[str, pa.Array] = {}
    for place, output in enumerate(outputs.each):
        own = np.ascontiguousarray(fixed["values"][:, place])
        if output.kind == "text":
            columns[output.name] = pa.array(next(texts), pa.string())
        elif output.kind == "int":
            columns[output.name] = arrow_numbers(own, present[:, place])
        else:
            floats = (at - own) / 1e6 if output.kind == "age" else own.view(np.float64)
            columns[output.name] = arrow_numbers(floats, present[:, place])
    return columns


def _latest_kind(layout: Layout, feature: Latest) -> Kind:
    if isinstance(feature.values, Learned):
        return "text"
    cell = next(cell for cell in layout.cells if cell.name == cell_name(feature))
    return "int" if feature.values else "age" if cell.is_moment else "float"


def _last_change(states: States, until: int) -> Ints:
    """When the last row of each key came to count or ended, up to `until`; its base where none did."""
    last, recent = states.base_at.copy(), states.recent
    for times in (recent.visible_at, recent.superseded_at):
        happened = times <= until
        np.maximum.at(last, recent.key[happened], times[happened])
    return last


def _as_integers(moment: Moment, output: Output, column: pa.Array) -> Ints:
    """What is kept of a feature: the bits of floats, the instants of ages."""
    if output.kind == "age":
        return _instants(moment, output)
    plain = column.fill_null(0).to_numpy(zero_copy_only=False)
    kept: Ints = plain.astype(np.int64) if output.kind == "int" else plain.astype(np.float64).view(np.int64)
    return kept


def _instants(moment: Moment, output: Output) -> Ints:
    found = np.zeros(len(moment.at), np.int64)
    head: Rows
    if isinstance(output.feature, Latest):
        head = fresh(moment, output.feature)
        found[head.key] = head.value(cell_name(output.feature))
    else:
        head = in_window(moment, output.feature, output.window, output.hop)
        found[head.key] = head.event_at
    return found


def _text_bytes(text: str | None) -> bytes:
    data = None if text is None else text.encode()
    return TEXT.pack(-1) if data is None else TEXT.pack(len(data)) + data


def _read_texts(value: bytes, place: int, count: int) -> list[str | None]:
    found: list[str | None] = []
    for _ in range(count):
        (length,) = TEXT.unpack_from(value, place)
        place += TEXT.size
        found.append(None if length < 0 else value[place : place + length].decode())
        place += max(length, 0)
    return found
