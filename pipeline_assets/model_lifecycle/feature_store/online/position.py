"""Positions: how far a feed had followed its source when its states were read or written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far the version of a feed with this hash had followed its source: what its states were made of, and nothing else.

    watermark: the newest time that something was known at, in microseconds; None where nothing came yet. offsets: of a stream, the next of
    each partition. snapshot_id: the snapshot of the lake's table that is followed, or that a stream's states began with.
    is_between: a commit of the table was being taken, so that the states were of two snapshots.
    """

    feed: str
    hash: str
    watermark: int | None
    snapshot_id: int | None
    is_between: bool
    offsets: Mapping[int, int]


def position_from(stored: Mapping[str, Any]) -> Position:
    """The position that `dataclasses.asdict` and JSON made, or the log of predictions: partitions are texts there."""
    return Position(**{**stored, "offsets": {int(partition): offset for partition, offset in stored["offsets"].items()}})


def position_of(feed: Feed, stored: tuple[int | None, int | None, bool, Mapping[str, int] | None]) -> Position:
    """The position that the store has written down for a feed."""
    watermark, snapshot_id, is_between, offsets = stored
    return Position(
        feed=feed.name,
        hash=feed.hash,
        watermark=watermark,
        snapshot_id=snapshot_id,
        is_between=is_between,
        offsets={int(partition): offset for partition, offset in (offsets or {}).items()},
    )
