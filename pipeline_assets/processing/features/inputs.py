"""What the rows of a feature table were made from, day by day, so that rows are computed again only where that has changed."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import date, datetime
from hashlib import sha256
from operator import itemgetter

import polars as pl
import pyarrow as pa

from pipeline_assets.processing.features.catalogue import lookback, view_hash
from pipeline_assets.spec.features import FeatureView


def first_event_day(view: FeatureView, first: date) -> date | None:
    """The day of the first event that a decision of the day `first` could count; None if there is no limit."""
    span = lookback(view)
    return None if span is None else (datetime.combine(first, datetime.min.time()) - span).date()


def digests(view: FeatureView, events: pa.Table, days: Sequence[date]) -> dict[date, str]:
    """Of each day a digest of everything that its features depend on: the view's declaration, and the events that it can look back to.

    events: all that happened from the first event day of the first of `days` to the end of the last, whenever they became known. Equal
    events in the columns that the view reads give equal digests, whatever their order and whichever days are asked for beside; a change
    in any of them gives another digest, also where no feature comes out differently.
    """
    parts = _by_event_day(view, events)
    return {day: _digest(view, parts, day) for day in days}


def _by_event_day(view: FeatureView, events: pa.Table) -> list[tuple[date, bytes]]:
    """The days that have events, in order, each with a digest of its events."""
    frame = pl.DataFrame(events.select(sorted(events.column_names)))
    rows = pl.DataFrame({"day": frame[view.source.event_at].dt.date(), "row": frame.hash_rows(seed=0)}).sort("day", "row")
    return [(day, sha256(part["row"].to_numpy().tobytes()).digest()) for (day,), part in rows.group_by("day", maintain_order=True)]


def _digest(view: FeatureView, parts: Sequence[tuple[date, bytes]], day: date) -> str:
    since = first_event_day(view, day)
    first = 0 if since is None else bisect_left(parts, since, key=itemgetter(0))
    # The hashes of rows are the same within one version of Polars only; after an update of it rows are computed again.
    found = sha256(f"{view_hash(view)} {pl.__version__}".encode())
    for event_day, part in parts[first : bisect_right(parts, day, key=itemgetter(0))]:
        found.update(event_day.isoformat().encode() + part)
    return found.hexdigest()[:32]
