"""The roles of the stack's PostgreSQL: each can do what it is for, and no more."""

import subprocess
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import psycopg
import pytest

from pipeline_assets.core.errors import NotFollowed
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.ingestion.streaming.capture.replication import publish
from pipeline_assets.local_stack import postgres, roles
from pipeline_assets.local_stack.plan import POSTGRES, S3, load_secrets
from pipeline_assets_tests.readings import World, day, reading
from pipeline_assets_tests.stack_services import WEATHER, heal, start, superuser_in

SOURCE = "airline_ops"
# What the role that reads batches has no need for.
BEYOND_SELECT = (
    "insert into later.things values (2)",
    "update later.things set id = 2",
    "delete from later.things",
    "truncate later.things",
    "merge into later.things using (values (1)) as v(id) on false when not matched then insert values (v.id)",
    "lock table later.things in access exclusive mode",
    "alter table later.things add column x int",
    "drop table later.things",
    "create index on later.things (id)",
    "create table later.mine (x int)",
    "create table public.mine (x int)",
    "create temporary table mine (x int)",
    "create schema mine",
    "create publication mine",
    "create publication mine for table later.things",
    "create role mine",
    "set role airline_ops",
    "copy later.things to program 'true'",
)
# What the prediction service has no need for, in warehouse and online store.
FORBIDDEN = {
    "warehouse": (
        "create table ledger.mine (x int)",
        "create table public.mine (x int)",
        "create schema mine",
        "create temporary table mine (x int)",
        "insert into ledger.later values (1)",
        "delete from ledger.promotions",
        "select from secrets",
    ),
    "online": (
        "select from online.forgotten",
        "update online.feeds set status = 'gone'",
        "insert into online.offsets values (1, 0, 0)",
        "update online.served set model = 'x'",
        "create table online.mine (x int)",
        "drop table online.served",
    ),
}


def port_of(settings: Settings) -> int:
    """Where the cluster of the session listens."""
    return int(settings.warehouse_dsn.get_secret_value().rpartition(":")[2].partition("/")[0])


def role_dsn(settings: Settings, role: str, database: str) -> str:
    """The DSN of a role of the session's stack."""
    return postgres.dsn(load_secrets(settings.home), port_of(settings), database, role=role)


@pytest.mark.parametrize("role", ["airline_ops_replication", "airline_ops_batches", "airline_ops", "warehouse", "predictions"])
def test_no_role_can_copy_the_cluster(stores: Settings, role: str, tmp_path: Path) -> None:
    """A base backup, and the log of the whole cluster, are refused by the server for each role, the one that reads changes included."""
    dsn, programs = role_dsn(stores, role, SOURCE), postgres.programs(stores.home)
    backup = [str(programs / "pg_basebackup"), "-d", dsn, "-D", str(tmp_path / "stolen")]
    log = [str(programs / "pg_receivewal"), "-d", dsn, "-D", str(tmp_path), "--no-loop"]
    found = [subprocess.run(command, capture_output=True, text=True, check=False) for command in (backup, log)]

    assert [each.returncode == 0 for each in found] == [False, False]
    assert ["no pg_hba.conf entry for replication connection" in each.stderr for each in found] == [True, True]
    assert not (tmp_path / "stolen" / "global").exists()


def test_the_role_that_reads_changes_still_does(stores: Settings) -> None:
    """It connects to the database of its source as Debezium does, and to no other."""
    with psycopg.connect(role_dsn(stores, f"{SOURCE}_replication", SOURCE), replication="database", autocommit=True) as connection:
        row = connection.execute("IDENTIFY_SYSTEM").fetchone()
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(role_dsn(stores, f"{SOURCE}_replication", "warehouse"), replication="database")

    assert row is not None
    assert row[3] == SOURCE


def test_a_cluster_that_lets_others_in_is_closed_by_up(stores: Settings, cluster: psycopg.Connection) -> None:
    """What stands in `pg_hba.conf` from before, or was added by hand, is replaced, and counts at once."""
    path = stores.home / POSTGRES / "data" / "pg_hba.conf"
    path.write_text(f"{roles.ACCESS}host replication all 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n")
    cluster.execute("select pg_reload_conf()")
    heal(stores)
    rules = cluster.execute("select type, database, user_name, address, auth_method from pg_hba_file_rules").fetchall()

    assert rules == [("host", ["all"], ["all"], "127.0.0.1", "scram-sha-256")]


def test_passwords_are_hashed_with_the_usual_rounds_and_readers_are_limited(cluster: psycopg.Connection) -> None:
    """4,096 rounds for each role; who reads has a limit of connections, so that the owners are not locked out."""
    query = "select rolname, split_part(rolpassword, ':', 1), rolconnlimit, rolsuper from pg_authid where rolcanlogin"
    found = {name: rest for name, *rest in cluster.execute(query).fetchall()}
    readers = {name for name in found if name.endswith(("_replication", "_batches"))} | {roles.PREDICTIONS}

    assert {rounds for rounds, *_ in found.values()} == {"SCRAM-SHA-256$4096"}
    assert len(readers) > 1
    assert {name for name, (_, limit, _) in found.items() if limit == roles.READERS_CONNECTIONS} == readers
    assert {name for name, (_, _, is_super) in found.items() if is_super} == {postgres.BOOTSTRAP}


def test_the_role_that_reads_batches_can_do_nothing_but_select(stores: Settings) -> None:
    """It reads what its owner makes later, in new schemas too; the server refuses all else, also of a stack whose role had no grants.

    Regression: a table of somebody else in the schema of the owner stopped each start; it is left alone.
    """
    owner, reader = (dsns[SOURCE].get_secret_value() for dsns in (stores.owners, stores.databases))
    with psycopg.connect(owner) as connection:
        # As it is in homes from before there was the role.
        connection.execute("alter default privileges revoke select on tables from airline_ops_batches")
        connection.execute("create table before (id int)")
    with superuser_in(stores.home, stores.owners[SOURCE]) as connection:
        connection.execute("create table public.foreign_thing (id int)")
    start(stores.home, POSTGRES, S3, WEATHER)
    with psycopg.connect(owner) as connection:
        connection.execute("create schema later")
        connection.execute("create table later.things (id int primary key)")
    try:
        refused = []
        for statement in BEYOND_SELECT:
            with psycopg.connect(reader) as connection:
                try:
                    connection.execute(statement)
                except psycopg.errors.InsufficientPrivilege:
                    refused.append(statement)
        with psycopg.connect(reader) as connection:
            found = [connection.execute(f"table {name}").fetchall() for name in ("before", "later.things")]
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(role_dsn(stores, f"{SOURCE}_batches", "warehouse"))
        with psycopg.connect(reader) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("table public.foreign_thing")
    finally:
        with superuser_in(stores.home, stores.owners[SOURCE]) as connection:
            connection.execute("drop table public.foreign_thing")
        with psycopg.connect(owner) as connection:
            connection.execute("drop table before, later.things")
            connection.execute("drop schema later")

    assert refused == list(BEYOND_SELECT)
    assert found == [[], []]


def test_a_table_is_loaded_by_who_reads_batches_and_published_by_its_owner(isolated: Settings) -> None:
    """Whoever may only read cannot publish it, and the error says what to do."""
    world = World(settings=isolated, name="readings")
    world.fill([reading()])
    (staged,) = stage_days(isolated, world.table, day(0), day(0), run_id="r")
    # The names of slots are those of the whole cluster: others of the session may have one for the source.
    database = f"roles_{token_hex(6)}"
    purposes = ("databases", "owners", "replication")
    settings = isolated.model_copy(update={purpose: {database: getattr(isolated, purpose)[SOURCE]} for purpose in purposes})
    table = replace(world.origin, database=database)
    with pytest.raises(NotFollowed, match="belongs to 'airline_ops', so that the role 'airline_ops_batches' cannot publish it"):
        publish(settings.model_copy(update={"owners": {}}), database, [table])
    world.run("alter table {table} replica identity full")
    publish(settings, database, [table])
    with world.database() as connection:
        published = connection.execute("select pg_get_userbyid(pubowner)::text from pg_publication").fetchall()

    assert staged.manifest.rows == 1
    assert published == [(SOURCE,)]


@pytest.mark.parametrize("database", ["warehouse", "online"])
def test_the_role_of_the_prediction_service_can_do_nothing_else(stores: Settings, database: str) -> None:
    """It reads the ledger and the online store, those tables too that are made later; all else is refused."""
    owner = getattr(stores, f"{database}_dsn").get_secret_value()
    with psycopg.connect(owner) as connection:
        if database == "warehouse":
            connection.execute("create table if not exists public.secrets (x int)")
            # Regression: as stacks from before have it.
            connection.execute("create schema if not exists ledger")
            connection.execute("alter default privileges in schema ledger grant insert on tables to predictions")
    roles.let_predict({database: owner})
    schema = {"warehouse": "ledger", "online": "online"}[database]
    with psycopg.connect(owner) as connection:
        connection.execute(f"create table {schema}.later (x int)")
    try:
        refused = []
        for statement in FORBIDDEN[database]:
            with psycopg.connect(role_dsn(stores, roles.PREDICTIONS, database)) as connection:
                try:
                    connection.execute(statement)
                except psycopg.errors.InsufficientPrivilege:
                    refused.append(statement)
        with psycopg.connect(role_dsn(stores, roles.PREDICTIONS, database)) as connection:
            later = connection.execute(f"table {schema}.later").fetchall()
            query = "select table_name::text from information_schema.table_privileges where privilege_type = 'INSERT'"
            added = {name for (name,) in connection.execute(query).fetchall()}
    finally:
        with psycopg.connect(owner) as connection:
            connection.execute(f"drop table {schema}.later")

    assert refused == list(FORBIDDEN[database])
    assert later == []
    assert added == {"warehouse": {"promotions"}, "online": {"served"}}[database]
