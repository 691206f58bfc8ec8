"""The features of a view by brute force: every request looks at every event, in exact fractions. Slow and plain; it judges the kernel."""

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from typing import Any

import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.spec.features import FeatureView, Latest, Learned, RequestFeature, Windowed

Row = dict[str, Any]
Value = float | int | str | None
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def oracle_features(view: FeatureView, requests: pa.Table, events: pa.Table) -> dict[str, list[Value]]:
    """One list per feature, one value per request, by the rules of the declarations read literally."""
    rows = events.to_pylist()
    answers: dict[str, list[Value]] = {}
    for request in requests.to_pylist():
        seen = _seen(view, rows, request)
        for feature in view.features:
            for window in (None,) if isinstance(feature, Latest) else feature.windows:
                answers.setdefault(names.feature(view.name, feature.name, window), []).append(_value(view, feature, window, seen, request))
    return answers


def oracle_newest(view: FeatureView, requests: pa.Table, rows: pa.Table, ttl: timedelta | None) -> list[Row | None]:
    """For each request the newest row of its key that it may know, if it is not older than `ttl`."""
    known = rows.to_pylist()
    newest = [(request, _seen(view, known, request)[-1:]) for request in requests.to_pylist()]
    return [
        found[0] if found and (ttl is None or request["decision_at"] - found[0][view.source.event_at] <= ttl) else None
        for request, found in newest
    ]


def _seen(view: FeatureView, rows: Sequence[Row], request: Row) -> list[Row]:
    """The events of the request's key that had happened, were known and were not superseded, newest last."""
    source, asked_at = view.source, request["decision_at"]
    mine = [
        row
        for row in rows
        if all(request[key] is not None and row[key] == request[key] for key in view.entity.keys)
        and row[source.event_at] <= asked_at
        and row[source.known_at] <= asked_at
        and (source.superseded_at is None or row[source.superseded_at] is None or asked_at < row[source.superseded_at])
    ]
    return sorted(mine, key=lambda row: _newness(view, row))


def _newness(view: FeatureView, row: Row) -> tuple[Any, ...]:
    """What makes a row newer than another: both times, then the columns that break ties, null the oldest."""
    ties = [(row[column] is not None, row[column]) for column in view.source.order_by]
    return (row[view.source.event_at], row[view.source.known_at], *ties)


def _value(view: FeatureView, feature: Windowed | Latest, window: timedelta | None, seen: list[Row], request: Row) -> Value:
    asked_at, event_at = request["decision_at"], view.source.event_at
    if isinstance(feature, Latest):
        fresh = [row for row in seen if feature.ttl is None or asked_at - row[event_at] <= feature.ttl]
        return plain_value(feature, fresh[-1][feature.column], asked_at) if fresh else None
    assert window is not None
    start = floor_hop(asked_at - window, hop(window, feature.hop))
    inside = [row for row in seen if row[event_at] >= start and (feature.column is None or row[feature.column] is not None)]
    if feature.aggregate == "count":
        return len(inside)
    if not inside:
        return None
    if feature.aggregate == "time_since_last":
        return float((asked_at - inside[-1][event_at]) / timedelta(seconds=1))
    assert feature.column is not None
    return aggregate(feature.aggregate, [row[feature.column] for row in inside])


def plain_value(feature: Latest | RequestFeature, value: Any, decided_at: datetime) -> Value:
    """A value of a column as a feature: text as itself or its place, a time as the seconds from it to the decision."""
    if value is None or isinstance(feature.values, Learned):
        return None if value is None else str(value)
    if feature.values:
        return feature.values.index(value) if value in feature.values else None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    return float((decided_at - value) / timedelta(seconds=1)) if isinstance(value, datetime) else float(value)


def aggregate(kind: str, values: Sequence[float]) -> float | None:
    """The aggregate of at least one value; sums exact, then rounded once."""
    total, count = sum(map(Fraction, values), Fraction(0)), len(values)
    if kind in {"variance", "stddev"}:
        if count < 2:
            return None
        squares = sum(Fraction(value) ** 2 for value in values)
        variance = float(count * squares - total * total) / (count * (count - 1))
        return math.sqrt(variance) if kind == "stddev" else variance
    mean = float(total) / count
    found: dict[str, float | Fraction] = {"sum": total, "mean": mean, "rate": mean, "min": min(values), "max": max(values)}
    return float(found.get(kind, values[-1]))


def hop(window: timedelta, declared: timedelta | None) -> timedelta:
    """The declared hop, or 5 minutes, an hour or a day by the length of the window."""
    if declared is not None:
        return declared
    if window <= timedelta(hours=12):
        return timedelta(minutes=5)
    return timedelta(hours=1) if window <= timedelta(days=10) else timedelta(days=1)


def floor_hop(at: datetime, size: timedelta) -> datetime:
    """The last whole multiple of the hop since the epoch that is not after `at`."""
    return EPOCH + (at - EPOCH) // size * size
