"""Services of the session's stack, ended by force and started again; shared by the tests of streams."""

import signal
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from pipeline_assets.core.settings import Settings, StackSettings
from pipeline_assets.local_stack import processes, stack
from pipeline_assets.local_stack.plan import CONNECT, KAFKA, POSTGRES, S3, load_secrets
from pipeline_assets.local_stack.postgres import BOOTSTRAP, bootstrap
from pipeline_assets.local_stack.roles import let_read

# The weather service of the simulated world of nyc_flights.
WEATHER = "weather"
FREE = stack.free_ports()


def start(home: Path, *names: str) -> Settings:
    """Start services on free ports in a folder; the caller calls `stack.down`."""
    return stack.up(home, only=names, with_history=False, stack=StackSettings(ports=FREE, given={}))


def heal(settings: Settings) -> Settings:
    """Start what is dead of the session's stack."""
    return start(settings.home, POSTGRES, S3, WEATHER, KAFKA, CONNECT)


def kill(settings: Settings, name: str) -> int:
    """End a service by force; its process id."""
    known = processes.running(settings.home, name)
    assert known is not None
    process = known.find()
    assert process is not None
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=10)
    assert processes.running(settings.home, name) is None
    return process.pid


def pid_of(settings: Settings, name: str) -> int:
    """The process id of a service that runs."""
    known = processes.running(settings.home, name)
    assert known is not None
    return known.pid


def create_database(home: Path, like: SecretStr, name: str | None = None) -> SecretStr:
    """The DSN of a new, empty database with the owner of the one given, under a name that no other has unless one is given."""
    base, _, owner = like.get_secret_value().rpartition("/")
    name = name or f"test_{token_hex(6)}"
    with cluster_of(home) as cluster:
        cluster.execute(SQL("create database {} owner {} strategy file_copy").format(Identifier(name), Identifier(owner)))
    return SecretStr(f"{base}/{name}")


def for_reader(owned: SecretStr, like: SecretStr) -> SecretStr:
    """The DSN of a database for the role of the one given, which may read what its owner has there."""
    database, reader = urlsplit(owned.get_secret_value()), urlsplit(like.get_secret_value())
    let_read(owned.get_secret_value(), str(reader.username))
    return SecretStr(reader._replace(path=database.path).geturl())


def superuser_in(home: Path, dsn: SecretStr) -> psycopg.Connection:
    """A superuser's connection to a database of a stack, each statement its own transaction."""
    return psycopg.connect(dsn.get_secret_value(), user=BOOTSTRAP, password=load_secrets(home)[POSTGRES], autocommit=True)


def cluster_of(home: Path) -> psycopg.Connection:
    """A superuser's connection to the PostgreSQL of a stack, each statement its own transaction."""
    known = processes.running(home, POSTGRES)
    assert known is not None
    assert known.port is not None
    return bootstrap(known.port, load_secrets(home)[POSTGRES])
