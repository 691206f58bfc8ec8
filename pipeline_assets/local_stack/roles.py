"""The roles of the stack's PostgreSQL beside the owners of databases, and from where and how anybody connects.

A role for each purpose can do that and no more: of each source one reads batches and one reads changes, one is of the prediction service.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_assets.local_stack.plan import HOST, write_private

if TYPE_CHECKING:
    import psycopg

# No line says `replication`: Debezium reads changes of one database, for which it connects to that database.
ACCESS = f"# Written by `pipeline up`.\nhost all all {HOST}/32 scram-sha-256\n"
PREDICTIONS = "predictions"
# So many connections a role may have that reads, of the hundred that there are.
READERS_CONNECTIONS = 25
# The schema `public` belongs to the owner of the database.
OWN_SCHEMAS = "select nspname from pg_namespace where pg_has_role(nspowner, 'usage')"
# Of others' tables it may grant nothing. Tables, partitioned and foreign ones, views.
OWN_TABLES = """
    select nspname, relname from pg_class join pg_namespace on pg_namespace.oid = relnamespace
    where relkind in ('r', 'p', 'f', 'v', 'm') and pg_has_role(relowner, 'usage') and pg_has_role(nspowner, 'usage')
"""
LEDGER_GRANTS = (
    "grant usage on schema ledger to predictions",
    "grant select on all tables in schema ledger to predictions",
    "alter default privileges for role warehouse in schema ledger grant select on tables to predictions",
    # Of stacks from before: it could add rows to every table.
    "revoke insert on all tables in schema ledger from predictions",
    "alter default privileges for role warehouse in schema ledger revoke insert on tables from predictions",
    # Entries can be added by canaries that step by themselves; a trigger refuses to change or remove one.
    "grant insert on ledger.promotions to predictions",
)
ONLINE_GRANTS = (
    "grant usage on schema online to predictions",
    "grant select on all tables in schema online to predictions",
    "alter default privileges for role online in schema online grant select on tables to predictions",
    "grant insert, delete on online.served to predictions",
    "revoke select on online.forgotten from predictions",
)


def restrict_access(data: Path, user: int | None) -> bool:
    """Have a cluster's folder say who may connect; whether that is another answer than before."""
    path = data / "pg_hba.conf"
    if path.read_text(encoding="utf-8") == ACCESS:
        return False
    write_private(path, ACCESS, user)
    return True


def create_role(connection: "psycopg.Connection", name: str, password: str) -> None:
    """A role that can log in, with this password from now on."""
    from psycopg import sql

    is_known = connection.execute("select 1 from pg_roles where rolname = %s", (name,)).fetchone() is not None
    # Hashed here, so that the password itself never reaches the server's log.
    hashed = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    statement = "alter role {} password {}" if is_known else "create role {} login password {}"
    connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Literal(hashed)))


def create_reader(connection: "psycopg.Connection", name: str, password: str, *databases: str, replicates: bool = False) -> None:
    """A role that may connect to these databases, so many times at once; it can read what it is granted. replicates: their changes too."""
    from psycopg import sql

    create_role(connection, name, password)
    role, attribute = sql.Identifier(name), sql.SQL("replication" if replicates else "noreplication")
    limited = sql.SQL("alter role {} {} connection limit {}")
    connection.execute(limited.format(role, attribute, sql.Literal(READERS_CONNECTIONS)))
    for database in databases:
        connection.execute(sql.SQL("grant connect on database {} to {}").format(sql.Identifier(database), role))


def let_read(dsn: str, name: str) -> None:
    """Grant a role to `select` from all tables of the owner that a DSN names, those too that the owner makes later."""
    import psycopg
    from psycopg import sql

    role = sql.Identifier(name)
    with psycopg.connect(dsn, client_encoding="utf8") as connection:
        for what in ("select on tables", "usage on schemas"):
            connection.execute(sql.SQL(f"alter default privileges grant {what} to {{}}").format(role))
        for (schema,) in connection.execute(OWN_SCHEMAS).fetchall():
            connection.execute(sql.SQL("grant usage on schema {} to {}").format(sql.Identifier(schema), role))
        for table in connection.execute(OWN_TABLES).fetchall():
            connection.execute(sql.SQL("grant select on {} to {}").format(sql.Identifier(*table), role))


def let_predict(dsns: Mapping[str, str]) -> None:
    """Grant the prediction service what it needs, as `docs/how-to/protect-the-service.md` has it, canaries that step included.

    dsns: of the owners, by database. The ledger and the tables of the online store are made where they are missing, since some of them are
    granted in another way; feeds that are built later are covered.
    """
    import psycopg

    from pipeline_assets.model_lifecycle.feature_store.online import store
    from pipeline_assets.model_lifecycle.registry import ledger

    for database, create, grants in (("warehouse", ledger.create, LEDGER_GRANTS), ("online", store.create, ONLINE_GRANTS)):
        if database not in dsns:
            continue
        with psycopg.connect(dsns[database]) as connection:
            create(connection)
            for statement in grants:
                connection.execute(statement)
