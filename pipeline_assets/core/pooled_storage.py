"""Dagster's storage in Postgres with connections that a process keeps: `dagster-postgres` opens a new one for each statement.

A daemon that looks at queues and sensors makes 1,700 statements a minute at rest, of each of which nearly all is the password's check and a
new server process. The code server makes a Dagster instance for each tick, so connections are the process's, not the instance's. Nor is
what hardly changes asked for with each statement: whether the connection is open, which tables there are, and which ticks are old.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import getpid
from select import POLLIN, poll
from typing import Any, Self

from dagster import StringSource
from dagster._config.config_schema import UserConfigSchema
from dagster._core.scheduler.instigation import TickStatus
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresScheduleStorage
from dagster_postgres.utils import create_pg_engine
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import QueuePool

from pipeline_assets.core.dsn import kept_alive

# What stays open, and what may be open for a while where many threads ask at once.
KEPT, MORE = 2, 30
# Old ticks are deleted by the day; Dagster would look for them after each tick.
PURGED_EVERY_SECONDS = 3600.0


class PooledPostgresStorage(DagsterPostgresStorage):
    """The storage of runs, events and schedules; configured like `dagster_postgres`' own, by `postgres_url`.

    A connection that the server closed is found before it is used, and opened again. Tables are looked for by the first instance of a
    process: restart what works with a database that was made anew.
    """

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        key = postgres_url, getpid()
        is_first = key not in engines
        super().__init__(postgres_url, should_autocreate_tables=is_first, inst_data=inst_data)
        if is_first:
            engines[key] = _engine(postgres_url)
        self._schedule_storage = Schedules(postgres_url, should_autocreate_tables=False)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engines[key]  # noqa: SLF001 - the one place where dagster-postgres keeps how it connects

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Where the database is, and nothing else."""
        return {"postgres_url": StringSource}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """As `dagster.yaml` has it."""
        return cls(str(config_value["postgres_url"]), inst_data)


class Schedules(PostgresScheduleStorage):
    """The storage of schedules, sensors and ticks, which remembers the tables and indexes that it found."""

    def has_instigators_table(self) -> bool:
        """Whether there is a table of sensors and schedules."""
        return _is_there((self.postgres_url, "instigators"), super().has_instigators_table)

    def _has_instigators_table(self, conn: Connection) -> bool:
        return _is_there((self.postgres_url, "instigators"), partial(super()._has_instigators_table, conn))

    def has_built_index(self, migration_name: str) -> bool:
        """Whether a migration was done."""
        return _is_there((self.postgres_url, migration_name), partial(super().has_built_index, migration_name))

    def purge_ticks(self, origin_id: str, selector_id: str, before: float, tick_statuses: Sequence[TickStatus] | None = None) -> None:
        """Deletes old ticks of a sensor or schedule, once an hour."""
        key = self.postgres_url, origin_id, selector_id, *sorted(status.value for status in tick_statuses or ())
        if time.monotonic() - _purged.get(key, -PURGED_EVERY_SECONDS) >= PURGED_EVERY_SECONDS:
            super().purge_ticks(origin_id, selector_id, before, tick_statuses)
            _purged[key] = time.monotonic()


# By process, too: connections are never those of one that forked.
engines: dict[tuple[str, int], Engine] = {}
# By database the tables and migrations that were found, and when ticks were last purged.
_found: set[tuple[str, str]] = set()
_purged: dict[tuple[str, ...], float] = {}


def _is_there(key: tuple[str, str], look: Callable[[], bool]) -> bool:
    """Whether something is there that stays once it is."""
    if key not in _found and look():
        _found.add(key)
    return key in _found


def _engine(url: str) -> Engine:
    """Connects when it is first used."""
    kept: dict[str, Any] = {"poolclass": QueuePool, "pool_size": KEPT, "max_overflow": MORE, "pool_pre_ping": True, "pool_use_lifo": True}
    engine = create_pg_engine(kept_alive(url), isolation_level="AUTOCOMMIT", **kept)
    engine.dialect.do_ping = partial(is_open, engine.dialect.do_ping)  # type: ignore[method-assign]
    return engine


def is_open(ask: Callable[[Any], bool], connection: Any) -> bool:
    """Whether a connection that nobody uses is open: the server says something on it only to end it, and is asked where it did.

    To ask each time would double the statements. A server that went without a word is noticed by neither.
    """
    silence = poll()
    silence.register(connection.fileno(), POLLIN)
    return ask(connection) if silence.poll(0) else True
