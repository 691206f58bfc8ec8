"""What a database must offer before its changes can be read: a publication of the tables that can be followed, and rights to them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.connections import place_of
from pipeline_assets.core.dsn import Address, read_address
from pipeline_assets.core.errors import NotFollowed, SettingsMissing
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.ingestion.streaming.capture.catalog import Catalog, Publication, read_catalog
from pipeline_assets.ingestion.streaming.capture.preflight import Contracts, Verdict, captured_in, judged
from pipeline_assets.ingestion.streaming.capture.table_rules import PUBLISHES_GENERATED
from pipeline_assets.ingestion.streaming.health.flow import Slot
from pipeline_assets.spec.sources import PostgresTable

if TYPE_CHECKING:
    from typing import LiteralString

    import psycopg
    from psycopg.sql import Composed

# The settings that name a database for its roles.
Purpose = Literal["databases", "owners", "replication"]


def examine(settings: Settings, database: str, tables: Sequence[PostgresTable], contracts: Contracts | None = None) -> Verdict:
    """What keeps a database and its tables from being followed; nothing is changed.

    `contracts` are those of the tables (None: only the rules of the database count). Raises SettingsMissing without a DSN of either role,
    SourceUnavailable if the database does not answer.
    """
    _check_settings(settings, database)
    with _opened(settings, _publisher(settings, database), database) as connection:
        return _examined(connection, settings, database, tables, contracts or {})[1]


def publish(settings: Settings, database: str, tables: Sequence[PostgresTable], contracts: Contracts | None = None) -> None:
    """Publish those of the tables that can be followed (all columns, none but these) and let the role that reads changes read them.

    One transaction judges and publishes, as the owner of the tables, whom `settings.owners` names. Of a publication that is right
    already nothing is changed, so that somebody else may own it. Raises SettingsMissing without a DSN of either role, and NotFollowed,
    once the others are published, with what keeps tables from being followed; where that is the database, nothing was changed.
    """
    from psycopg.sql import SQL, Literal

    _check_settings(settings, database)
    with _opened(settings, _publisher(settings, database), database) as connection:
        connection.execute(SQL("select pg_advisory_xact_lock(hashtext({}))").format(Literal(names.replication(database))))
        catalog, verdict = _examined(connection, settings, database, tables, contracts or {})
        if not verdict.of_database:
            for statement in publishing(catalog, verdict):
                connection.execute(statement)
    if verdict.obstacles:
        raise NotFollowed(verdict.obstacles)


def _examined(
    connection: "psycopg.Connection", settings: Settings, database: str, tables: Sequence[PostgresTable], contracts: Contracts
) -> tuple[Catalog, Verdict]:
    from pipeline_assets.ingestion.batch.postgres import columns_in
    from pipeline_assets.ingestion.sources.postgres_types import misfits

    catalog = read_catalog(connection, database, _role(settings, "replication", database), _role(settings, "databases", database), tables)
    captured = captured_in(catalog, contracts)
    new = [table for table in contracts if table in catalog.tables and table not in captured and catalog.tables[table].is_known]
    return catalog, judged(catalog, contracts, {table: misfits(contracts[table], columns_in(connection, table)) for table in new})


def _role(settings: Settings, purpose: Purpose, database: str) -> str:
    """The role that a database has for a purpose."""
    return _address(settings, purpose, database).user


def _address(settings: Settings, purpose: Purpose, database: str) -> Address:
    return read_address(_setting(purpose, database), getattr(settings, purpose)[database])


def _setting(purpose: Purpose, database: str) -> str:
    return f"{PREFIX}{purpose.upper()}__{database.upper()}"


def _publisher(settings: Settings, database: str) -> Purpose:
    """By which of its roles a database is published: its owner, where the settings have the owner of the same database."""
    if database not in settings.owners:
        return "databases"
    owner, read = _address(settings, "owners", database), _address(settings, "databases", database)
    return "owners" if (owner.hosts, owner.database) == (read.hosts, read.database) else "databases"


def publishing(catalog: Catalog, verdict: Verdict) -> "list[Composed]":
    """The statements that make a publication what a verdict accepts; none where it is that already.

    A table that is listed with a row filter or some columns alone is taken out and listed anew.
    """
    from psycopg.sql import SQL, Identifier

    from pipeline_assets.ingestion.batch.postgres import table_of

    name, publication = Identifier(names.replication(catalog.database)), catalog.publication
    facts = {table: catalog.tables[table] for table in verdict.accepted}
    narrowed = [table for table, one in facts.items() if one.has_filter or one.has_column_list]
    gone = [*sorted(verdict.surplus), *((table.schema, table.table) for table in narrowed)]
    new = [table for table, one in facts.items() if table in narrowed or not one.is_published]
    unreadable = [table for table, one in facts.items() if not one.has_select]
    statements = []
    if publication is None and facts:
        statements.append(SQL("create publication {}").format(name))
    statements += [SQL("alter publication {} drop table {}").format(name, Identifier(*table)) for table in gone]
    if facts and not (publication is not None and _is_complete(catalog, publication)):
        statements.append(SQL("alter publication {} set ({})").format(name, SQL(_options(catalog))))
    statements += [SQL("alter publication {} add table {}").format(name, table_of(table)) for table in new]
    statements += [SQL("grant select on {} to {}").format(table_of(table), Identifier(catalog.reader)) for table in unreadable]
    return statements


def _is_complete(catalog: Catalog, publication: Publication) -> bool:
    """Whether a publication has the options that it should have, or is somebody else's."""
    has_generated = publication.has_generated or catalog.server.version < PUBLISHES_GENERATED
    return not publication.is_owned or (publication.has_all_operations and publication.is_via_root and has_generated)


def _options(catalog: Catalog) -> "LiteralString":
    """All operations; changes of partitions as changes of what they are partitions of; generated columns with the others."""
    options: LiteralString = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
    return options if catalog.server.version < PUBLISHES_GENERATED else f"{options}, publish_generated_columns = stored"


def _check_settings(settings: Settings, database: str) -> None:
    purposes: tuple[Purpose, ...] = ("databases", "replication")
    for purpose in purposes:
        if database not in getattr(settings, purpose):
            raise SettingsMissing([_setting(purpose, database)])


def slot_of(settings: Settings, database: str) -> Slot | None:
    """The replication slot by which the changes of a database are read; None where there is none."""
    query = """
        select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, wal_status from pg_replication_slots where slot_name = %s
    """
    with _opened(settings, "replication", database) as connection:
        found = connection.execute(query, [names.replication(database)]).fetchone()
    return None if found is None else Slot(bytes_behind=int(found[0] or 0), status=str(found[1]))


def confirmed_lsn(settings: Settings, database: str) -> int:
    """Up to where the changes of a database have been read and emitted for good, as an LSN; -1 where there is no slot."""
    query = "select (confirmed_flush_lsn - '0/0')::bigint from pg_replication_slots where slot_name = %s"
    with _opened(settings, "replication", database) as connection:
        (found,) = connection.execute(query, [names.replication(database)]).fetchone() or (None,)
    return -1 if found is None else int(found)


def drop_slot(settings: Settings, database: str) -> None:
    """Gives up the slot, unless somebody reads by it; the connector makes a new one, and takes a snapshot of the tables before it."""
    query = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s and not active"
    with _opened(settings, "replication", database, autocommit=True) as connection:
        connection.execute(query, [names.replication(database)])


def count_rows(settings: Settings, table: PostgresTable) -> int:
    """How many rows a table has now, as the role that reads its changes sees it."""
    from psycopg.sql import SQL

    from pipeline_assets.ingestion.batch.postgres import table_of

    query = SQL("select count(*) from {}").format(table_of(table))
    with _opened(settings, "replication", table.database) as connection:
        (rows,) = connection.execute(query).fetchone() or (0,)
    return int(rows)


@contextmanager
def _opened(settings: Settings, purpose: Purpose, database: str, *, autocommit: bool = False) -> "Iterator[psycopg.Connection]":
    """A connection of a role, and a transaction unless `autocommit`; what the database refuses is an error of the source."""
    from psycopg.conninfo import make_conninfo

    from pipeline_assets.core.postgres import open_session
    from pipeline_assets.ingestion.batch.postgres import source_errors

    dsn: SecretStr = getattr(settings, purpose)[database]
    conninfo = make_conninfo(dsn.get_secret_value(), client_encoding="utf8")
    with source_errors(database, connecting=True):
        connection = open_session(place_of(_setting(purpose, database), conninfo, settings), autocommit=autocommit)
    with source_errors(database), connection:
        yield connection
