"""The rules that a table must keep so that its changes can be followed; each yields what is wrong, what was expected, and what to do.

Which keys are right. Changes are merged by the key of the contract. So that key must tell the rows of the table apart, always and at once
(a unique index without nulls, conditions or deferral on some of its fields), and a row that is updated or deleted must show its old values
of that key: by a replica identity that has the key among its columns, or has all of them. Where the key is not the primary key of the table
the connector is configured with it, so that an update of the key arrives as the end of one row and the creation of another.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline_assets.core import names
from pipeline_assets.core.problems import Obstacle
from pipeline_assets.ingestion.streaming.capture.catalog import (
    FOREIGN_TABLE,
    MATERIALIZED_VIEW,
    PARTITIONED,
    PERMANENT,
    STORED,
    TABLE,
    TEMPORARY,
    VIEW,
    VIRTUAL,
    Catalog,
    Part,
    TableFacts,
)
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import PostgresTable

# The first version of Postgres that publishes generated columns.
PUBLISHES_GENERATED = 180_000
KINDS = {VIEW: "a view", MATERIALIZED_VIEW: "a materialized view", FOREIGN_TABLE: "a foreign table"}
LOAD = "load it with load='snapshot' or load='daily'"
SHOWN = 5

# What is wrong, what was expected, and what to do.
Problem = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A table that is judged; without a contract the rules of the database alone count. `misfits` are its fields that fit no column."""

    catalog: Catalog
    table: PostgresTable
    facts: TableFacts
    contract: Contract | None
    is_captured: bool
    misfits: Mapping[str, str] = field(default_factory=dict)

    @property
    def sql(self) -> str:
        """The table as SQL writes it."""
        return identifier(self.table)


def problems_of(subject: Subject) -> Iterator[Obstacle]:
    """Every obstacle of a table; of something that is no table only that."""
    for problem, expected, remedy in _problems(subject):
        yield Obstacle(database=subject.table.database, table=subject.sql, problem=problem, expected=expected, remedy=remedy)


def declared_columns(facts: TableFacts, contract: Contract | None, kind: str) -> list[str]:
    """The fields of a contract whose columns are generated in this way."""
    return [] if contract is None else [one.name for one in contract.fields if facts.generated.get(one.name) == kind]


def identifier(table: PostgresTable) -> str:
    """A table as SQL writes it."""
    return f"{quoted(table.schema)}.{quoted(table.table)}"


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    from psycopg import sql

    return sql.Identifier(name).as_string()


def _problems(subject: Subject) -> Iterator[Problem]:
    no_table = list(_existence(subject))
    if no_table:
        yield from no_table
        return
    for rule in (_name, _storage, _relatives, _key, _generated, _rights, _security, _publication, _fields):
        yield from rule(subject)


def _existence(subject: Subject) -> Iterator[Problem]:
    facts = subject.facts
    if not facts.is_known:
        here = ", ".join(quoted(twin) for twin in facts.twins)
        found = "is not there" if facts.is_schema_known else f"is not there: there is no schema {quoted(subject.table.schema)}"
        yield found, "a table of this name", f"Declare its name as the database has it: {here}." if here else "Correct the declaration."
    elif facts.kind in KINDS:
        remedy = f"Follow the tables that it reads, or {LOAD}."
        yield f"is {KINDS[facts.kind]}, whose rows are in no log of this database", "a table", remedy


def _name(subject: Subject) -> Iterator[Problem]:
    """Its changes need a topic and a landing table that no other table has; the one that was declared first keeps them."""
    own = _landed(subject.table)
    for other in subject.catalog.tables:
        if other == subject.table:
            return
        if _landed(other) == own:
            problem = f"lands where {identifier(other)} does: the names of topics and landing tables have '_' for every other sign"
            yield problem, "a name that differs in letters, digits or case", "Rename one of the two, or follow one of them alone."


def _landed(table: PostgresTable) -> names.AssetName:
    return names.landed(names.changes_topic(table.database, table.schema, table.table))


def _storage(subject: Subject) -> Iterator[Problem]:
    for part in subject.facts.parts:
        what = "is" if subject.facts.kind == TABLE else f"has the partition {part.name}, which is"
        if part.kind != TABLE:
            remedy = f"Detach it, or {LOAD}."
            yield f"{what} a foreign table, whose rows are in no log of this database", "partitions of its own database", remedy
        elif part.persistence == TEMPORARY:
            yield f"{what} temporary", "a table that stays", f"Make it a permanent table, or {LOAD}."
        elif part.persistence != PERMANENT:
            yield f"{what} unlogged", "a logged table", f"Run `alter table {part.name} set logged;`, or {LOAD}."


def _relatives(subject: Subject) -> Iterator[Problem]:
    facts = subject.facts
    if facts.children:
        problem = f"has tables that inherit from it ({_listed(facts.children)}): it shows their rows, and their changes are not its own"
        yield problem, "a table that no other inherits from", f"Follow the tables that inherit, make it a partitioned table, or {LOAD}."
    declared = [other for other in subject.catalog.tables if (other.schema, other.table) in facts.ancestors]
    if declared:
        problem = f"is a partition of {identifier(declared[0])}, which is followed too: its changes are published as changes of that"
        yield problem, "one of both", "Follow the partitioned table alone: it has the rows of all partitions."


def _key(subject: Subject) -> Iterator[Problem]:
    key = () if subject.contract is None else subject.contract.primary_key
    if key and not any(set(one.columns) <= set(key) for one in subject.facts.uniques):
        yield _not_unique(subject, key)
        return
    blind = [part for part in subject.facts.parts if not part.is_full and not (part.identity and set(key) <= set(part.identity))]
    for part in blind[:SHOWN]:
        yield _identity(subject, part, key)


def _not_unique(subject: Subject, key: Collection[str]) -> Problem:
    known, listed = next(iter(subject.facts.uniques), None), ", ".join(map(quoted, key))
    has = "has no key" if known is None else f"has the key ({', '.join(known.columns)})"
    problem = f"{has}, and no unique index without nulls on the contract's key ({', '.join(key)})"
    if known is None:
        return problem, "a key that tells its rows apart", f"Run `alter table {subject.sql} add primary key ({listed});`."
    not_null = ", ".join(f"alter column {quoted(name)} set not null" for name in key)
    statement = f"alter table {subject.sql} {not_null}, add unique ({listed});"
    remedy = f"Declare primary_key={_tuple(known.columns)} in the contract, or run `{statement}`."
    return problem, "a key that tells its rows apart", remedy


def _identity(subject: Subject, part: Part, key: Collection[str]) -> Problem:
    """What a row that is updated or deleted does not show; without any identity the database refuses updates of a published table."""
    where = "" if subject.facts.kind == TABLE else f" in the partition {part.name}"
    shown = (
        f"shows only ({', '.join(part.identity)}) of a row that was updated or deleted"
        if part.identity
        else "shows nothing of a row that was updated or deleted"
    )
    refused = "" if part.identity else ", so that once it is published the database would refuse updates and deletes"
    whose = f"one with the contract's key ({', '.join(key)})" if key else "a key or whole rows"
    problem = f"has a replica identity{where} that {shown}{refused}"
    return problem, whose, f"Run `{_identity_statement(subject, part, key)}`."


def _identity_statement(subject: Subject, part: Part, key: Collection[str]) -> str:
    """The cheapest replica identity that has the key: the primary key, an index, or the whole row."""
    fitting = [one for one in subject.facts.uniques if set(one.columns) >= set(key)]
    if not fitting or subject.facts.kind == PARTITIONED:
        return f"alter table {part.name} replica identity full;"
    if fitting[0].is_primary:
        return f"alter table {part.name} replica identity default;"
    return f"alter table {part.name} replica identity using index {quoted(fitting[0].index)};"


def _generated(subject: Subject) -> Iterator[Problem]:
    facts, version = subject.facts, subject.catalog.server.version
    leave_out = "Leave the field out of the contract and compute it in dbt"
    for name in declared_columns(facts, subject.contract, VIRTUAL):
        yield f"has the virtual generated column '{name}', which is in no change", "a stored column", f"{leave_out}."
    for name in declared_columns(facts, subject.contract, STORED) if version < PUBLISHES_GENERATED else ():
        problem = f"has the generated column '{name}', which Postgres {version // 10_000} does not publish"
        yield (
            problem,
            "a column with values of its own, or Postgres 18",
            f"{leave_out}, or `{_plain(subject, name)}` and keep it by a trigger.",
        )
    virtual = [name for name, kind in facts.generated.items() if kind == VIRTUAL]
    if virtual and any(part.is_full for part in facts.parts):
        problem = f"has virtual generated columns ({_listed(virtual)}) and shows whole rows as replica identity: once it is published, the "
        problem += "database would refuse its application's updates and deletes"
        yield problem, "a replica identity of some columns", f"Run `alter table {subject.sql} replica identity default;`."


def _plain(subject: Subject, column: str) -> str:
    return f"alter table {subject.sql} alter column {quoted(column)} drop expression;"


def _rights(subject: Subject) -> Iterator[Problem]:
    facts, reader, publisher = subject.facts, subject.catalog.reader, subject.catalog.server.publisher
    if not facts.has_usage:
        schema = quoted(subject.table.schema)
        remedy = f"Run `grant usage on schema {schema} to {quoted(reader)};`."
        yield f"is in the schema {schema}, which the role '{reader}' may not use", "that it may", remedy
    if facts.is_owned:
        return
    if not facts.is_published or facts.has_filter or facts.has_column_list:
        remedy = (
            f"Run `grant {quoted(str(facts.owner))} to {quoted(publisher)};`, or `alter table {subject.sql} owner to {quoted(publisher)};`."
        )
        yield f"belongs to '{facts.owner}', so that the role '{publisher}' cannot publish it", "a table that it owns", remedy
    elif not facts.has_select:
        remedy = f"Run `grant select on {subject.sql} to {quoted(reader)};`."
        yield f"does not let the role '{reader}' read it", "that it may", remedy


def _security(subject: Subject) -> Iterator[Problem]:
    for role in subject.facts.hidden_from:
        policy = quoted(f"read_by_{role}")
        remedy = f"Run `create policy {policy} on {subject.sql} for select to {quoted(role)} using (true);`, or as a superuser "
        remedy += f"`alter role {quoted(role)} bypassrls;`."
        yield f"hides rows from the role '{role}' by row-level security", "that it sees all rows", remedy


def _publication(subject: Subject) -> Iterator[Problem]:
    """What our publication lacks for the table is mended where the publication is ours to change."""
    publication, facts = subject.catalog.publication, subject.facts
    if publication is None or publication.is_owned or subject.is_captured:
        return
    lacks = {
        "does not list it": not facts.is_published,
        "has a row filter for it": facts.has_filter,
        "has a column list for it": facts.has_column_list,
        "lacks operations": not publication.has_all_operations,
        "publishes its partitions instead of it": facts.kind == PARTITIONED and not publication.is_via_root,
        "lacks generated columns": bool(declared_columns(facts, subject.contract, STORED)) and not publication.has_generated,
    }
    name, publisher = quoted(names.replication(subject.table.database)), subject.catalog.server.publisher
    problem = (
        f"needs another publication {name}: that of '{publication.owner}' {' and '.join(what for what, is_so in lacks.items() if is_so)}"
    )
    yield problem, f"one that the role '{publisher}' owns", f"Run `alter publication {name} owner to {quoted(publisher)};`."


def _fields(subject: Subject) -> Iterator[Problem]:
    for name, problem in subject.misfits.items():
        yield (
            f"does not have the field '{name}' as the contract declares it: it {problem}",
            "the columns of the contract",
            "Correct one of both.",
        )


def _listed(found: Collection[str]) -> str:
    shown = list(found)[:SHOWN]
    return ", ".join(shown) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def _tuple(columns: Collection[str]) -> str:
    return "(" + ", ".join(f'"{name}"' for name in columns) + ("," if len(columns) == 1 else "") + ")"
