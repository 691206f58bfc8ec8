"""Reads on an event loop: what a reader reads, over a connection that may be lost, kept waiting or out of date."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from pydantic import SecretStr

from pipeline_assets.core.connections import online
from pipeline_assets.core.online_errors import BehindState, NotOnline
from pipeline_assets.core.settings import OnlineSettings, Settings
from pipeline_assets.model_lifecycle.feature_store.online.awaited import AwaitedReader
from pipeline_assets.model_lifecycle.feature_store.online.pool import Readers
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.online_departures import departures, feed, keep_departures, questions
from pipeline_assets_tests.stream_records import until

FEED = feed("departures_history")
MODEL = replace(flight_delay, views=FEED.views, request_features=())
ROWS = departures(np.random.default_rng(31), 60)
NOW = ROWS[-1]["recorded_at"] + timedelta(minutes=1)
Result = TypeVar("Result")


@pytest.fixture
def empty(stores: Settings, fresh_database: Callable[..., SecretStr]) -> OnlineSettings:
    """An online store without anything."""
    return OnlineSettings.model_construct(home=stores.home, online_dsn=fresh_database(stores.online_dsn), online_valkey=None)


@pytest.fixture
def database(empty: OnlineSettings) -> OnlineSettings:
    """One that has the departures."""
    keep_departures(empty, ROWS)
    return empty


def on_loop(settings: OnlineSettings, asked: Callable[[AwaitedReader], Awaitable[Result]]) -> Result:
    """What is asked of a reader on an event loop of its own."""

    async def run() -> Result:
        reader = AwaitedReader(settings, [FEED], MODEL)
        try:
            return await asked(reader)
        finally:
            reader.close()

    return asyncio.run(run())


def read(settings: OnlineSettings, at: pa.Table) -> pa.Table:
    """The same by the reader of threads."""
    readers = Readers(settings, [FEED])
    try:
        return readers.read(MODEL, at).features
    finally:
        readers.close()


def connections(settings: OnlineSettings) -> int:
    """Ends all other connections to the store; how many there were."""
    with online(settings) as connection:
        ended = connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        ).fetchall()
    return len(ended)


def test_it_reads_what_a_reader_reads(database: OnlineSettings) -> None:
    """At several times, in one go and again, when values are remembered."""
    at = [NOW, NOW + timedelta(hours=1), NOW + timedelta(days=3)]

    async def asked(reader: AwaitedReader) -> list[pa.Table]:
        return [(await reader.read(questions(one))).features for one in (*at, *at)]

    expected = [read(database, questions(one)) for one in (*at, *at)]

    assert on_loop(database, asked) == expected
    assert expected[0] != expected[2]


def test_a_connection_that_was_ended_is_replaced(database: OnlineSettings) -> None:
    """The next question is answered."""

    async def asked(reader: AwaitedReader) -> tuple[pa.Table, int, pa.Table]:
        before = (await reader.read(questions(NOW))).features
        ended = connections(database)
        return before, ended, (await reader.read(questions(NOW))).features

    before, ended, after = on_loop(database, asked)

    assert ended == 1
    assert before == after == read(database, questions(NOW))


def test_a_read_that_is_given_up_leaves_the_loop_and_the_next_read_alone(database: OnlineSettings) -> None:
    """While a lock holds it up the loop goes on; once it is cancelled, another connection answers."""

    async def asked(reader: AwaitedReader) -> tuple[int, pa.Table]:
        await reader.read(questions(NOW))
        turns = 0
        with online(database) as connection:
            connection.execute("lock table online.feeds in access exclusive mode")
            reading = asyncio.ensure_future(reader.read(questions(NOW)))
            while turns < 50:
                await asyncio.sleep(0.001)
                turns += not reading.done()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        return turns, (await reader.read(questions(NOW))).features

    turns, after = on_loop(database, asked)

    assert turns == 50
    assert after == read(database, questions(NOW))


def held_up(settings: OnlineSettings) -> list[int]:
    """The process of each connection to the store that waits for a lock."""
    with online(settings) as connection:
        return [pid for (pid,) in connection.execute(
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )]  # fmt: skip


def test_a_connection_that_opens_slowly_is_used_once_it_is_open(database: OnlineSettings) -> None:
    """Regression: each question that was given up meanwhile began another one, and left the one before to the garbage collector."""

    async def asked(reader: AwaitedReader) -> tuple[list[list[int]], list[int], pa.Table]:
        await reader.read(questions(NOW))
        connections(database)
        waiting: list[list[int]] = []
        with online(database) as connection:
            connection.execute("lock table online.feeds in access exclusive mode")
            for _ in range(2):
                reading = asyncio.ensure_future(reader.read(questions(NOW)))
                waiting.append(await asyncio.to_thread(until, lambda: held_up(database), bool))
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
        after = (await reader.read(questions(NOW))).features
        return waiting, await asyncio.to_thread(backends, database), after

    waiting, left, after = on_loop(database, asked)

    assert after == read(database, questions(NOW))
    assert [len(left), *waiting] == [1, left, left]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_connection_that_is_being_opened_is_closed_with_its_reader(database: OnlineSettings) -> None:
    """Once it is open, which its reader does not wait for."""

    async def asked(reader: AwaitedReader) -> None:
        with online(database) as connection:
            connection.execute("lock table online.feeds in access exclusive mode")
            reading = asyncio.ensure_future(reader.read(questions(NOW)))
            await asyncio.to_thread(until, lambda: held_up(database), bool)
            reader.close()
            reading.cancel()
        await asyncio.to_thread(until, lambda: backends(database), lambda found: not found)

    on_loop(database, asked)

    assert backends(database) == []


def test_a_feed_that_is_built_anew_is_read_on(database: OnlineSettings) -> None:
    """Its tables are others then."""

    async def asked(reader: AwaitedReader) -> tuple[pa.Table, pa.Table]:
        before = (await reader.read(questions(NOW))).features
        await asyncio.to_thread(keep_departures, database, ROWS)
        return before, (await reader.read(questions(NOW))).features

    before, after = on_loop(database, asked)

    assert before == after == read(database, questions(NOW))


def test_what_is_wrong_with_a_question_costs_no_connection(database: OnlineSettings) -> None:
    """A time that states no longer know, then one that they do."""

    async def asked(reader: AwaitedReader) -> tuple[list[int], list[int]]:
        await reader.read(questions(NOW))
        own = await asyncio.to_thread(backends, database)
        with pytest.raises(BehindState):
            await reader.read(questions(NOW - timedelta(days=20)))
        await reader.read(questions(NOW))
        return own, await asyncio.to_thread(backends, database)

    before, after = on_loop(database, asked)

    assert before == after
    assert len(before) == 1


def backends(settings: OnlineSettings) -> list[int]:
    """The process of Postgres of each other connection."""
    with online(settings) as connection:
        # Not what vacuums its tables.
        found = connection.execute(
            "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            " and backend_type = 'client backend'"
        )
        return [pid for (pid,) in found]


def test_a_store_that_is_not_there_is_an_error_until_it_is(empty: OnlineSettings) -> None:
    """Nothing was built, then it is; a server that is not there is an error of Postgres."""

    async def asked(reader: AwaitedReader) -> pa.Table:
        with pytest.raises(NotOnline):
            await reader.read(questions(NOW))
        await asyncio.to_thread(keep_departures, empty, ROWS)
        return (await reader.read(questions(NOW))).features

    async def away(reader: AwaitedReader) -> None:
        with pytest.raises(psycopg.OperationalError):
            await reader.read(questions(NOW))

    nowhere = empty.model_copy(update={"online_dsn": SecretStr("postgresql://nobody:x@127.0.0.1:9/nothing")})

    assert on_loop(empty, asked) == read(empty, questions(NOW))
    on_loop(nowhere, away)
