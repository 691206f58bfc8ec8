"""The newest row known at the time asked: as-of joins, and the features that are latest values."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.processing.features.columns import Bools, Ints, arrow_floats, numbers, plain_column
from pipeline_assets.processing.features.timeline import Columns, Timeline, build_timeline
from pipeline_assets.spec.features import FeatureView, Latest

NOTHING = -1


def newest_positions(timeline: Timeline, valid: Bools | None = None) -> Ints:
    """For each question, the position of the newest event visible to it, NOTHING where there is none in any key up to its own.

    Newest: by (event_at, known_at, order_by, row) in an ordered timeline. The position may belong to a lower key: it counts only if it is
    not before the first position that the caller asks for. With `valid` (per position) the other events are passed over.
    """
    if timeline.visible_order is None and valid is None:
        return timeline.seen - 1
    order = np.arange(len(timeline.order)) if timeline.visible_order is None else timeline.visible_order
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
    """For each request the values of the newest row of its key with event_at <= asked_at and known_at <= asked_at.

    Newest is by (event_at, known_at, columns.order_by, position in `rows`), the last wins. Values are null where there is no such row,
    where asked_at − event_at > ttl, or where the newest row holds null: an older value never stands in. A null key matches nothing.
    Returns len(requests) rows in their order, with the columns `values` in their own types.
    Raises TableMismatch where a column is missing or duplicated, a time naive or null, or a key neither text nor whole numbers.
    """
    timeline = build_timeline(requests, rows, columns, name=name, is_ordered=True)
    found = timeline.asked.per_request(_found_rows(timeline, ttl) + 1) - 1
    indices = pa.array(found, mask=found == NOTHING) if (found == NOTHING).any() else pa.array(found)
    return pa.table({column: plain_column(rows, name, column).take(indices) for column in values})


def latest_features(view: FeatureView, timeline: Timeline, events: pa.Table) -> dict[str, pa.Array]:
    """The latest values of the view as float64, one column a feature in the view's order, one row a request."""
    columns = {}
    newest = {ttl: _found_rows(timeline, ttl) for ttl in {feature.ttl for feature in view.features if isinstance(feature, Latest)}}
    for feature in view.features:
        if isinstance(feature, Latest):
            data, found = numbers(events, view.source.name, feature.column), newest[feature.ttl]
            place = np.maximum(found, 0)
            present = (found != NOTHING) & _taken(data.valid, place)
            values = _taken(data.values, place).astype(np.float64)
            columns[names.feature(view.name, feature.name)] = arrow_floats(
                timeline.asked.per_request(values), timeline.asked.per_request(present)
            )
    return columns


def _found_rows(timeline: Timeline, ttl: timedelta | None) -> Ints:
    """The newest visible row of each question, NOTHING where there is none or it is older than ttl."""
    newest = newest_positions(timeline)
    first = timeline.key_start if ttl is None else timeline.positions_from(timeline.asked.at - ttl // timedelta(microseconds=1))
    if len(timeline.rows) == 0:
        return np.full(len(newest), NOTHING, np.int64)
    return np.where(newest >= first, timeline.rows[np.maximum(newest, 0)], NOTHING)


def _taken(values: np.ndarray, places: Ints) -> np.ndarray:
    """values[places], and zeros where there are no values at all."""
    return values[places] if len(values) else np.zeros(len(places), values.dtype)
