"""Which rows of a table are an entity's: some columns hold one of some keys, compared as text."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.core.foreign import in_page
from pipeline_assets.ingestion.sources.forgotten import WITHIN, field_of, objects_in, readings, text_of, texts_in, value_at

if TYPE_CHECKING:
    from psycopg.sql import Composed

PLACE = "__place"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Rows whose `columns`, as text, are one of `keys` (each as many texts); a null is equal to nothing.

    A column may be `field->>name`, see `forgotten.Rule`.
    """

    columns: tuple[str, ...]
    keys: frozenset[tuple[str, ...]]

    @property
    def is_within(self) -> bool:
        """Whether any of its columns stands within a field."""
        return any(WITHIN in column for column in self.columns)


@dataclass(frozen=True, kw_only=True)
class Match:
    """Rows that meet any of some conditions; none where there is no condition."""

    conditions: tuple[Condition, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are looked at, as tables have them."""
        return tuple(dict.fromkeys(field_of(column) for one in self.conditions for column in one.columns))

    def within(self, columns: Iterable[str]) -> "Match":
        """What of it can be said of a table with these columns."""
        known = set(columns)
        return Match(conditions=tuple(one for one in self.conditions if known.issuperset(map(field_of, one.columns))))

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
                if tuple(text_of(value_at(each, column)) for column in one.columns) in one.keys:
                    return True
        return False

    def shows(self, bounds: Mapping[str, Sequence[bytes]]) -> bool:
        """Whether a bound of a column, as Iceberg writes it, shows a key: text from its first signs on, whole numbers as such."""
        keys = {(column, text) for one in self.conditions for key in one.keys for column, text in zip(one.columns, key, strict=True)}
        return any(_shows(bound, column, text) for column, text in keys for bound in bounds.get(field_of(column), ()))

    def is_in(self, original: bytes, columns: Sequence[str] | None = None) -> bool:
        """Whether bytes that can be read as JSON, or as a line in known columns, meet it."""
        return any(self.names(one) for one in readings(original, columns))

    def sql(self, columns: Iterable[str], alias: str | None = None) -> "Composed | None":
        """The condition in SQL on a table with these columns, without those on what is within a field; None where nothing can be said."""
        from psycopg import sql

        parts = [_sql(one, alias) for one in self.within(columns).conditions if one.keys and not one.is_within]
        return sql.SQL("({})").format(sql.SQL(" or ").join(parts)) if parts else None


def _shows(bound: bytes, column: str, text: str) -> bool:
    _, _, within = column.partition(WITHIN)
    if within:
        # JSON as it is logged, of which sixteen signs may end within the value.
        before = f"{json.dumps(within)}:".encode()
        _, found, value = bound.partition(before)
        shown = json.dumps(text, ensure_ascii=False).encode() if value.startswith(b'"') else text.encode()
        sure = value[:-1]
        return bool(found and sure.strip(b'"')) and (shown.startswith(sure) or value.startswith(shown))
    # Bounds of text are cut to sixteen signs, of which the last may be another.
    is_number = text.lstrip("-").isdigit() and bound == int(text).to_bytes(8, "little", signed=True)
    return is_number or bound.startswith(text[:15].encode())


def _places(rows: pa.RecordBatch | pa.Table, one: Condition) -> np.ndarray:
    frame = texts_in(rows, one.columns).with_row_index(PLACE)
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
    """Whether bytes have a text with no letter or digit right before or after it: as it is, in JSON, or as pages write foreign text."""
    plain = {text, in_page(text)}
    written = plain | {json.dumps(form)[1:-1] for form in plain} | {json.dumps(form, ensure_ascii=False)[1:-1] for form in plain}
    forms = b"|".join(re.escape(form.encode()) for form in sorted(written))
    return re.search(rb"(?<![0-9A-Za-z])(?:" + forms + rb")(?![0-9A-Za-z])", content) is not None
