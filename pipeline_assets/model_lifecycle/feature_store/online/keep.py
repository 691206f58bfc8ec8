"""Keeps a feed: what came of its rows changes the states of all views, in one transaction with how far it has been followed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.model_lifecycle.feature_store.online.codec import packed, unpacked
from pipeline_assets.model_lifecycle.feature_store.online.finished import finished
from pipeline_assets.model_lifecycle.feature_store.online.layout import Layout
from pipeline_assets.model_lifecycle.feature_store.online.rows import Events, distinct_keys, rows_of
from pipeline_assets.model_lifecycle.feature_store.online.session import Session
from pipeline_assets.model_lifecycle.feature_store.online.state import NO_BASE, States, built, changed, replaced
from pipeline_assets.processing.features.columns import Bools, Ints

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Cursor

# How far behind the newest that came a question may be asked, in microseconds: rows of so long stand apart from the tiles.
KEPT_APART = 10 * 60 * 1_000_000
DAY = 86_400 * 1_000_000


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a change did: how many rows of the cleaned table went and came."""

    gone: int
    come: int


def keep_records(session: Session, rows: pa.Table, offsets: Mapping[int, int], *, until: int | None = None) -> Change:
    """Takes rows of the contract of a stream's feed, and the offsets that are reached with them (the next of each partition).

    Rows that were taken before change nothing. until: up to when (µs) all is known that came so far, where that is later than the newest
    `known_at` of these rows.
    """
    contract = versioned(session.kept.feed.contract)
    schema = arrow_schema(contract)
    missing = [field.name for field in schema if field.name not in rows.column_names]
    whole = rows.select([field.name for field in schema if field.name not in missing])
    for name in missing:
        whole = whole.append_column(name, pa.nulls(whole.num_rows, schema.field(name).type))
    with session.transaction() as cursor:
        known = session.watermark(cursor)
        watermark = _watermark(known, rows, contract.known_at, until)
        whole = whole.filter(pa.array(~session.forgotten(cursor).holds(whole)))
        if whole.num_rows:
            session.derive(cursor, whole)
            change = change_of(session, cursor, watermark)
        else:
            change = Change(gone=0, come=0)
        session.note(cursor, watermark=watermark, offsets=offsets)
    return change


def keep_days(session: Session, rows: pa.Table, first_us: int, end_us: int) -> Change:
    """Has the store's rows that happened from one instant on and before another (µs) be these of the cleaned table."""
    with session.transaction() as cursor:
        known = session.watermark(cursor)
        watermark = _watermark(known, rows, session.kept.feed.table.known_at, None)
        session.before_between(cursor, first_us, end_us)
        session.after(cursor, rows)
        change = change_of(session, cursor, watermark)
        session.note(cursor, watermark=watermark)
    return change


def forget_old(session: Session) -> None:
    """Removes the rows that no question reaches any more."""
    lookback = session.kept.feed.lookback_us
    with session.transaction() as cursor:
        known = session.watermark(cursor)
        if known is not None and lookback is not None:
            session.forget_before(cursor, known - lookback - KEPT_APART - DAY)


def _watermark(known: int | None, rows: pa.Table, known_at: str, until: int | None) -> int:
    """The newest time that something was known at, not later than now: a row that claims to be known later holds up nothing."""
    newest = pc.max(rows[known_at]).cast(pa.int64()).as_py() if rows.num_rows else None
    now = int(datetime.now(UTC).timestamp() * 1_000_000)
    found = [min(one, now) for one in (newest, until) if one is not None]
    return max([*found, NO_BASE if known is None else known])


def change_of(session: Session, cursor: "Cursor", watermark: int) -> Change:
    """What the rows before and after a change make of the states, in the cursor's transaction."""
    gone, come = session.compare(cursor)
    if gone.num_rows or come.num_rows:
        events = Events(source=session.kept.feed.table, table=pa.concat_tables([gone, come]).combine_chunks())
        is_gone = np.arange(len(events)) < gone.num_rows
        for slot in range(len(session.kept.feed.layouts)):
            _keep_view(session, cursor, slot, events, is_gone, watermark)
    return Change(gone=gone.num_rows, come=come.num_rows)


def _keep_view(session: Session, cursor: "Cursor", slot: int, events: Events, is_gone: Bools, watermark: int) -> None:
    layout = session.kept.feed.layouts[slot]
    keys = distinct_keys(layout.view.entity, events.table, layout.view.source.name)
    if not keys.texts:
        return
    rows, has_key = rows_of(layout, events, keys.number), keys.number >= 0
    states = unpacked(layout, session.states(cursor, slot, keys.texts))
    gone, come = rows.take(is_gone & has_key), rows.take(~is_gone & has_key)
    states, is_broken = changed(states, gone, come, watermark, watermark - KEPT_APART)
    if is_broken.any():
        columns = events.table.select(layout.view.entity.keys).take(pa.array(keys.first))
        states = _built_anew(session, cursor, layout, columns, states, np.flatnonzero(is_broken))
    done = finished(layout, states, watermark)
    written = pa.table(
        {
            "view": pa.array(np.full(len(keys.texts), slot, np.int16)),
            "key": pa.array(keys.texts, pa.string()),
            "state": pa.array(packed(layout, states), pa.binary()),
            "value": pa.array(done.values, pa.binary()),
            "since": pa.array(done.since, pa.int64()),
            "until": pa.array(done.until, pa.int64()),
        }
    )
    session.write_states(cursor, slot, written)


def _built_anew(session: Session, cursor: "Cursor", layout: Layout, columns: pa.Table, states: States, broken: Ints) -> States:
    """The states with those keys built from all their rows, as a row is gone that was an extreme or the newest of its key."""
    keys = columns.take(pa.array(broken)).append_column("place", pa.array(np.arange(len(broken), dtype=np.int32)))
    found = session.rows_of_keys(cursor, keys)
    place = found["place"].to_numpy().astype(np.int64)
    rows = rows_of(layout, Events(source=layout.view.source, table=found), place)
    return replaced(states, broken, built(layout, rows, states.base_at[broken]))
