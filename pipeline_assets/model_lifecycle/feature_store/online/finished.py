"""Finished values: the features of a key as some hundred bytes, so that most reads need no tiles.

A finished value has for each feature eight bytes: an integer, a float, or for features that are a length of time the instant from which it
is counted, in microseconds; then one bit a feature (the first in the lowest bit) that is set where it is null; then for each learned
category an int32 length and its UTF-8 bytes (-1: null). It holds from a moment on, and until another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_assets.model_lifecycle.feature_store.online.answers import (
    Answers,
    Moment,
    features_at,
    fresh,
    held_until,
    in_window,
    moment_of,
)
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout, Output, cell_name
from pipeline_assets.model_lifecycle.feature_store.online.rows import TEXT, text_bytes
from pipeline_assets.model_lifecycle.feature_store.online.state import States
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.columns import Ints
from pipeline_assets.spec.features import Latest


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Finished values of some keys, each good for moments from `since` on and before `until`."""

    values: list[bytes]
    since: Ints
    until: Ints


def finished(layout: Layout, states: States, until: int) -> Finished:
    """The values of each key after all that counts by `until` (which every row that came was known by), or at its base if that is later."""
    return finished_at(layout, states, np.maximum(states.base_at, _last_change(states, until)))


def finished_at(layout: Layout, states: States, at: Ints) -> Finished:
    """The values of each key at a time, which is not before its base."""
    moment = moment_of(layout, states, at)
    answers = features_at(moment)
    fixed = np.zeros(states.count, layout.finished)
    fixed["values"], fixed["nulls"] = answers.bits.T, np.packbits(~answers.present.T, axis=1, bitorder="little")
    for place, output in enumerate(layout.outputs):
        if output.kind == "age":
            fixed["values"][:, place] = _instants(moment, output)
    whole, size = fixed.tobytes(), layout.finished.itemsize
    values = [whole[start : start + size] for start in range(0, len(whole), size)]
    for texts in answers.texts.values():
        values = [value + text_bytes(text) for value, text in zip(values, texts, strict=True)]
    return Finished(values=values, since=at, until=held_until(moment, states))


class Forms:
    """The forms of the finished values of some views: makes answers of values that stand side by side."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self.outputs = tuple(output for layout in layouts for output in layout.outputs)
        self._parts = [(8 * len(layout.outputs), layout.finished.itemsize) for layout in layouts]
        flags = [8 * (size - width) for width, size in self._parts]
        is_flag = np.concatenate([np.arange(bits) < len(layout.outputs) for bits, layout in zip(flags, layouts, strict=True)])
        self._flags, self._flag_bytes = np.flatnonzero(is_flag), sum(flags) // 8
        self._ages = np.array([row for row, output in enumerate(self.outputs) if output.kind == "age"], np.int64)
        self._texts: dict[int, list[int]] = {}
        of_view = [view for view, layout in enumerate(layouts) for _ in layout.outputs]
        for row, (view, output) in enumerate(zip(of_view, self.outputs, strict=True)):
            if output.kind == "text":
                self._texts.setdefault(view, []).append(row)

    def answers(self, values: Sequence[Sequence[bytes]], at: Ints) -> Answers:
        """What finished values say to some questions at the times `at`, at which they hold; of each view a value per question."""
        parts, count = self._parts, len(at)
        rows = list(zip(*values, strict=True))
        numbers = b"".join([value[:width] for row in rows for value, (width, _) in zip(row, parts, strict=True)])
        nulls = b"".join([value[width:size] for row in rows for value, (width, size) in zip(row, parts, strict=True)])
        bits = np.array(np.frombuffer(numbers, "<i8").reshape(count, len(self.outputs)).T, order="C")
        flags = np.unpackbits(np.frombuffer(nulls, "u1").reshape(count, self._flag_bytes), axis=1, bitorder="little")
        present = flags[:, self._flags].T == 0
        if len(self._ages):
            instants = bits[self._ages]
            bits[self._ages] = np.where(present[self._ages], (at - instants) / 1e6, 0).view(np.int64)
        texts = {row: own for view, of_view in self._texts.items() for row, own in self._read_texts(view, of_view, values[view])}
        return Answers(bits=bits, present=present, texts=texts)

    def _read_texts(self, view: int, rows: Sequence[int], values: Sequence[bytes]) -> Iterator[tuple[int, np.ndarray]]:
        """The features of a view that are text, by their rows, a text or None per question."""
        read = [_texts_of(value, self._parts[view][1], len(rows)) for value in values]
        yield from ((row, np.array([texts[place] for texts in read], object)) for place, row in enumerate(rows))


def nothing(layout: Layout) -> bytes:
    """The finished value of an entity of which nothing is known."""
    fixed, columns = np.zeros(1, layout.finished), view_columns(layout.view)
    fixed["values"] = [column.empty or 0 for column in columns]
    fixed["nulls"] = np.packbits([column.empty is None for column in columns], bitorder="little")
    return fixed.tobytes() + text_bytes(None) * sum(output.kind == "text" for output in layout.outputs)


def _last_change(states: States, until: int) -> Ints:
    """When the last row of each key came to count or ended, up to `until`; its base where none did."""
    last, recent = states.base_at.copy(), states.recent
    for times in (recent.visible_at, recent.superseded_at):
        happened = times <= until
        np.maximum.at(last, recent.key[happened], times[happened])
    return last


def _instants(moment: Moment, output: Output) -> Ints:
    found = np.zeros(len(moment.at), np.int64)
    if isinstance(output.feature, Latest):
        head = fresh(moment, output.feature)
        found[head.key] = head.value(cell_name(output.feature))
    else:
        head = in_window(moment, output)
        found[head.key] = head.event_at
    return found


def _texts_of(value: bytes, place: int, count: int) -> list[str | None]:
    found: list[str | None] = []
    for _ in range(count):
        (length,) = TEXT.unpack_from(value, place)
        place += TEXT.size
        found.append(None if length < 0 else value[place : place + length].decode())
        place += max(length, 0)
    return found
