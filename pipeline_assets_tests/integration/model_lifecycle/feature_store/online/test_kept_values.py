"""Values that a process keeps while they hold: each answer is what the store has at the position that it names, mostly without a query."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql
from pydantic import SecretStr

from pipeline_assets.core.connections import online
from pipeline_assets.core.settings import OnlineSettings, Settings
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.forget import take_out
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_records
from pipeline_assets.model_lifecycle.feature_store.online.kept_values import Notes
from pipeline_assets.model_lifecycle.feature_store.online.position import Position
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader, Served
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.model_lifecycle.feature_store.online.source import Found, Wanted
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.processing.features.view import view_features
from pipeline_assets_tests.online_departures import connected, departures, feed, questions, rows_kept, table_of
from pipeline_assets_tests.readings import wait_until

FEED = feed("departures_history")
MOST_COMPARED = 150
ENDED = """
    select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
"""


class Counted(Stored):
    """The states in Postgres, and how often they were asked for."""

    queries = 0

    def ask(self, wanted: Sequence[Sequence[Wanted]]) -> tuple[Found, list[Position]]:
        """As without counting."""
        self.queries += 1
        return super().ask(wanted)


@pytest.fixture
def database(stores: Settings, fresh_database: Callable[..., SecretStr]) -> OnlineSettings:
    """An online store in which departures are kept, and nothing is known yet."""
    settings = OnlineSettings.model_construct(home=stores.home, online_dsn=fresh_database(stores.online_dsn), online_valkey=None)
    with online(settings) as connection:
        store.go_live(connection, store.begin(connection, FEED))
    return settings


@pytest.fixture
def session(database: OnlineSettings) -> Iterator[Session]:
    """A session that keeps departures."""
    with connected(database) as connection:
        kept = store.live(connection, FEED)
    with open_session(database, kept) as opened:
        yield opened


@pytest.fixture
def reader(database: OnlineSettings) -> Iterator[tuple[Reader, Counted]]:
    """A reader that keeps what it reads, and what it reads from."""
    notes = Notes(database, [FEED])
    with connected(database) as connection:
        source = Counted(connection, [FEED])
        yield Reader(source, FEED.views, notes=notes), source
    notes.close()


def without_a_query(reader: tuple[Reader, Counted], at: datetime) -> Served:
    """What is answered once nothing has to be asked of the store for it."""
    found: list[Served] = []

    def ask() -> bool:
        before = reader[1].queries
        found[:] = [reader[0].read(questions(at))]
        return reader[1].queries == before

    wait_until(ask, "all that is asked for is kept")
    return found[0]


def directly(database: OnlineSettings, at: datetime) -> Served:
    """What the store says now."""
    with connected(database) as connection:
        return Reader(Stored(connection, [FEED]), FEED.views).read(questions(at))


def is_same(one: Served, other: Served) -> bool:
    """Whether two answers are equal in all that they say."""
    return (one.features, one.statuses, one.positions, one.known_to) == (other.features, other.statuses, other.positions, other.known_to)


def test_each_answer_is_what_the_store_had_at_its_position(
    session: Session, database: OnlineSettings, reader: tuple[Reader, Counted]
) -> None:
    """While departures with corrections, moves and repeats come: every feature equals that of the rows by the offset that is named."""
    rows, random = departures(np.random.default_rng(41), 200), np.random.default_rng(42)
    kept: dict[int, pa.Table] = {}
    answers: list[tuple[datetime, Served]] = []
    keep_records(session, table_of(rows[:100]), {0: 100})

    def come() -> None:
        place = 100
        with connected(database) as connection:
            kept[100] = rows_kept(connection, session.kept)
            while place < len(rows):
                size = int(random.integers(1, 9))
                known = rows_kept(connection, session.kept)
                keep_records(session, table_of(rows[place : place + size]), {0: place + size})
                place += size
                assert known.num_rows
                kept[place] = rows_kept(connection, session.kept)

    newest = rows[-1]["recorded_at"]
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(come)
        while not coming.done():
            at = newest + timedelta(minutes=int(random.integers(0, 300)))
            answers.append((at, reader[0].read(questions(at))))
        coming.result()
    without_a_query(reader, newest)
    answers.append((newest, without_a_query(reader, newest)))

    assert len({answer.positions[FEED.name].offsets[0] for _, answer in answers}) > 5
    assert reader[1].queries < len(answers)
    for at, answer in answers[:: max(1, len(answers) // MOST_COMPARED)]:
        whole = kept[answer.positions[FEED.name].offsets[0]]
        for view in FEED.views:
            expected = view_features(view, questions(at), whole)
            assert answer.features.select(expected.column_names).to_pydict() == expected.to_pydict()


def test_what_is_kept_is_answered_until_it_holds_no_longer(
    session: Session, database: OnlineSettings, reader: tuple[Reader, Counted]
) -> None:
    """The same as the store says, at times for which windows have moved on too; a question of an earlier time as well."""
    rows = departures(np.random.default_rng(43), 150)
    keep_records(session, table_of(rows), {0: len(rows)})
    newest = rows[-1]["recorded_at"]
    for later in (timedelta(0), timedelta(hours=3), timedelta(minutes=1), timedelta(days=2), timedelta(days=40)):
        served = without_a_query(reader, newest + later)
        assert is_same(served, directly(database, newest + later))
    assert {status for each in served.statuses.values() for status in each} == {"stale", "unknown"}


def test_whoever_changes_a_state_is_heard(session: Session, database: OnlineSettings, reader: tuple[Reader, Counted]) -> None:
    """A state that is taken away by hand, and one that a transaction changed which ended long after others that began later."""
    rows = departures(np.random.default_rng(44), 80)
    keep_records(session, table_of(rows), {0: len(rows)})
    at = rows[-1]["recorded_at"]
    before = without_a_query(reader, at)
    gone = sql.SQL("delete from {} where key like '%EWR%'").format(session.kept.state)
    with psycopg.connect(database.online_dsn.get_secret_value()) as slow, connected(database) as other:
        slow.execute(gone)
        for _ in range(3):
            other.execute(sql.SQL("update {} set since = since where key like '%LGA%'").format(session.kept.state))
            without_a_query(reader, at)
        other.execute("update online.pruned set seen_at = now() - interval '1 hour'")
        for _ in range(2):
            other.execute(store.PRUNE.format(id=session.kept.id))
        meanwhile = without_a_query(reader, at)
        slow.commit()
        wait_until(lambda: is_same(reader[0].read(questions(at)), directly(database, at)), "the state is known to be gone")

    assert is_same(meanwhile, before)
    assert not is_same(reader[0].read(questions(at)), before)


def test_removed_notes_are_noticed(session: Session, database: OnlineSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where notes were removed since the last look, all that was kept is forgotten; in a minute they are removed once, and no sooner."""
    rows = departures(np.random.default_rng(45), 60)
    keep_records(session, table_of(rows[:40]), {0: 40})
    at = rows[-1]["recorded_at"]
    notes = Notes(database, [FEED])
    monkeypatch.setattr(notes, "are_needed", lambda: None)
    (kept,) = notes.of([FEED])
    with connected(database) as connection, connected(database) as other:
        reader = Reader(Counted(connection, [FEED]), FEED.views, notes=notes)
        notes._read(other)  # noqa: SLF001 - a turn of its thread
        reader.read(questions(at))
        assert len(kept)
        keep_records(session, table_of(rows[40:50]), {0: 50})
        noted = other.execute("select count(*) from online.changed").fetchone()
        for minutes in (61, 122):
            other.execute("update online.pruned set seen_at = seen_at - interval '61 seconds'")
            keep_records(session, table_of(rows[:1]), {0: 50 + minutes})
        left = other.execute("select count(*) from online.changed").fetchone()
        notes._read(other)  # noqa: SLF001

    assert noted is not None
    assert noted[0] > 0
    assert left == (0,)
    assert len(kept) == 0


def test_forgotten_keys_are_in_no_note(session: Session, database: OnlineSettings, reader: tuple[Reader, Counted]) -> None:
    """Whoever keeps what is forgotten hears of it, though no note is left that could say so."""
    rows = departures(np.random.default_rng(48), 60)
    keep_records(session, table_of(rows), {0: len(rows)})
    at = rows[-1]["recorded_at"]
    before = without_a_query(reader, at)
    take_out(session, None, None, ["key like '%JFK%'"])
    with connected(database) as connection:
        noted = connection.execute("select count(*) from online.changed").fetchone()
    wait_until(lambda: is_same(reader[0].read(questions(at)), directly(database, at)), "the states are known to be gone")

    assert noted == (0,)
    assert not is_same(without_a_query(reader, at), before)


def test_sessions_begin_while_others_write(session: Session, database: OnlineSettings) -> None:
    """A session that notes what it changes holds up no other one that is opened meanwhile."""
    with psycopg.connect(database.online_dsn.get_secret_value()) as writing:
        writing.execute("insert into online.changed (feed, view, keys) values (%s, 0, array['a'])", [session.kept.id])
        with connected(database) as connection:
            connection.execute(f"alter database {connection.info.dbname} set lock_timeout = '2s'")
        with open_session(database, session.kept) as other:
            kept = keep_records(other, table_of(departures(np.random.default_rng(49), 5)), {0: 5})

    assert kept.come > 0


def test_nothing_is_kept_where_notes_cannot_be_read(session: Session, database: OnlineSettings, reader: tuple[Reader, Counted]) -> None:
    """While they wait for a lock, and after the store was restarted under it, each question is a query; then values are kept again."""
    rows = departures(np.random.default_rng(46), 60)
    keep_records(session, table_of(rows), {0: len(rows)})
    at = rows[-1]["recorded_at"]
    without_a_query(reader, at)

    def is_asked() -> bool:
        before = reader[1].queries
        reader[0].read(questions(at))
        return reader[1].queries > before

    with psycopg.connect(database.online_dsn.get_secret_value()) as locking:
        locking.execute("lock table online.changed in access exclusive mode")
        wait_until(is_asked, "notes are no longer current")
        with connected(database) as other:
            # One that waits for the lock: between its turns there is none.
            wait_until(lambda: is_asked() and bool(other.execute(ENDED).fetchall()), "its session is ended")
    served = without_a_query(reader, at)

    assert is_same(served, directly(database, at))


def test_a_feed_that_is_built_anew_is_kept_anew(session: Session, database: OnlineSettings) -> None:
    """What was kept of the version before is forgotten, though its position may be the same."""
    rows = departures(np.random.default_rng(47), 60)
    keep_records(session, table_of(rows), {0: len(rows)})
    at = rows[-1]["recorded_at"]
    notes = Notes(database, [FEED])
    (kept,) = notes.of([FEED])
    try:
        with connected(database) as connection:
            reader = Reader(Counted(connection, [FEED]), FEED.views, notes=notes)
            wait_until(lambda: reader.read(questions(at)) is not None and len(kept) > 0, "values are kept")
        with online(database) as connection:
            fresh = store.begin(connection, FEED)
            store.go_live(connection, fresh)
        with open_session(database, fresh) as other:
            keep_records(other, table_of(rows[:30]), {0: len(rows)})
        with connected(database) as connection:
            again = Counted(connection, [FEED])
            served = without_a_query((Reader(again, FEED.views, notes=notes), again), at)
    finally:
        notes.close()

    assert is_same(served, directly(database, at))
    assert fresh.id != session.kept.id
