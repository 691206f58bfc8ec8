# ruff: noqa: S608 - the names in these queries are quoted, or made here
"""Rows taken out of the online store: their views are what the rows left make them, and no state of their keys is kept."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.keep import change_of
from pipeline_assets.model_lifecycle.feature_store.online.rows import SEPARATOR, escaped
from pipeline_assets.model_lifecycle.feature_store.online.session import BEFORE, Session

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composed

# A key of a view by the places of its parts that hold the forgotten key, and the texts of that.
Part = tuple[tuple[int, ...], tuple[str, ...]]


def take_out(session: Session, rows: str | None, raw: str | None, states: Sequence[str]) -> None:
    """Takes rows out of a feed, and states of their keys, in one transaction with its copy.

    Cleaned rows, of a stream the raw ones, and states, each by a condition in SQL (None: none).
    """
    with session.transaction() as cursor:
        watermark = session.watermark(cursor)
        if watermark is None:
            return
        if session.kept.feed.stream is not None and raw is not None:
            session.derive_without(cursor, raw)
        elif rows is not None:
            cursor.execute(f"insert into {BEFORE} {session.stored(rows)}")
        change_of(session, cursor, watermark)
        for condition in states:
            cursor.execute(f"delete from {session.state} where {condition}")
        session.note(cursor, watermark=watermark)
        # Notes of what changed have the keys as text.
        for statement in store.EMPTY:
            cursor.execute(statement.format(id=session.kept.id))
        session.copy_anew()


def count_states(connection: "psycopg.Connection", kept: store.Kept, slot: int, parts: Iterable[Part]) -> int:
    """How many states of a view have a key with the forgotten one in it."""
    from psycopg import sql

    statement = sql.SQL("select count(*) from {} where {}")
    found = (connection.execute(statement.format(kept.state, _of_key(kept, slot, part))).fetchone() for part in parts)
    return sum(int(row[0]) for row in found if row is not None)


def states_of(connection: "psycopg.Connection", kept: store.Kept, slot: int, parts: Iterable[Part]) -> list[str]:
    """The conditions in SQL of the states of a view whose key has the forgotten one in it."""
    return [_of_key(kept, slot, part).as_string(connection) for part in parts]


def _of_key(kept: store.Kept, slot: int, part: Part) -> "Composed":
    from psycopg import sql

    places, texts = part
    same = [sql.SQL("view = {}").format(sql.Literal(slot))]
    if len(kept.feed.views[slot].entity.keys) == 1:
        return sql.SQL(" and ").join([*same, sql.SQL("key = {}").format(sql.Literal(texts[0]))])
    for place, text in zip(places, texts, strict=True):
        asked = map(sql.Literal, (SEPARATOR, place + 1, escaped(text)))
        same.append(sql.SQL("split_part(key, {}, {}) = {}").format(*asked))
    return sql.SQL(" and ").join(same)


def old_versions(connection: "psycopg.Connection", known: Sequence[int]) -> dict[int, tuple[str, str]]:
    """The versions of feeds that are none of these, by number with name and hash: of views that are not declared like that any more."""
    if connection.execute("select to_regclass('online.feeds') is null").fetchone() == (True,):
        return {}
    found = connection.execute("select id, name, hash from online.feeds where not id = any(%s)", [list(known)]).fetchall()
    return {number: (name, digest) for number, name, digest in found}
