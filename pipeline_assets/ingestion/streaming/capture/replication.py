"""What a database must offer before its changes can be read: a publication of the tables, and the right to read them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import SecretStr

from pipeline_assets.core import names
from pipeline_assets.core.dsn import read_address
from pipeline_assets.core.errors import SettingsMissing
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.ingestion.streaming.health.flow import Slot
from pipeline_assets.spec.sources import PostgresTable

if TYPE_CHECKING:
    import psycopg


def publish(settings: Settings, database: str, tables: Sequence[PostgresTable]) -> None:
    """Publish the tables (all columns, none but these) and let the role that reads changes read them; in one transaction.

    Works as the owner of the tables, whom `settings.databases` names. Where somebody else has published the tables already, nothing is
    changed. Raises SettingsMissing without a DSN of either role, SourceRefused for a table that is not there.
    """
    from psycopg.sql import SQL, Identifier, Literal

    _check_settings(settings, database)
    reader = read_address(f"{PREFIX}REPLICATION__{database.upper()}", settings.replication[database]).user
    listed = SQL(", ").join(Identifier(each.schema, each.table) for each in tables)
    with _opened(settings.databases[database], database) as connection:
        connection.execute(SQL("select pg_advisory_xact_lock(hashtext({}))").format(Literal(names.replication(database))))
        published = _published(connection, names.replication(database))
        if published == {(each.schema, each.table) for each in tables}:
            return
        statement = "create publication {} for table {}" if published is None else "alter publication {} set table {}"
        connection.execute(SQL(statement).format(Identifier(names.replication(database)), listed))
        connection.execute(SQL("grant select on {} to {}").format(listed, Identifier(reader)))


def is_published(settings: Settings, database: str, tables: Sequence[PostgresTable]) -> bool:
    """Whether the changes of all these tables are published; raises as `publish`."""
    _check_settings(settings, database)
    with _opened(settings.databases[database], database) as connection:
        published = _published(connection, names.replication(database)) or set()
    return {(each.schema, each.table) for each in tables} <= published


def _check_settings(settings: Settings, database: str) -> None:
    for setting, known in (("DATABASES", settings.databases), ("REPLICATION", settings.replication)):
        if database not in known:
            raise SettingsMissing([f"{PREFIX}{setting}__{database.upper()}"])


def _published(connection: "psycopg.Connection", publication: str) -> set[tuple[str, str]] | None:
    """The tables of a publication; None where there is none."""
    if connection.execute("select 1 from pg_publication where pubname = %s", (publication,)).fetchone() is None:
        return None
    found = connection.execute("select schemaname, tablename from pg_publication_tables where pubname = %s", (publication,))
    return {(schema, table) for schema, table in found}


def slot_of(settings: Settings, database: str) -> Slot | None:
    """The replication slot by which the changes of a database are read; None where there is none."""
    query = """
        select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, wal_status from pg_replication_slots where slot_name = %s
    """
    with _opened(settings.replication[database], database) as connection:
        found = connection.execute(query, [names.replication(database)]).fetchone()
    return None if found is None else Slot(bytes_behind=int(found[0] or 0), status=str(found[1]))


def confirmed_lsn(settings: Settings, database: str) -> int:
    """Up to where the changes of a database have been read and emitted for good, as an LSN; -1 where there is no slot."""
    query = "select (confirmed_flush_lsn - '0/0')::bigint from pg_replication_slots where slot_name = %s"
    with _opened(settings.replication[database], database) as connection:
        (found,) = connection.execute(query, [names.replication(database)]).fetchone() or (None,)
    return -1 if found is None else int(found)


def drop_slot(settings: Settings, database: str) -> None:
    """Gives up the slot, unless somebody reads by it; the connector makes a new one, and takes a snapshot of the tables before it."""
    query = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s and not active"
    with _opened(settings.replication[database], database, autocommit=True) as connection:
        connection.execute(query, [names.replication(database)])


def count_rows(settings: Settings, table: PostgresTable) -> int:
    """How many rows a table has now, as the role that reads its changes sees it."""
    from psycopg.sql import SQL, Identifier

    query = SQL("select count(*) from {}").format(Identifier(table.schema, table.table))
    with _opened(settings.replication[table.database], table.database) as connection:
        (rows,) = connection.execute(query).fetchone() or (0,)
    return int(rows)


@contextmanager
def _opened(dsn: SecretStr, database: str, *, autocommit: bool = False) -> "Iterator[psycopg.Connection]":
    """A connection, and a transaction unless `autocommit`; what the database refuses is an error of the source."""
    import psycopg

    from pipeline_assets.ingestion.batch.postgres import source_errors

    with source_errors(database, connecting=True):
        connection = psycopg.connect(dsn.get_secret_value(), autocommit=autocommit)
    with source_errors(database), connection:
        yield connection
