"""Served vectors computed again from the lake, with exactly the rows that had been seen, and compared bit for bit.

Vectors of one position are computed together: of each feed the rows that it had seen, from the lake, and of these the features by the
kernel of the past. A vector whose records the lake has not typed yet is left for later; one that cannot be computed again is counted with
the reason. Neither counts as equal.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_assets.core.connections import online
from pipeline_assets.core.errors import UnknownName, VersionsNotKept
from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store.online.compare import kinds_of
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of_model
from pipeline_assets.model_lifecycle.feature_store.online.findings import write_finding
from pipeline_assets.model_lifecycle.feature_store.online.position import Position
from pipeline_assets.model_lifecycle.feature_store.online.replayed import Stream, replayed_stream, rows_at_snapshot, typed_to
from pipeline_assets.model_lifecycle.feature_store.online.served import Sample, newest_samples
from pipeline_assets.model_lifecycle.feature_store.parity import differs
from pipeline_assets.model_lifecycle.feature_store.spine import check_keys, check_requests, entity_keys
from pipeline_assets.processing.features.catalogue import definition_hash
from pipeline_assets.processing.features.request import request_features
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.spec.models import Model

EXAMPLES, MOST = 5, 200
PENDING = "pending"
OTHERWISE, BETWEEN, NOT_KEPT = "declared otherwise", "between two commits", "rows are no longer kept"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A value that differs: of which feature and entity, when it was asked, what was served and what the lake gives."""

    feature: str
    entity: Mapping[str, Any]
    decision_at: str
    served: object
    recomputed: object


@dataclass(frozen=True, kw_only=True)
class ServedParity:
    """Served vectors held against the lake: how many were compared, and of each feature that differs at all in how many.

    pending: vectors with records that the lake has not typed yet. unclear: by reason those that cannot be computed again: served by a
    definition that is not the one declared now, read while a commit was being taken, made of rows that are no longer kept.
    """

    model: str
    definition: str
    checked: int
    pending: int
    unclear: Mapping[str, int]
    differing: Mapping[str, int]
    examples: Sequence[Example]

    @property
    def is_equal(self) -> bool:
        """Whether no value that was compared differs in any bit."""
        return not self.differing


@dataclass(frozen=True, kw_only=True)
class _Lake:
    """What the lake has of the feeds of a model: sessions of streams and rows of snapshots, each opened when it is first asked for."""

    settings: Settings
    decided: tuple[datetime, datetime]
    stack: ExitStack
    streams: dict[tuple[str, int | None], Stream] = field(default_factory=dict)

    def rows(self, feed: Feed, position: Position) -> pa.Table:
        if feed.stream is None:
            return rows_at_snapshot(self.settings, feed, self.decided, position.snapshot_id or 0)
        opened = feed.name, position.snapshot_id
        if opened not in self.streams:
            self.streams[opened] = self.stack.enter_context(replayed_stream(self.settings, feed, self.decided, position.snapshot_id))
        return self.streams[opened].rows(position.offsets)


def check_served(settings: Settings, project: Project, feeds: Sequence[Feed], model: Model, most: int | None = MOST) -> ServedParity:
    """Holds the newest vectors that were kept against the lake, up to `most` of those that can be compared (None: all).

    What came of it is kept, unless there were no vectors.
    """
    with online(settings) as connection:
        samples = newest_samples(connection, model)
    found = served_parity(settings, project, feeds, model, samples, most)
    if samples:
        write_finding(settings, found)
    return found


def served_parity(
    settings: Settings, project: Project, feeds: Sequence[Feed], model: Model, samples: Sequence[Sample], most: int | None = None
) -> ServedParity:
    """Computes served vectors of a model again, up to so many of those that can be compared (None: all), and compares them bit for bit."""
    own = feeds_of_model(tuple(feeds), model)
    reached = {feed.name: typed_to(settings, feed) for feed in own if feed.stream is not None}
    states = [_state(model, own, reached, sample) for sample in samples]
    clear = [sample for sample, state in zip(samples, states, strict=True) if state is None][:most]
    differing, examples, checked = Counter[str](), list[Example](), 0
    left = Counter(state for state in states if state is not None)
    with ExitStack() as stack:
        lake = _Lake(settings=settings, decided=_span(clear), stack=stack) if clear else None
        for group in _groups(clear):
            found = None if lake is None else _recomputed(project, model, own, group, lake)
            if found is None:
                left[NOT_KEPT] += len(group)
                continue
            checked += len(group)
            for feature, places, ours, theirs in _unlike(group, found):
                differing[feature] += len(places)
                examples += [_example(model, feature, group[place], ours[place], theirs[place]) for place in places[:EXAMPLES]]
    return ServedParity(
        model=model.name,
        definition=definition_hash(model),
        checked=checked,
        pending=left.pop(PENDING, 0),
        unclear=dict(left),
        differing=dict(differing),
        examples=_few(examples),
    )


def _state(model: Model, feeds: Sequence[Feed], reached: Mapping[str, Mapping[int, int]], sample: Sample) -> str | None:
    """Why a sample is not compared; None for one that is."""
    positions = {position.feed: position for position in sample.positions}
    declared = {feed.name: feed.hash for feed in feeds}
    if sample.definition != definition_hash(model) or {name: one.hash for name, one in positions.items()} != declared:
        return OTHERWISE
    if any(position.is_between for position in positions.values()):
        return BETWEEN
    typed = [(reached[name], one.offsets) for name, one in positions.items() if name in reached]
    is_typed = all(ends.get(partition, 0) >= end for ends, offsets in typed for partition, end in offsets.items())
    return None if is_typed else PENDING


def _groups(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """The samples of each position together."""
    found: dict[tuple[object, ...], list[Sample]] = {}
    for sample in samples:
        key = tuple((one.feed, one.snapshot_id, *sorted(one.offsets.items())) for one in sample.positions)
        found.setdefault(key, []).append(sample)
    yield from found.values()


def _span(samples: Sequence[Sample]) -> tuple[datetime, datetime]:
    decided = [datetime.fromisoformat(sample.asked[DECISION_AT]) for sample in samples]
    return min(decided), max(decided)


def _recomputed(project: Project, model: Model, feeds: Sequence[Feed], group: Sequence[Sample], lake: _Lake) -> pa.Table | None:
    """The features of a group of one position from the lake, in the model's order; None where its rows are no longer kept."""
    name = f"a served vector of {model.name}"
    fields = dict.fromkeys(column for sample in group for column in sample.asked)
    spine = pa.table({column: [sample.asked.get(column) for sample in group] for column in fields})
    requests = check_requests(name, model, spine, kinds_of(project, model))
    positions = {position.feed: position for position in group[0].positions}
    columns: dict[str, pa.ChunkedArray] = {}
    for feed in feeds:
        views = [view for view in feed.views if view in model.views]
        try:
            rows = lake.rows(feed, positions[feed.name])
        except (UnknownName, VersionsNotKept):
            return None
        requests = check_keys(name, requests, rows, [key for view in views for key in view.entity.keys])
        for view in views:
            found = view_features(view, requests, rows)
            columns |= dict(zip(found.column_names, found.columns, strict=True))
    of_request = request_features(model.request_features, requests)
    return pa.table(columns | dict(zip(of_request.column_names, of_request.columns, strict=True)))


def _unlike(group: Sequence[Sample], found: pa.Table) -> Iterator[tuple[str, list[int], list[Any], list[Any]]]:
    """Of each feature that differs: in which samples, all served values and all that were computed again."""
    for name, column in zip(found.column_names, found.columns, strict=True):
        served = [sample.features.get(name) for sample in group]
        try:
            ours = pa.chunked_array([pa.array(served, column.type)])
        except (pa.ArrowException, TypeError):
            flags = np.ones(len(group), np.bool_)
        else:
            flags = differs(ours, column)
        if flags.any():
            yield name, np.flatnonzero(flags).tolist(), served, column.to_pylist()


def _example(model: Model, feature: str, sample: Sample, served: object, recomputed: object) -> Example:
    entity = {key: sample.asked[key] for key in entity_keys(model)}
    return Example(feature=feature, entity=entity, decision_at=sample.asked[DECISION_AT], served=served, recomputed=recomputed)


def _few(examples: Sequence[Example]) -> list[Example]:
    """The first few of each feature."""
    counts, kept = Counter[str](), list[Example]()
    for one in examples:
        counts[one.feature] += 1
        if counts[one.feature] <= EXAMPLES:
            kept.append(one)
    return kept
