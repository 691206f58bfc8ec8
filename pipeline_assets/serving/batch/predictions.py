"""The warehouse table `predictions.<model>`: a range of days put in place of what was there, in one transaction."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from io import BytesIO
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as pa_csv

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.settings import Settings
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from psycopg import Cursor
    from psycopg.sql import Composed, Identifier

PREDICTION_ID, DECISION_AT, SCORE = "prediction_id", "decision_at", "score"
MODEL_VERSION, FEATURE_HASH = "model_version", "feature_hash"


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """How many rows a replacement wrote (new, or changed) and removed (gone, or changed)."""

    written: int
    removed: int


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the table holds of a range of days: rows by version, and how many scores are no probability (below 0, above 1, or NaN)."""

    versions: Mapping[int, int]
    out_of_range: int

    @property
    def rows(self) -> int:
        """The rows of all versions."""
        return sum(self.versions.values())


class Replacement:
    """Rows gathered to replace those of a range of days; nothing is visible before `finish`, and its caller's commit."""

    def __init__(self, cursor: "Cursor", model: Model, first: date, last: date) -> None:
        self._cursor, self._model, self._days = cursor, model, _bounds(first, last)

    def add(self, rows: pa.Table) -> None:
        """Gathers rows with the columns of `columns(model)`; each prediction_id once in all calls together."""
        from psycopg.sql import SQL

        data = BytesIO()
        pa_csv.write_csv(rows.select(columns(self._model)), data, pa_csv.WriteOptions(include_header=False))
        copy = SQL("copy incoming ({columns}) from stdin (format csv)").format(columns=_listed(columns(self._model)))
        with self._cursor.copy(copy) as stream:
            stream.write(data.getbuffer())

    def finish(self, run_id: str) -> Replaced:
        """Removes what is gone or has changed, and writes what is new or has changed as of `run_id` and now; leaves the rest alone."""
        from psycopg.sql import SQL

        table = _table(self._model)
        same = SQL(" and ").join(SQL("incoming.{0} = kept.{0}").format(_name(column)) for column in columns(self._model))
        gone = SQL(
            "delete from {table} as kept where decision_at >= %s and decision_at < %s and not exists (select from incoming where {same})"
        )
        self._cursor.execute(gone.format(table=table, same=same), self._days)
        removed = self._cursor.rowcount
        new = SQL(
            "insert into {table} ({columns}, run_id, scored_at) select {columns}, %s, now() from incoming "
            "where not exists (select from {table} as kept where kept.prediction_id = incoming.prediction_id)"
        )
        self._cursor.execute(new.format(table=table, columns=_listed(columns(self._model))), (run_id,))
        return Replaced(written=self._cursor.rowcount, removed=removed)


@contextmanager
def replacing(settings: Settings, model: Model, first: date, last: date) -> Iterator[Replacement]:
    """A replacement of the days `first` to `last` (UTC, inclusive, of decision_at), committed at the end of the block, or not at all.

    Makes schema and table where they are missing. Replacements of the same model wait for each other; readers wait for none.
    """
    from psycopg.sql import SQL

    with warehouse(settings) as connection, connection.cursor() as cursor:
        with connection.transaction():
            _define(cursor, model)
        cursor.execute(SQL("lock table {table} in share row exclusive mode").format(table=_table(model)))
        incoming = SQL("create temporary table incoming on commit drop as select {columns} from {table} with no data")
        cursor.execute(incoming.format(columns=_listed(columns(model)), table=_table(model)))
        yield Replacement(cursor, model, first, last)


def read_kept(settings: Settings, model: Model, first: date, last: date) -> Kept:
    """What the table holds of the days `first` to `last` (UTC, inclusive, of decision_at)."""
    from psycopg.sql import SQL

    query = SQL(
        "select model_version, count(*), count(*) filter (where not score between 0 and 1) from {table} "
        "where decision_at >= %s and decision_at < %s group by model_version order by model_version"
    ).format(table=_table(model))
    with warehouse(settings) as connection:
        found = connection.execute(query, _bounds(first, last)).fetchall()
    return Kept(versions={version: rows for version, rows, _ in found}, out_of_range=sum(broken for _, _, broken in found))


def columns(model: Model) -> tuple[str, ...]:
    """The columns that say what was predicted; `run_id` and `scored_at` say who wrote the row, and when."""
    return (PREDICTION_ID, model.observations.key, DECISION_AT, SCORE, MODEL_VERSION, FEATURE_HASH)


def _define(cursor: "Cursor", model: Model) -> None:
    """Makes schema, table and index where there is no table; one run at a time, as `if not exists` fails when two are the first."""
    from psycopg.sql import SQL

    cursor.execute("select pg_advisory_xact_lock(hashtext(%s))", (names.PREDICTIONS,))
    if _exists(cursor, model):
        return
    cursor.execute(SQL("create schema if not exists {schema}").format(schema=_name(names.PREDICTIONS)))
    table = SQL(
        "create table {table} (prediction_id uuid primary key, {key} text not null, decision_at timestamptz not null, "
        "score double precision not null, model_version bigint not null, feature_hash text not null, "
        "run_id text not null, scored_at timestamptz not null)"
    )
    cursor.execute(table.format(table=_table(model), key=_name(model.observations.key)))
    index = SQL("create index {index} on {table} (decision_at)")
    cursor.execute(index.format(index=_name(f"{model.name}_by_decision_at"), table=_table(model)))


def _exists(cursor: "Cursor", model: Model) -> bool:
    schema, table = names.predictions(model.name)
    cursor.execute("select exists (select from pg_tables where schemaname = %s and tablename = %s)", (schema, table))
    return cursor.fetchone() == (True,)


def _bounds(first: date, last: date) -> tuple[datetime, datetime]:
    return datetime.combine(first, time(), UTC), datetime.combine(last + timedelta(days=1), time(), UTC)


def _table(model: Model) -> "Identifier":
    return _name(*names.predictions(model.name))


def _listed(columns: Sequence[str]) -> "Composed":
    from psycopg.sql import SQL

    return SQL(", ").join(_name(column) for column in columns)


def _name(*parts: str) -> "Identifier":
    from psycopg.sql import Identifier

    return Identifier(*parts)
