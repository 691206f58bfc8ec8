"""Dagster's storage in Postgres with connections that a process keeps: `dagster-postgres` opens a new one for each statement.

A daemon that looks at queues and sensors makes 1,700 statements a minute at rest, of each of which nearly all is the password's check and a
new server process. The code server makes a Dagster instance for each tick, so connections are the process's, not the instance's.
"""

from collections.abc import Mapping
from os import getpid
from typing import Any, Self

from dagster import StringSource
from dagster._config.config_schema import UserConfigSchema
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import create_pg_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import QueuePool

from pipeline_assets.core.dsn import kept_alive

# What stays open, and what may be open for a while where many threads ask at once.
KEPT, MORE = 2, 30


class PooledPostgresStorage(DagsterPostgresStorage):
    """The storage of runs, events and schedules; configured like `dagster_postgres`' own, by `postgres_url`.

    A connection that the server closed is found before it is used, and opened again. Tables are looked for by the first instance of a
    process: restart what works with a database that was made anew.
    """

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        key = postgres_url, getpid()
        is_first = key not in _engines
        super().__init__(postgres_url, should_autocreate_tables=is_first, inst_data=inst_data)
        if is_first:
            _engines[key] = _engine(postgres_url)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = _engines[key]  # noqa: SLF001 - the one place where dagster-postgres keeps how it connects

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Where the database is, and nothing else."""
        return {"postgres_url": StringSource}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """As `dagster.yaml` has it."""
        return cls(str(config_value["postgres_url"]), inst_data)


# By process, too: connections are never those of one that forked.
_engines: dict[tuple[str, int], Engine] = {}


def _engine(url: str) -> Engine:
    """Connects when it is first used."""
    kept: dict[str, Any] = {"poolclass": QueuePool, "pool_size": KEPT, "max_overflow": MORE, "pool_pre_ping": True, "pool_use_lifo": True}
    return create_pg_engine(kept_alive(url), isolation_level="AUTOCOMMIT", **kept)
