"""The newest row known at the time asked: as-of joins, and the features that are latest values."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.processing.features.columns import Bools, Ints, plain_column
from pipeline_assets.processing.features.extremes import greatest_covering
from pipeline_assets.processing.features.timeline import Columns, Timeline, build_timeline
from pipeline_assets.processing.features.values import Values, feature_of, values_of
from pipeline_assets.spec.features import FeatureView, Latest

NOTHING = -1


def newest_positions(timeline: Timeline, valid: Bools | None = None) -> Ints:
    """For each question, the position of the newest event visible to it, NOTHING where there is none in any key up to its own.

    Newest: by (event_at, known_at, order_by, row) in an ordered timeline. The position may belong to a lower key: it counts only if it is
    not before the first position that the caller asks for. With `valid` (per position) the other events are passed over.
    """
    if not timeline.has_superseded:
        return _newest_lasting(timeline, valid)
    is_lasting = timeline.first_superseded == timeline.questions.count
    superseded = np.flatnonzero(~is_lasting if valid is None else ~is_lasting & valid)
    first, end = timeline.first_seen[superseded], timeline.first_superseded[superseded]
    lasting = _newest_lasting(timeline, is_lasting if valid is None else is_lasting & valid)
    newest: Ints = np.maximum(lasting, greatest_covering(first, end, superseded, timeline.questions.count, NOTHING))
    return newest


def _newest_lasting(timeline: Timeline, valid: Bools | None) -> Ints:
    """As `newest_positions`, where no event is superseded."""
    if timeline.visible_order is None and valid is None:
        return timeline.seen - 1
    order = timeline.by_visibility
    candidates = order if valid is None else np.where(valid[order], order, NOTHING)
    newest = np.concatenate(([NOTHING], np.maximum.accumulate(candidates)))
    return newest[timeline.seen]


def as_of_join(
    requests: pa.Table,
    rows: pa.Table,
    columns: Columns,
    values: Sequence[str],
    *,
    ttl: timedelta | None = None,
    name: str = "rows",
) -> pa.Table:
    """For each request the values of the newest row of its key with event_at <= asked_at and known_at <= asked_at, not superseded by then.

    Newest is by (event_at, known_at, columns.order_by, position in `rows`), the last wins. Values are null where there is no such row,
    where asked_at − event_at > ttl, or where the newest row holds null: an older value never stands in. A null key matches nothing.
    Returns len(requests) rows in their order, with the columns `values` in their own types.
    Raises TableMismatch where a column is missing or duplicated, a time naive or null, or a key neither text nor whole numbers.
    """
    timeline = build_timeline(requests, rows, columns, name=name, is_ordered=True)
    found = timeline.questions.per_request(_found_rows(timeline, ttl) + 1) - 1
    indices = pa.array(found, mask=found == NOTHING) if (found == NOTHING).any() else pa.array(found)
    return pa.table({column: plain_column(rows, name, column).take(indices) for column in values})


def latest_features(view: FeatureView, timeline: Timeline, events: pa.Table) -> dict[str, pa.Array]:
    """The latest values of the view, one column per feature in the view's order, one row per request; types as in `Latest`."""
    latest = [feature for feature in view.features if isinstance(feature, Latest)]
    questions = timeline.questions
    newest = {ttl: questions.per_request(_found_rows(timeline, ttl) + 1) - 1 for ttl in {feature.ttl for feature in latest}}
    decided_at = questions.per_request(questions.at)
    columns = {}
    for feature in latest:
        found, values = newest[feature.ttl], latest_values(events, view.source.name, feature)
        columns[names.feature(view.name, feature.name)] = feature_of(values, np.maximum(found, 0), found != NOTHING, decided_at)
    return columns


def latest_values(events: pa.Table, name: str, feature: Latest) -> Values:
    """The column of the events that a latest value is taken from; raises TableMismatch where it is not what the feature needs."""
    return values_of(events, name, feature.column, feature.values)


def _found_rows(timeline: Timeline, ttl: timedelta | None) -> Ints:
    """The newest visible row of each question, NOTHING where there is none or it is older than ttl."""
    newest = newest_positions(timeline)
    first = timeline.key_start if ttl is None else timeline.positions_from(timeline.questions.at - ttl // timedelta(microseconds=1))
    if len(timeline.rows) == 0:
        return np.full(len(newest), NOTHING, np.int64)
    return np.where(newest >= first, timeline.rows[np.maximum(newest, 0)], NOTHING)
