"""The promotion ledger: an append-only table in the warehouse that says which version of a model is live, since when, and why.

Every entry has the next number of its model, so entries form a chain. A promotion or a roll back names the version that it expects to be
live and is refused if another one is: compare-and-swap. The database itself forbids to change or delete an entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.errors import PromotionConflict
from pipeline_assets.core.settings import Settings
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    import psycopg

Change = Literal["promote", "rollback"]
Action = Literal["promote", "rollback", "reject"]
# Which version is meant: the one that is live now, or for each day the one that was live as it began.
AskedVersion = Literal["champion", "as_of"]
TABLE = "promotions"
CREATE = """
create schema if not exists {schema};

create table if not exists {table} (
    entry_id bigint generated always as identity primary key,
    model text not null,
    sequence integer not null check (sequence > 0),
    version integer not null check (version > 0),
    previous_version integer,
    action text not null check (action in ('promote', 'rollback', 'reject')),
    actor text not null,
    reason text not null,
    rules jsonb not null,
    run_id text,
    live_from timestamptz not null,
    recorded_at timestamptz not null default clock_timestamp(),
    unique (model, sequence)
);

create or replace function {guard}() returns trigger language plpgsql as $$
begin
    raise exception 'the ledger of promotions is append-only: % is refused', tg_op;
end
$$;

create or replace trigger append_only before update or delete on {table}
for each row execute function {guard}();

create or replace trigger never_truncated before truncate on {table}
for each statement execute function {guard}();
"""
COLUMNS = "sequence, version, previous_version, action, actor, reason, rules, run_id, live_from, recorded_at"


LIVE = """
    select distinct on (model) model, version, sequence, recorded_at from {table} where action <> 'reject' order by model, sequence desc
"""


@dataclass(frozen=True, kw_only=True)
class Live:
    """The version of a model that is live, by which entry of its ledger, and since when (wall clock)."""

    version: int
    sequence: int
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is to be written, and why.

    `rules` are those of the gate as it judged them, each as a JSON object; `run_id` is the MLflow run of a candidate; `live_from` is the
    event time from which the decision holds (aware), which for a candidate is the `as_of` of its training.
    """

    version: int
    actor: str
    reason: str
    live_from: datetime
    rules: Sequence[Mapping[str, Any]] = ()
    run_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of the ledger. `sequence` counts the entries of a model from 1; `previous_version` was live before; times are UTC."""

    sequence: int
    version: int
    previous_version: int | None
    action: Action
    actor: str
    reason: str
    rules: tuple[Mapping[str, Any], ...]
    run_id: str | None
    live_from: datetime
    recorded_at: datetime


def promote(settings: Settings, model: Model, decision: Decision, *, expected_version: int | None, action: Change = "promote") -> Entry:
    """Makes a version live if `expected_version` still is (None: none is), in one transaction.

    Raises PromotionConflict if another version is live by now; then nothing is written.
    """
    with warehouse(settings) as connection:
        found = _locked(connection, model)
        if live(found) != expected_version:
            raise PromotionConflict(model.name, expected_version, live(found))
        return _append(connection, model, action, decision, found)


def reject(settings: Settings, model: Model, decision: Decision) -> Entry:
    """Writes down that a version was judged and may not go live; whatever is live stays so."""
    with warehouse(settings) as connection:
        return _append(connection, model, "reject", decision, _locked(connection, model))


def history(settings: Settings, model: Model) -> tuple[Entry, ...]:
    """All entries of a model, oldest first; none where nothing was ever decided."""
    with warehouse(settings) as connection:
        return _entries(connection, model) if _exists(connection) else ()


def live_versions(connection: "psycopg.Connection") -> dict[str, Live]:
    """Of each model that ever had one: the version that is live; none where nothing was ever decided."""
    from psycopg import sql

    if not _exists(connection):
        return {}
    query = sql.SQL(LIVE).format(table=sql.Identifier(names.LEDGER, TABLE))
    return {model: Live(version=version, sequence=sequence, since=since) for model, version, sequence, since in connection.execute(query)}


def live_version(settings: Settings, model: Model) -> int | None:
    """The version that is live; None where none is."""
    return live(history(settings, model))


def live_version_at(settings: Settings, model: Model, at: datetime) -> int | None:
    """The version that is live at the event time `at`: that of the last decision which holds from `at` or earlier; None before any."""
    return live_at(history(settings, model), at)


def ancestry(entries: Sequence[Entry]) -> tuple[int, ...]:
    """The versions that a roll back can return to and, last, the live one.

    A promotion adds to the line. A roll back cuts it after the version that it returns to; so going back twice goes further back, and
    never to a version that was itself rolled back from. A return to a version that is not in the line adds it.
    """
    line: list[int] = []
    for entry in entries:
        if entry.action == "rollback" and entry.version in line:
            del line[line.index(entry.version) + 1 :]
        elif entry.action != "reject":
            line = [version for version in line if version != entry.version] + [entry.version]
    return tuple(line)


def live(entries: Sequence[Entry]) -> int | None:
    """The version that is live after these entries, oldest first; None where none is."""
    return next((entry.version for entry in reversed(entries) if entry.action != "reject"), None)


def live_at(entries: Sequence[Entry], at: datetime) -> int | None:
    """The version that is live after those of these entries which hold from the event time `at` or earlier; None where none is."""
    return live([entry for entry in entries if entry.live_from <= at])


def _locked(connection: "psycopg.Connection", model: Model) -> tuple[Entry, ...]:
    """The entries of a model, which no one else can add to until this transaction ends; the table is made where there is none."""
    if not _exists(connection):
        _create(connection)
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{names.LEDGER}.{TABLE}/{model.name}",))
    return _entries(connection, model)


def _exists(connection: "psycopg.Connection") -> bool:
    row = connection.execute("select to_regclass(%s)", (f"{names.LEDGER}.{TABLE}",)).fetchone()
    return row is not None and row[0] is not None


def _create(connection: "psycopg.Connection") -> None:
    """Makes schema, table and guards; two at once wait for each other, as `if not exists` alone can fail then."""
    from psycopg import sql

    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{names.LEDGER}.{TABLE}",))
        schema, guard = sql.Identifier(names.LEDGER), sql.Identifier(names.LEDGER, "refuse_change")
        connection.execute(sql.SQL(CREATE).format(schema=schema, table=sql.Identifier(names.LEDGER, TABLE), guard=guard))


def _entries(connection: "psycopg.Connection", model: Model) -> tuple[Entry, ...]:
    from psycopg import sql
    from psycopg.rows import dict_row

    query = sql.SQL("select {columns} from {table} where model = %s order by sequence").format(
        columns=sql.SQL(COLUMNS), table=sql.Identifier(names.LEDGER, TABLE)
    )
    with connection.cursor(row_factory=dict_row) as cursor:
        return tuple(_entry(row) for row in cursor.execute(query, (model.name,)))


def _append(connection: "psycopg.Connection", model: Model, action: Action, decision: Decision, found: Sequence[Entry]) -> Entry:
    from psycopg import sql
    from psycopg.rows import dict_row
    from psycopg.types.json import Jsonb

    query = sql.SQL(
        "insert into {table} (model, sequence, version, previous_version, action, actor, reason, rules, run_id, live_from)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning {columns}"
    ).format(columns=sql.SQL(COLUMNS), table=sql.Identifier(names.LEDGER, TABLE))
    rules = Jsonb([dict(rule) for rule in decision.rules])
    values = (decision.version, live(found), action, decision.actor, decision.reason, rules, decision.run_id, decision.live_from)
    with connection.cursor(row_factory=dict_row) as cursor:
        (row,) = cursor.execute(query, (model.name, len(found) + 1, *values)).fetchall()
    return _entry(row)


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(**{**row, "rules": tuple(row["rules"])})
