"""The warehouse table `predictions.<model>`: a range of days put in place of what was there, in one transaction."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, LiteralString

import pyarrow as pa
import pyarrow.csv as pa_csv

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.batch.answers import VERSION_TYPE, answer_columns, unfit_answer, version_columns
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from psycopg import Cursor
    from psycopg.sql import Composable, Composed, Identifier

PREDICTION_ID, DECISION_AT, MODEL_VERSION, FEATURE_HASH, RUN_ID, VECTORS_SNAPSHOT, SCORED_AT = names.PREDICTION_COLUMNS


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """How many rows a replacement wrote (new, or changed) and removed (gone, or changed)."""

    written: int
    removed: int


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the table holds of a range of days: rows by version and by day, and how many have an answer that the task cannot give.

    Such an answer is a probability that is NaN, below 0 or above 1, probabilities of classes that do not add up to 1, or a value that is
    not finite.
    """

    versions: Mapping[int, int]
    by_day: Mapping[date | None, int]
    out_of_range: int

    @property
    def rows(self) -> int:
        """The rows of all versions."""
        return sum(self.versions.values())


class Replacement:
    """Rows gathered to replace those of a range of days; nothing is visible before `finish`, and its caller's commit."""

    def __init__(self, cursor: "Cursor", model: Model, first: date, last: date) -> None:
        self._cursor, self._model, self._days = cursor, model, bounds(first, last)

    def add(self, rows: pa.Table) -> None:
        """Gathers rows with the columns of `columns(model)`; each prediction_id once in all calls together."""
        from psycopg.sql import SQL

        data = BytesIO()
        pa_csv.write_csv(rows.select(columns(self._model)), data, pa_csv.WriteOptions(include_header=False))
        copy = SQL("copy incoming ({columns}) from stdin (format csv)").format(columns=listed(columns(self._model)))
        with self._cursor.copy(copy) as stream:
            stream.write(data.getbuffer())

    def finish(self, run_id: str, vectors_snapshot: int | None) -> Replaced:
        """Removes what is gone or has changed, and writes what is new or has changed, with the run and now; leaves the rest alone.

        `vectors_snapshot` is the snapshot of the lake from which the vectors were read.
        """
        from psycopg.sql import SQL

        table = table_of(self._model)
        same = SQL(" and ").join(SQL("incoming.{0} = kept.{0}").format(_name(column)) for column in columns(self._model))
        gone = SQL(
            "delete from {table} as kept where decision_at >= %s and decision_at < %s and not exists (select from incoming where {same})"
        )
        self._cursor.execute(gone.format(table=table, same=same), self._days)
        removed = self._cursor.rowcount
        new = SQL(
            "insert into {table} ({columns}, run_id, vectors_snapshot_id, scored_at) select {columns}, %s, %s, now() from incoming "
            "where not exists (select from {table} as kept where kept.prediction_id = incoming.prediction_id)"
        )
        self._cursor.execute(new.format(table=table, columns=listed(columns(self._model))), (run_id, vectors_snapshot))
        return Replaced(written=self._cursor.rowcount, removed=removed)


@contextmanager
def replacing(settings: Settings, model: Model, first: date, last: date, vectors: pa.Schema) -> Iterator[Replacement]:
    """A replacement of the days `first` to `last` (UTC, inclusive, of decision_at), committed at the end of the block, or not at all.

    Makes schema and table where they are missing, with the keys in the types of `vectors`. Replacements of the same model wait for each
    other; readers wait for none. Raises TableMismatch if there is a table that cannot hold the answers of the model's task.
    """
    from psycopg.sql import SQL

    with warehouse(settings) as connection, connection.cursor() as cursor:
        with connection.transaction():
            _define(cursor, model, vectors)
        cursor.execute(SQL("lock table {table} in share row exclusive mode").format(table=table_of(model)))
        incoming = SQL("create temporary table incoming on commit drop as select {columns} from {table} with no data")
        cursor.execute(incoming.format(columns=listed(columns(model)), table=table_of(model)))
        yield Replacement(cursor, model, first, last)


def read_kept(settings: Settings, model: Model, first: date, last: date) -> Kept:
    """What the table holds of the days `first` to `last` (UTC, inclusive, of decision_at)."""
    from psycopg.sql import SQL

    query = SQL(
        "select model_version, (decision_at at time zone 'UTC')::date, count(*), count(*) filter (where {unfit}) from {table} "
        "where decision_at >= %s and decision_at < %s group by 1, 2 order by 1, 2"
    ).format(table=table_of(model), unfit=unfit_answer(model.task))
    with warehouse(settings) as connection:
        found = connection.execute(query, bounds(first, last)).fetchall()
    versions, by_day = Counter[int](), Counter[date | None]()
    for version, day, rows, _ in found:
        versions[version] += rows
        by_day[day] += rows
    return Kept(versions=versions, by_day=by_day, out_of_range=sum(broken for *_, broken in found))


def columns(model: Model) -> tuple[str, ...]:
    """The columns that say what was predicted; the others say which run wrote the row, from which snapshot of the vectors, and when."""
    decision = (*model.observations.keys, DECISION_AT, *version_columns(model))
    return (PREDICTION_ID, *decision, *answer_columns(model.task), MODEL_VERSION, FEATURE_HASH)


def key_type(kind: pa.DataType) -> str:
    """The type of Postgres that holds a key of this type: text, or a 64-bit integer."""
    return "bigint" if pa.types.is_integer(kind) else "text"


def bounds(first: date, last: date) -> tuple[datetime, datetime]:
    """The instants from which (inclusive) and until which (exclusive) the days `first` to `last` last, in UTC."""
    return datetime.combine(first, time(), UTC), datetime.combine(last + timedelta(days=1), time(), UTC)


def table_of(model: Model) -> "Identifier":
    """The table of the model's predictions, as a part of SQL."""
    return _name(*names.predictions(model.name))


def listed(columns: Sequence[str]) -> "Composed":
    """Columns, as a part of SQL."""
    from psycopg.sql import SQL

    return SQL(", ").join(_name(column) for column in columns)


def _define(cursor: "Cursor", model: Model, vectors: pa.Schema) -> None:
    """Makes schema, table and index where there is no table; one run at a time, as `if not exists` fails when two are the first."""
    from psycopg.sql import SQL

    cursor.execute("select pg_advisory_xact_lock(hashtext(%s))", (names.PREDICTIONS,))
    found = _existing_columns(cursor, model)
    if found:
        _add_columns(cursor, model, found)
        _check_columns(model, found)
        return
    cursor.execute(SQL("create schema if not exists {schema}").format(schema=_name(names.PREDICTIONS)))
    cursor.execute(SQL("create table {table} ({columns})").format(table=table_of(model), columns=_definitions(model, vectors)))
    index = SQL("create index {index} on {table} (decision_at)")
    cursor.execute(index.format(index=_name(f"{model.name}_by_decision_at"), table=table_of(model)))


def _add_columns(cursor: "Cursor", model: Model, found: dict[str, bool]) -> None:
    """Adds to a table of an earlier version the columns that it lacks and that may be null, null in its rows."""
    from psycopg.sql import SQL

    for column, kind in _nullable(model).items():
        if column not in found:
            cursor.execute(SQL("alter table {} add column {} {}").format(table_of(model), _name(column), SQL(kind)))
            found[column] = True


def _nullable(model: Model) -> dict[str, LiteralString]:
    return {**dict.fromkeys(version_columns(model), VERSION_TYPE), VECTORS_SNAPSHOT: "bigint"}


def _definitions(model: Model, vectors: pa.Schema) -> "Composable":
    """The columns of a new table with their types."""
    from psycopg.sql import SQL

    types = {
        PREDICTION_ID: "uuid primary key",
        **{key: f"{key_type(vectors.field(key).type)} not null" for key in model.observations.keys},
        DECISION_AT: "timestamptz not null",
        **{column: f"{kind} not null" for column, kind in answer_columns(model.task).items()},
        MODEL_VERSION: "bigint not null",
        FEATURE_HASH: "text not null",
        RUN_ID: "text not null",
        **_nullable(model),
        SCORED_AT: "timestamptz not null",
    }
    return SQL(", ").join(SQL("{} {}").format(_name(name), SQL(kind)) for name, kind in types.items())


def _existing_columns(cursor: "Cursor", model: Model) -> dict[str, bool]:
    """The columns of the table, each with whether it may be null; none where there is no table."""
    schema, table = names.predictions(model.name)
    query = (
        "select column_name, is_nullable = 'YES' from information_schema.columns "
        "where table_schema = %s and table_name = %s order by ordinal_position"
    )
    return dict(cursor.execute(query, (schema, table)).fetchall())


def _check_columns(model: Model, found: Mapping[str, bool]) -> None:
    expected = {*columns(model), RUN_ID, VECTORS_SNAPSHOT, SCORED_AT}
    needless = {name for name, is_nullable in found.items() if not is_nullable}
    differing = sorted((expected - found.keys()) | (needless - expected))
    if differing:
        problem = (
            f"was made for other keys, another task or other classes: it differs in {', '.join(differing)}. "
            "Rename or drop it, or give the model another name"
        )
        raise TableMismatch(".".join(names.predictions(model.name)), problem, [*found])


def _name(*parts: str) -> "Identifier":
    from psycopg.sql import Identifier

    return Identifier(*parts)
