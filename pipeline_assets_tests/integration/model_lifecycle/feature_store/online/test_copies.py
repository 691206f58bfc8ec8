"""The copy of the online store: a change is copied once and in order, or all is copied anew; nothing is answered from half a copy."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from pydantic import SecretStr
from valkey import Valkey
from valkey.exceptions import NoPermissionError

from pipeline_assets.core.connections import online
from pipeline_assets.core.errors import SourceUnavailable
from pipeline_assets.core.online_errors import CopyForgets, CopyOvertaken, NotOnline
from pipeline_assets.core.settings import OnlineSettings, Settings
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.copies import Copies, open_source
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_records
from pipeline_assets.model_lifecycle.feature_store.online.keeper import ensure_copies
from pipeline_assets.model_lifecycle.feature_store.online.pool import Readers
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader, Served
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.online_departures import departures, feed, questions, states_kept, table_of

ROWS = departures(np.random.default_rng(11), 90)
NEWEST = ROWS[-1]["recorded_at"]
RIGHTS = ["+@hash", "+@keyspace", "+@scripting", "+@connection", "-@dangerous"]


@pytest.fixture
def settings(stores: Settings, valkey: SecretStr, fresh_database: Callable[..., SecretStr]) -> OnlineSettings:
    """An empty online store with an empty copy."""
    return OnlineSettings.model_construct(home=stores.home, online_dsn=fresh_database(stores.online_dsn), online_valkey=valkey)


@pytest.fixture
def server(valkey: SecretStr) -> Iterator[Valkey]:
    """A client of the server of the copy."""
    with Valkey.from_url(valkey.get_secret_value()) as client:
        yield client


@pytest.fixture
def session(settings: OnlineSettings) -> Iterator[Session]:
    """A session that has kept the first half of some departures."""
    with online(settings) as connection:
        store.go_live(connection, store.begin(connection, feed("departures_history")))
        kept = store.live(connection, feed("departures_history"))
    with open_session(settings, kept) as opened:
        keep_records(opened, table_of(ROWS[:60]), {0: 60})
        yield opened


def served(settings: OnlineSettings, of: Feed, *, copied: bool) -> Served:
    """What is served of all departures, from the copy or from Postgres."""
    where = settings if copied else settings.model_copy(update={"online_valkey": None})
    with open_source(where, [of]) as source:
        return Reader(source, of.views).read(questions(NEWEST))


def test_a_server_that_lost_all_is_filled_again(settings: OnlineSettings, server: Valkey, session: Session) -> None:
    """Without a copy nothing is answered; the next change, or the next look, copies all there is, with its position."""
    of = session.kept.feed
    for again in (lambda: keep_records(session, table_of(ROWS[60:]), {0: len(ROWS)}), lambda: ensure_copies(settings, [of])):
        server.flushall()
        with pytest.raises(NotOnline):
            served(settings, of, copied=True)
        again()
        copied, kept = served(settings, of, copied=True), served(settings, of, copied=False)
        assert copied.features == kept.features
        assert copied.positions == kept.positions
        assert copied.positions[of.name].offsets == {0: len(ROWS)}


def test_a_change_that_was_missed_is_noticed(settings: OnlineSettings, session: Session) -> None:
    """A worker without a server for copies goes on alone; the next one with it copies what it did not see."""
    alone = settings.model_copy(update={"online_valkey": None})
    with open_session(alone, session.kept) as other:
        keep_records(other, table_of(ROWS[60:80]), {0: 80})
    behind = served(settings, session.kept.feed, copied=True)
    keep_records(session, table_of(ROWS[80:]), {0: len(ROWS)})

    assert behind.positions[session.kept.feed.name].offsets == {0: 60}
    assert served(settings, session.kept.feed, copied=True).features == served(settings, session.kept.feed, copied=False).features


def test_a_worker_that_was_overtaken_changes_no_copy(settings: OnlineSettings, server: Valkey, session: Session) -> None:
    """A write for a change that is past does nothing; a copy of all that was overtaken is an error, and what it wrote goes by itself."""
    copies, of = Copies(server), session.kept.feed
    past = copies.change_of(of)
    keep_records(session, table_of(ROWS[60:]), {0: len(ROWS)})
    now, before = copies.change_of(of), served(settings, of, copied=True)
    states = pa.table({"key": ["EWR"], "state": [b"x"], "value": [b"y"], "since": [0], "until": [1]})

    def overtaken() -> Iterator[tuple[int, pa.Table]]:
        yield 0, states
        server.hset(f"online:{of.name}:{of.hash}", "change", "another")

    assert past is not None
    assert copies.write(of, (past, "0.0"), "[]", [(0, states)]) is False
    with pytest.raises(CopyOvertaken, match="departures_history was written by another worker"):
        copies.replace(of, "0.1", "[]", overtaken())
    assert (past == now, served(settings, of, copied=True).features == before.features) == (False, True)
    keys: Any = server.keys("online:*")
    lifetimes: list[Any] = [server.ttl(key) for key in keys]
    assert len(lifetimes) == 2 + len(of.views)
    assert [0 < one <= 3_600 for one in sorted(lifetimes)] == [*[False] * (1 + len(of.views)), True]


def test_a_change_that_cannot_be_copied_is_not_kept(settings: OnlineSettings, valkey: SecretStr, session: Session) -> None:
    """With a wrong password the error says what does not answer and shows no secret; Postgres is left as it was."""
    password = valkey.get_secret_value().split(":")[2].split("@")[0]
    wrong = settings.model_copy(update={"online_valkey": SecretStr(valkey.get_secret_value().replace(password, "not-it"))})
    with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection:
        before = states_kept(connection, session.kept), store.offsets(connection, session.kept)
        with open_session(wrong, session.kept) as other, pytest.raises(SourceUnavailable, match="the copy of the online store") as refused:
            keep_records(other, table_of(ROWS[60:]), {0: len(ROWS)})
        after = states_kept(connection, session.kept), store.offsets(connection, session.kept)

    assert after == before
    assert before[1] == {0: 60}
    assert "not-it" not in str(refused.value)


def test_a_service_asks_the_copy_alone(settings: OnlineSettings, session: Session) -> None:
    """Readers answer from the copy without any Postgres, and say so where the copy does not answer."""
    of = session.kept.feed
    model = replace(flight_delay, views=of.views, request_features=())
    nowhere = SecretStr("postgresql://nobody@127.0.0.1:1/none")
    readers = Readers(settings.model_copy(update={"online_dsn": nowhere}), [of])
    silent = Readers(settings.model_copy(update={"online_valkey": SecretStr("valkey://127.0.0.1:1/0")}), [of])
    try:
        found = readers.read(model, questions(NEWEST))
        with pytest.raises(SourceUnavailable, match="the copy of the online store"):
            silent.read(model, questions(NEWEST))
    finally:
        readers.close()
        silent.close()

    assert found.features == served(settings, of, copied=False).features


def test_a_server_that_drops_keys_is_refused(server: Valkey, session: Session) -> None:
    """Where memory is short such a server loses states, and an entity would seem unknown: nothing is copied to it."""
    server.flushall()
    server.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(CopyForgets, match="has the maxmemory-policy 'allkeys-lru'"):
            session.ensure_copy()
    finally:
        server.config_set("maxmemory-policy", "noeviction")
    assert server.dbsize() == 0


def test_a_user_with_the_rights_that_the_documentation_names_is_enough(
    settings: OnlineSettings, valkey: SecretStr, server: Valkey, session: Session
) -> None:
    """Copying anew, copying a change and reading need no more than these rights."""
    server.flushall()
    server.acl_setuser("copier", enabled=True, passwords=["+secret"], keys=["online:*"], categories=RIGHTS, commands=["+info"])
    port = valkey.get_secret_value().rpartition(":")[2]
    own = settings.model_copy(update={"online_valkey": SecretStr(f"valkey://copier:secret@127.0.0.1:{port}")})
    try:
        with open_session(own, session.kept) as other:
            other.ensure_copy()
            keep_records(other, table_of(ROWS[60:]), {0: len(ROWS)})
            assert served(own, session.kept.feed, copied=True).features == served(own, session.kept.feed, copied=False).features
        with Valkey.from_url(f"valkey://copier:secret@127.0.0.1:{port}") as another, pytest.raises(NoPermissionError):
            another.hget("another", "key")
    finally:
        server.acl_deluser("copier")
