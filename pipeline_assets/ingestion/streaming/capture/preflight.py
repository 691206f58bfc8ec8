"""Whether the changes of declared tables can be followed rightly: judged by the catalog of their database, before anything is published.

Pure: the facts of the catalog go in, obstacles with their remedies come out. A table that cannot be followed is an obstacle of its own and
stops no other; only what keeps a whole database from being followed is one of the database.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline_assets.core import names
from pipeline_assets.core.problems import Obstacle
from pipeline_assets.ingestion.streaming.capture.catalog import PARTITIONED, STORED, Catalog, Server
from pipeline_assets.ingestion.streaming.capture.table_rules import Subject, declared_columns, problems_of, quoted
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import PostgresTable

PLUGIN = "pgoutput"
# The contracts of followed tables; none of a table of which only the rules of the database count.
Contracts = Mapping[PostgresTable, Contract]
# By table the declared fields that have no column, or one of another type, with what is wrong.
Misfits = Mapping[PostgresTable, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a preflight found of a database: what keeps it from being followed, and what keeps each of its tables.

    `captured` are the tables that are published so that nothing of them is missing; an accepted one that is not needs a new snapshot.
    `surplus` are the tables, with their schemas, that our publication lists and that are not accepted.
    """

    tables: Sequence[PostgresTable]
    of_database: Sequence[Obstacle] = ()
    of_tables: Mapping[PostgresTable, Sequence[Obstacle]] = field(default_factory=dict)
    captured: frozenset[PostgresTable] = frozenset()
    surplus: frozenset[tuple[str, str]] = frozenset()

    @property
    def accepted(self) -> list[PostgresTable]:
        """The tables that can be followed; none where the database cannot."""
        return [] if self.of_database else [table for table in self.tables if table not in self.of_tables]

    @property
    def obstacles(self) -> list[Obstacle]:
        """All there are."""
        return [*self.of_database, *(one for found in self.of_tables.values() for one in found)]


def judged(catalog: Catalog, contracts: Contracts, misfits: Misfits) -> Verdict:
    """The verdict on a database and all tables of a catalog.

    `misfits` count for tables that are not captured. One that is has rules of its own for columns that change (`typed.schema_changes`).
    """
    captured = captured_in(catalog, contracts)
    subjects = [
        Subject(
            catalog=catalog,
            table=table,
            facts=facts,
            contract=contracts.get(table),
            is_captured=table in captured,
            misfits={} if table in captured else misfits.get(table, {}),
        )
        for table, facts in catalog.tables.items()
    ]
    found = {subject.table: list(problems_of(subject)) for subject in subjects}
    of_tables = {table: obstacles for table, obstacles in found.items() if obstacles}
    accepted = {(table.schema, table.table) for table in found if table not in of_tables}
    return Verdict(
        tables=list(catalog.tables),
        of_database=list(_problems_of_server(catalog)),
        of_tables=of_tables,
        captured=captured,
        surplus=frozenset() if catalog.publication is None else catalog.publication.listed - accepted,
    )


def captured_in(catalog: Catalog, contracts: Contracts) -> frozenset[PostgresTable]:
    """The tables all changes of which are published, with all declared columns."""
    return frozenset(table for table in catalog.tables if _is_captured(catalog, table, contracts.get(table)))


def _is_captured(catalog: Catalog, table: PostgresTable, contract: Contract | None) -> bool:
    facts, publication = catalog.tables[table], catalog.publication
    if publication is None or not facts.is_published or facts.has_filter or facts.has_column_list:
        return False
    has_leaves = facts.kind != PARTITIONED or publication.is_via_root
    has_columns = publication.has_generated or not declared_columns(facts, contract, STORED)
    return publication.has_all_operations and has_leaves and has_columns


def _problems_of_server(catalog: Catalog) -> Iterator[Obstacle]:
    for problem, expected, remedy in (*_of_log(catalog.server), *_of_slots(catalog), *_of_roles(catalog)):
        yield Obstacle(database=catalog.database, table=None, problem=problem, expected=expected, remedy=remedy)


def _of_log(server: Server) -> Iterator[tuple[str, str, str]]:
    if server.is_standby:
        yield "is a standby, on which nothing can be published", "the primary", "Give the DSN of the primary."
    if server.wal_level != "logical":
        remedy = "Run `alter system set wal_level = logical;` and restart the server."
        yield f"has wal_level '{server.wal_level}'", "wal_level 'logical'", remedy


def _of_slots(catalog: Catalog) -> Iterator[tuple[str, str, str]]:
    server, slot = catalog.server, names.replication(catalog.database)
    if server.has_slot and (server.slot_plugin, server.slot_database) != (PLUGIN, server.database):
        other = f"for {server.slot_plugin or 'a standby'} in {server.slot_database or 'no database'}"
        remedy = f"If nobody needs it, run `select pg_drop_replication_slot('{slot}');`."
        yield f"has another replication slot '{slot}', {other}", f"one for {PLUGIN} in {server.database}, or none", remedy
    if not server.has_slot and server.slots_used >= server.slots_most:
        more = f"alter system set max_replication_slots = {server.slots_used + 1};"
        remedy = f"Drop one that is not needed (see `pg_replication_slots`), or run `{more}` and restart the server."
        yield f"has no replication slot left: {server.slots_used} of {server.slots_most} are taken", "one more", remedy
    if not server.is_read and server.senders_used >= server.senders_most:
        remedy = f"Run `alter system set max_wal_senders = {server.senders_used + 1};` and restart the server."
        yield f"has no sender of its log left: {server.senders_used} of {server.senders_most} are taken", "one more", remedy


def _of_roles(catalog: Catalog) -> Iterator[tuple[str, str, str]]:
    server, reader, publisher = catalog.server, catalog.reader, catalog.server.publisher
    if not server.is_reader_known:
        remedy = f"Run `create role {quoted(reader)} login replication password '…';`."
        yield f"has no role '{reader}'", "the role that reads changes", remedy
        return
    if not server.may_connect:
        remedy = f"Run `grant connect on database {quoted(server.database)} to {quoted(reader)};`."
        yield f"does not let the role '{reader}' connect", "that it may", remedy
    if not server.may_replicate:
        yield f"does not let the role '{reader}' replicate", "that it may", f"Run `alter role {quoted(reader)} replication;`."
    if catalog.publication is None and not server.may_create:
        remedy = f"Run `grant create on database {quoted(server.database)} to {quoted(publisher)};`."
        yield f"does not let the role '{publisher}' create a publication", "that it may", remedy
