"""Which rows of a table are an entity's: some columns hold one of some keys, compared as text."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.ingestion.sources.forgotten import objects_in, readings, text_of

if TYPE_CHECKING:
    from psycopg.sql import Composed

PLACE = "__place"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Rows whose `columns`, as text, are one of `keys` (each as many texts); a null is equal to nothing."""

    columns: tuple[str, ...]
    keys: frozenset[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Match:
    """Rows that meet any of some conditions; none where there is no condition."""

    conditions: tuple[Condition, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are looked at."""
        return tuple(dict.fromkeys(column for one in self.conditions for column in one.columns))

    def within(self, columns: Iterable[str]) -> "Match":
        """What of it can be said of a table with these columns."""
        known = set(columns)
        return Match(conditions=tuple(one for one in self.conditions if known.issuperset(one.columns)))

    def holds(self, rows: pa.RecordBatch | pa.Table) -> np.ndarray:
        """Which rows meet it, a boolean each; columns that the rows lack meet nothing."""
        found = np.zeros(rows.num_rows, dtype=bool)
        for one in self.within(rows.schema.names).conditions:
            if rows.num_rows and one.keys:
                found[_places(rows, one)] = True
        return found

    def names(self, values: Mapping[str, Any]) -> bool:
        """Whether the values of an object, or of one within it, meet it."""
        for each in objects_in(values):
            for one in self.conditions:
                if tuple(text_of(each.get(column)) for column in one.columns) in one.keys:
                    return True
        return False

    def shows(self, bounds: Mapping[str, Sequence[bytes]]) -> bool:
        """Whether a bound of a column, as Iceberg writes it, shows a key: text from its first signs on, whole numbers as such."""
        keys = {(column, text) for one in self.conditions for key in one.keys for column, text in zip(one.columns, key, strict=True)}
        return any(_shows(bound, text) for column, text in keys for bound in bounds.get(column, ()))

    def is_in(self, original: bytes, columns: Sequence[str] | None = None) -> bool:
        """Whether bytes that can be read as JSON, or as a line in known columns, meet it."""
        return any(self.names(one) for one in readings(original, columns))

    def sql(self, columns: Iterable[str], alias: str | None = None) -> "Composed | None":
        """The condition in SQL on a table with these columns; None where nothing can be said."""
        from psycopg import sql

        parts = [_sql(one, alias) for one in self.within(columns).conditions if one.keys]
        return sql.SQL("({})").format(sql.SQL(" or ").join(parts)) if parts else None


def _shows(bound: bytes, text: str) -> bool:
    # Bounds of text are cut to sixteen signs, of which the last may be another.
    is_number = text.lstrip("-").isdigit() and bound == int(text).to_bytes(8, "little", signed=True)
    return is_number or bound.startswith(text[:15].encode())


def _places(rows: pa.RecordBatch | pa.Table, one: Condition) -> np.ndarray:
    frame = pl.DataFrame(pl.from_arrow(rows.select(list(one.columns)))).select(pl.all().cast(pl.String)).with_row_index(PLACE)
    keys = pl.DataFrame(list(one.keys), schema=dict.fromkeys(one.columns, pl.String), orient="row")
    return frame.join(keys, on=list(one.columns), how="semi")[PLACE].to_numpy()


def _sql(one: Condition, alias: str | None) -> "Composed":
    from psycopg import sql

    columns = [sql.SQL("{}::text").format(sql.Identifier(*(part for part in (alias, name) if part is not None))) for name in one.columns]
    parts = zip(*sorted(one.keys), strict=True)
    lists = [sql.SQL("array[{}]::text[]").format(sql.SQL(", ").join(map(sql.Literal, each))) for each in parts]
    return sql.SQL("({}) in (select * from unnest({}))").format(sql.SQL(", ").join(columns), sql.SQL(", ").join(lists))


def texts_of(rows: Iterable[pa.RecordBatch], columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The keys that rows have in some columns, as texts; those with a null are left out."""
    for batch in rows:
        frame = pl.DataFrame(pl.from_arrow(batch.select(list(columns)))).select(pl.all().cast(pl.String)).drop_nulls().unique()
        yield from frame.rows()


def names_word(content: bytes, text: str) -> bool:
    """Whether bytes have a text with no letter or digit right before or after it."""
    return re.search(rb"(?<![0-9A-Za-z])" + re.escape(text.encode()) + rb"(?![0-9A-Za-z])", content) is not None
