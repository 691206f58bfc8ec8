"""The promotion ledger: an append-only table in the warehouse that says which version of a model is live, since when, and why.

Every entry has the next number of its model, so entries form a chain. A promotion or a roll back names the version that it expects to be
live and is refused if another one is: compare-and-swap. The database itself forbids to change or delete an entry.

Versions that are tried beside the live one have entries too (`trials.py`); what is live is decided by promotions and roll backs alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.errors import ArtifactCorrupt, PromotionConflict
from pipeline_assets.core.own_rows import reading
from pipeline_assets.core.settings import Settings
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    import psycopg

Change = Literal["promote", "rollback"]
Role = Literal["shadow", "canary"]
Action = Literal["promote", "rollback", "reject", "shadow", "canary", "return"]
# Which version is meant: the one that is live now, or for each day the one that was live as it began.
AskedVersion = Literal["champion", "as_of"]
TABLE = "promotions"
WHOLE_NAME = f"{names.LEDGER}.{TABLE}"
# What is read of each of the rules that an entry keeps; of those of the gate, which judges a run, also which side of the limit is meant.
RULE, RULE_OF_GATE = frozenset({"name", "value", "limit", "passed"}), frozenset({"is_minimum"})
CHANGES, ROLES = frozenset({"promote", "rollback"}), frozenset({"shadow", "canary"})
CREATE = """
create schema if not exists {schema};

create table if not exists {table} (
    entry_id bigint generated always as identity primary key,
    model text not null,
    sequence integer not null check (sequence > 0),
    version integer not null check (version > 0),
    previous_version integer,
    action text not null,
    actor text not null,
    reason text not null,
    rules jsonb not null,
    run_id text,
    live_from timestamptz not null,
    recorded_at timestamptz not null default clock_timestamp(),
    unique (model, sequence)
);

-- Of tables from before versions were tried, and from before contracts were noted, too.
alter table {table} add column if not exists share double precision check (share > 0 and share < 1);
alter table {table} add column if not exists contract_sha256 text check (contract_sha256 ~ '^[0-9a-f]{{64}}$');
alter table {table} drop constraint if exists promotions_action_check;
alter table {table} add constraint promotions_action_check
check (action in ('promote', 'rollback', 'reject', 'shadow', 'canary', 'return') and (share is not null) = (action = 'canary'));

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
LATER_COLUMNS = ("share", "contract_sha256")
# Read so, a table from before has these columns too.
READ = f"{COLUMNS}, (to_jsonb(entry) ->> 'share')::float8 as share, to_jsonb(entry) ->> 'contract_sha256' as contract_sha256"
# An entry whose transaction is open yet may have a lower number than one that is there: the newest ones are left to the next look.
SINCE = """
    select entry_id, entry.model, {columns} from {table} as entry
    where entry_id > %s and recorded_at < clock_timestamp() - interval '5 seconds' order by entry_id limit %s
"""
SINCE_LIVE = """
    select entry.model, {columns} from {table} as entry join (
        select model, max(sequence) as live from {table} where action in ('promote', 'rollback') group by model
    ) as last using (model)
    where sequence >= live and action <> 'reject' order by model, sequence
"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A version that is tried beside the live one, `champion`: in its shadow, or as a canary that answers a `share` of entities.

    `began` is the number of the entry by which it began, `sequence` that of its last; `live_from` is the event time of both.
    """

    version: int
    role: Role
    share: float | None
    champion: int | None
    began: int
    sequence: int
    live_from: datetime
    contract_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Live:
    """The version of a model that is live, by which entry of its ledger, since when (wall clock), and what is tried beside it.

    `contract_sha256` is what its contract must have, None where the entry is from before that was noted; so it is of a trial.
    """

    version: int
    sequence: int
    since: datetime
    trial: Trial | None = None
    contract_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is to be written, and why.

    `rules` are those of the gate as it judged them, each as a JSON object; `run_id` is the MLflow run of a candidate; `live_from` is the
    event time from which the decision holds (aware), which for a candidate is the `as_of` of its training. `contract_sha256` is the digest
    of the version's contract, which has that of the model file; None: that of earlier entries.
    """

    version: int
    actor: str
    reason: str
    live_from: datetime
    rules: Sequence[Mapping[str, Any]] = ()
    run_id: str | None = None
    contract_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of the ledger. `sequence` counts the entries of a model from 1; `previous_version` was live before; times are UTC.

    `share` is that of a canary, None of any other entry. `contract_sha256` is the digest that the version's contract must have, None where
    it was not noted.
    """

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
    share: float | None = None
    contract_sha256: str | None = None


def promote(settings: Settings, model: Model, decision: Decision, *, expected_version: int | None, action: Change = "promote") -> Entry:
    """Makes a version live if `expected_version` still is (None: none is), in one transaction.

    Raises PromotionConflict if another version is live by now; then nothing is written.
    """
    with warehouse(settings) as connection:
        found = locked(connection, model)
        if live(found) != expected_version:
            raise PromotionConflict(model.name, expected_version, live(found))
        return append(connection, model, action, decision, found)


def reject(settings: Settings, model: Model, decision: Decision) -> Entry:
    """Writes down that a version was judged and may not go live; whatever is live stays so."""
    with warehouse(settings) as connection:
        return append(connection, model, "reject", decision, locked(connection, model))


def history(settings: Settings, model: Model) -> tuple[Entry, ...]:
    """All entries of a model, oldest first; none where nothing was ever decided."""
    with warehouse(settings) as connection:
        return _entries(connection, model) if _exists(connection) else ()


def live_versions(connection: "psycopg.Connection") -> dict[str, Live]:
    """Of each model that ever had one: the version that is live; none where nothing was ever decided. Read at one moment."""
    from psycopg import sql
    from psycopg.rows import dict_row

    if not _exists(connection):
        return {}
    query = sql.SQL(SINCE_LIVE).format(table=sql.Identifier(names.LEDGER, TABLE), columns=sql.SQL(READ))
    found: dict[str, list[Entry]] = {}
    with connection.cursor(row_factory=dict_row) as cursor, reading(WHOLE_NAME):
        for row in cursor.execute(query):
            # Why it was decided is not asked here: a rule that somebody changed by hand keeps no service from its versions.
            found.setdefault(row.pop("model"), []).append(_entry({**row, "rules": []}))
    return {
        model: Live(
            version=first.version,
            sequence=first.sequence,
            since=first.recorded_at,
            trial=trial((first, *others)),
            contract_sha256=first.contract_sha256,
        )
        for model, (first, *others) in found.items()
    }


def first_live_from(settings: Settings, model: Model) -> datetime | None:
    """The event time from which any version of a model was ever live; None where none was."""
    from psycopg import sql

    query = sql.SQL("select min(live_from) from {} where model = %s and action = 'promote'").format(sql.Identifier(names.LEDGER, TABLE))
    with warehouse(settings) as connection:
        found = connection.execute(query, [model.name]).fetchone() if _exists(connection) else None
    return None if found is None else found[0]


def newest(connection: "psycopg.Connection") -> int:
    """The number of the newest entry of all models; 0 where there is none."""
    from psycopg import sql

    if not _exists(connection):
        return 0
    row = connection.execute(sql.SQL("select coalesce(max(entry_id), 0) from {}").format(sql.Identifier(names.LEDGER, TABLE))).fetchone()
    return 0 if row is None else int(row[0])


def decided_after(connection: "psycopg.Connection", number: int, limit: int) -> list[tuple[int, str, Entry]]:
    """The entries of all models after the one of that number, oldest first, each with its number and model; not those of the last 5 s."""
    from psycopg import sql
    from psycopg.rows import dict_row

    if not _exists(connection):
        return []
    query = sql.SQL(SINCE).format(table=sql.Identifier(names.LEDGER, TABLE), columns=sql.SQL(READ))
    with connection.cursor(row_factory=dict_row) as cursor, reading(WHOLE_NAME):
        return [(row.pop("entry_id"), row.pop("model"), _entry(row)) for row in cursor.execute(query, (number, limit))]


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
        elif entry.action in CHANGES:
            line = [version for version in line if version != entry.version] + [entry.version]
    return tuple(line)


def live(entries: Sequence[Entry]) -> int | None:
    """The version that is live after these entries, oldest first; None where none is."""
    entry = made_live(entries)
    return None if entry is None else entry.version


def made_live(entries: Sequence[Entry]) -> Entry | None:
    """The entry by which the live version is live; None where none is."""
    return next((entry for entry in reversed(entries) if entry.action in CHANGES), None)


def trial(entries: Sequence[Entry]) -> Trial | None:
    """What is tried after these entries, oldest first; None where nothing is. It ends as it returns, or any version goes live.

    A version that was in the shadow and becomes a canary begins anew.
    """
    decided = [entry for entry in reversed(entries) if entry.action != "reject"]
    own = list(takewhile(lambda entry: entry.action in ROLES and _tried(entry) == _tried(decided[0]), decided))
    if not own:
        return None
    last = own[0]
    return Trial(
        version=last.version,
        role="canary" if last.action == "canary" else "shadow",
        share=last.share,
        champion=last.previous_version,
        began=own[-1].sequence,
        sequence=last.sequence,
        live_from=last.live_from,
        contract_sha256=last.contract_sha256,
    )


def live_at(entries: Sequence[Entry], at: datetime) -> int | None:
    """The version that is live after those of these entries which hold from the event time `at` or earlier; None where none is."""
    return live([entry for entry in entries if entry.live_from <= at])


def contract_of(entries: Sequence[Entry], version: int) -> str | None:
    """The SHA-256 that the contract of a version must have, by the first entry that noted it; None where none did."""
    return next((entry.contract_sha256 for entry in entries if entry.version == version and entry.contract_sha256 is not None), None)


def _tried(entry: Entry) -> tuple[Action, int]:
    return entry.action, entry.version


def locked(connection: "psycopg.Connection", model: Model) -> tuple[Entry, ...]:
    """The entries of a model, which no one else can add to until this transaction ends; the table is made where there is none."""
    create(connection)
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{WHOLE_NAME}/{model.name}",))
    return _entries(connection, model)


def _exists(connection: "psycopg.Connection") -> bool:
    row = connection.execute("select to_regclass(%s)", (WHOLE_NAME,)).fetchone()
    return row is not None and row[0] is not None


def _is_current(connection: "psycopg.Connection") -> bool:
    """Whether the table is there, and as it is now."""
    query = "select count(*) from pg_attribute where attrelid = to_regclass(%s) and attname = any(%s)"
    row = connection.execute(query, (WHOLE_NAME, list(LATER_COLUMNS))).fetchone()
    return row is not None and row[0] == len(LATER_COLUMNS)


def create(connection: "psycopg.Connection") -> None:
    """Makes schema, table and guards where they are not as they are now; two at once wait, as `if not exists` alone can fail then."""
    from psycopg import sql

    if _is_current(connection):
        return
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (WHOLE_NAME,))
        schema, guard = sql.Identifier(names.LEDGER), sql.Identifier(names.LEDGER, "refuse_change")
        connection.execute(sql.SQL(CREATE).format(schema=schema, table=sql.Identifier(names.LEDGER, TABLE), guard=guard))


def _entries(connection: "psycopg.Connection", model: Model) -> tuple[Entry, ...]:
    from psycopg import sql
    from psycopg.rows import dict_row

    query = sql.SQL("select {columns} from {table} as entry where model = %s order by sequence").format(
        columns=sql.SQL(READ), table=sql.Identifier(names.LEDGER, TABLE)
    )
    with connection.cursor(row_factory=dict_row) as cursor, reading(WHOLE_NAME):
        return tuple(_entry(row) for row in cursor.execute(query, (model.name,)))


def append(
    connection: "psycopg.Connection",
    model: Model,
    action: Action,
    decision: Decision,
    found: Sequence[Entry],
    *,
    share: float | None = None,
) -> Entry:
    """Adds an entry after those that were `locked`, in the same transaction.

    Raises ArtifactCorrupt if the contract of the version is another one than earlier entries noted.
    """
    from psycopg import sql
    from psycopg.rows import dict_row
    from psycopg.types.json import Jsonb

    query = sql.SQL(
        "insert into {table} (model, sequence, version, previous_version, action, actor, reason, rules, run_id, live_from, share,"
        " contract_sha256) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning {columns}, share, contract_sha256"
    ).format(columns=sql.SQL(COLUMNS), table=sql.Identifier(names.LEDGER, TABLE))
    rules, known = Jsonb([dict(rule) for rule in decision.rules]), contract_of(found, decision.version)
    if decision.contract_sha256 not in {None, known or decision.contract_sha256}:
        raise ArtifactCorrupt(f"contract of {model.name} version {decision.version}", str(known), str(decision.contract_sha256))
    facts = (decision.actor, decision.reason, rules, decision.run_id, decision.live_from, share, known or decision.contract_sha256)
    values = (decision.version, live(found), action, *facts)
    with connection.cursor(row_factory=dict_row) as cursor:
        (row,) = cursor.execute(query, (model.name, len(found) + 1, *values)).fetchall()
    return _entry(row)


def _entry(row: Mapping[str, Any]) -> Entry:
    if not isinstance(row["rules"], list):
        raise TypeError("its rules are no list")
    wanted = RULE if row["run_id"] is None else RULE | RULE_OF_GATE
    for rule in row["rules"]:
        if missing := wanted - rule.keys():
            raise ValueError(f"a rule lacks {', '.join(sorted(missing))}")
    return Entry(**{**row, "rules": tuple(row["rules"])})
