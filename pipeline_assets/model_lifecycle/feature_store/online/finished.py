"""Finished values: the features of a key as some hundred bytes, so that most reads need no tiles.

A finished value has for each feature eight bytes: an integer, a float, or for features that are a length of time the instant from which it
is counted, in microseconds; then one bit a feature (the first in the lowest bit) that is set where it is null; then for each learned
category an int32 length and its UTF-8 bytes (-1: null). It holds from a moment on, and until another.
"""

from collections.abc import Sequence
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


def restored(layout: Layout, values: Sequence[bytes], key: Ints, at: Ints) -> Answers:
    """What finished values say to some questions: those of the keys `key` at the times `at`, at which they hold."""
    size, kinds = layout.finished.itemsize, [output.kind for output in layout.outputs]
    fixed = np.frombuffer(b"".join([value[:size] for value in values]), layout.finished)[key]
    bits, present = fixed["values"].T, np.unpackbits(fixed["nulls"], axis=1, count=len(kinds), bitorder="little").T == 0
    for place, kind in enumerate(kinds):
        if kind == "age":
            bits[place] = np.where(present[place], (at - bits[place]) / 1e6, 0).view(np.int64)
    of_texts = [place for place, kind in enumerate(kinds) if kind == "text"]
    read = zip(*(_read_texts(value, size, len(of_texts)) for value in values), strict=True) if of_texts else ()
    return Answers(bits=bits, present=present, texts={place: np.array(own, object)[key] for place, own in zip(of_texts, read, strict=True)})


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


def _read_texts(value: bytes, place: int, count: int) -> list[str | None]:
    found: list[str | None] = []
    for _ in range(count):
        (length,) = TEXT.unpack_from(value, place)
        place += TEXT.size
        found.append(None if length < 0 else value[place : place + length].decode())
        place += max(length, 0)
    return found
