"""The kernel: all features of one view for a table of requests, bucket by bucket of keys, Arrow in and Arrow out."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from pipeline_assets.processing.features.as_of import latest_features, latest_values
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.columns import DECISION_AT, Ints, arrow_numbers, instants, present_in
from pipeline_assets.processing.features.defaults import with_defaults
from pipeline_assets.processing.features.keys import bucket_of, key_columns
from pipeline_assets.processing.features.timeline import NEVER, Columns, build_timeline
from pipeline_assets.processing.features.windows import window_features, window_values
from pipeline_assets.spec.features import FeatureView, Latest

# A bucket asked more often than this is asked in parts, so that a hot key needs memory for its events and one part of its requests only.
REQUESTS_AT_ONCE = 2_000_000


def feature_names(view: FeatureView) -> tuple[str, ...]:
    """The columns of the view's features, in the order of their declaration."""
    return tuple(column.name for column in view_columns(view))


def view_features(
    view: FeatureView, requests: pa.Table, events: pa.Table, *, buckets: int = 1, requests_at_once: int = REQUESTS_AT_ONCE
) -> pa.Table:
    """The features of the view for each request, as they could be known at its decision_at.

    requests: the entity's key columns and `decision_at` (aware, to the microsecond), any order, other columns ignored. events: the key
    columns, the times and the features' columns of the view's source, any order. Both may be empty.
    Returns len(requests) rows in their order with the columns `feature_names(view)`: `count` and the codes of listed categories as int64,
    learned categories as text, all others as float64, with nulls where no default is declared.
    The bytes are the same for every number of buckets (crc32 of the key) and every `requests_at_once`.
    Raises TableMismatch where a column is missing, duplicated or of the wrong type, a time naive or null, a value NaN or infinite.
    """
    if buckets == 1 and requests.num_rows <= requests_at_once:
        return bucket_features(view, requests, events)
    _refuse_broken(view, requests, events)
    theirs = _by_bucket(bucket_of(events, view.source.name, view.entity.keys, buckets), buckets)
    return features_by_bucket(
        view, requests, lambda bucket: events.take(pa.array(theirs[bucket])), buckets=buckets, requests_at_once=requests_at_once
    )


def features_by_bucket(
    view: FeatureView,
    requests: pa.Table,
    events_of: Callable[[int], pa.Table],
    *,
    buckets: int,
    requests_at_once: int = REQUESTS_AT_ONCE,
) -> pa.Table:
    """As `view_features`, where `events_of` gives the events of a bucket when its turn comes: those of one are in memory at a time.

    Events of a bucket that nobody asks about are not asked for, and so not checked.
    """
    asked: list[Ints] = []
    answers: list[pa.Table] = []
    for rows, mine in _parts(view, requests, events_of, buckets, requests_at_once):
        asked.append(rows)
        answers.append(bucket_features(view, requests.take(pa.array(rows)), mine))
    found, order = pa.concat_tables(answers), np.argsort(np.concatenate(asked))
    return pa.table({name: _rearranged(found.column(name).combine_chunks(), order) for name in found.column_names})


def bucket_features(view: FeatureView, requests: pa.Table, events: pa.Table) -> pa.Table:
    """The features of the view for requests and events of one bucket: what a cluster maps over, see `view_features`."""
    columns = Columns(
        keys=view.entity.keys,
        asked_at=DECISION_AT,
        event_at=view.source.event_at,
        known_at=view.source.known_at,
        order_by=view.source.order_by,
        superseded_at=view.source.superseded_at,
    )
    timeline = build_timeline(requests, events, columns, name=view.source.name, is_ordered=_asks_for_newest(view))
    found = window_features(view, timeline, events) | latest_features(view, timeline, events)
    return with_defaults(view_columns(view), pa.table({name: found[name] for name in feature_names(view)}))


def _asks_for_newest(view: FeatureView) -> bool:
    return any(isinstance(feature, Latest) or feature.aggregate == "last" for feature in view.features)


def _parts(
    view: FeatureView, requests: pa.Table, events_of: Callable[[int], pa.Table], buckets: int, at_once: int
) -> Iterator[tuple[Ints, pa.Table]]:
    """Rows of requests, at most `at_once`, and the events of their bucket; at least one part, if an empty one."""
    asked = _by_bucket(bucket_of(requests, "requests", view.entity.keys, buckets), buckets)
    for bucket, rows in enumerate(asked):
        mine = events_of(bucket) if len(rows) else None
        for start in range(0, len(rows), at_once):
            yield rows[start : start + at_once], mine
    if requests.num_rows == 0:
        yield asked[0], events_of(0).slice(0, 0)


def _by_bucket(bucket: Ints, buckets: int) -> list[Ints]:
    """The rows of each bucket, in their order."""
    order = np.argsort(bucket, kind="stable")
    return np.split(order, np.searchsorted(bucket[order], np.arange(1, buckets)))


def _refuse_broken(view: FeatureView, requests: pa.Table, events: pa.Table) -> None:
    """Raises TableMismatch for what the whole tables have wrong, also in buckets without requests."""
    instants(requests, "requests", DECISION_AT)
    for column in (view.source.event_at, view.source.known_at):
        instants(events, view.source.name, column)
    if view.source.superseded_at is not None:
        instants(events, view.source.name, view.source.superseded_at, unless=NEVER)
    for key in view.entity.keys:
        key_columns(requests, events, key, view.source.name)
    for feature in view.features:
        if isinstance(feature, Latest):
            latest_values(events, view.source.name, feature)
        elif feature.column is not None:
            window_values(events, view.source.name, feature)


def _rearranged(column: pa.Array, order: Ints) -> pa.Array:
    """column[order], with zeros under the nulls of numbers."""
    if pa.types.is_string(column.type):
        return column.take(pa.array(order))
    return arrow_numbers(column.fill_null(0).to_numpy(zero_copy_only=False)[order], present_in(column)[order])
