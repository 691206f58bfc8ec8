"""The stream worker: whatever is killed, moved or sent twice, the states are those of an undisturbed course."""

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import numpy as np
import psycopg
import pytest
from pydantic import SecretStr

from pipeline_assets.core.connections import online
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.course import Course
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.keep import keep_records
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader
from pipeline_assets.model_lifecycle.feature_store.online.session import open_session
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.model_lifecycle.feature_store.online.worker import Worker
from pipeline_assets_tests.online_departures import departures, feed, questions, rows_kept, table_of
from pipeline_assets_tests.online_workers import departures_topic, send, taken, worker_process
from pipeline_assets_tests.stack_env import write_stack_env
from pipeline_assets_tests.stack_services import create_database
from pipeline_assets_tests.stream_records import until


@pytest.fixture
def own(streams: Settings) -> Settings:
    """The settings of the streams with an empty online store."""
    return streams.model_copy(update={"online_dsn": create_database(streams.home, SecretStr(streams.online_dsn.get_secret_value()))})


@pytest.fixture
def topic(own: Settings) -> Feed:
    """Departures from a topic of this test, live and with nothing in it."""
    declared = departures_topic(own)
    with online(own) as connection:
        store.go_live(connection, store.begin(connection, declared))
    return declared


def served(settings: Settings, kept: store.Kept, at: datetime) -> Mapping[str, list[object]]:
    """What is served at a time."""
    with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection:
        found: Mapping[str, list[object]] = (
            Reader(Stored(connection, [kept.feed]), kept.feed.views).read(questions(at)).features.to_pydict()
        )
    return found


def test_workers_that_are_killed_lose_and_double_nothing(own: Settings, topic: Feed, tmp_path: Path) -> None:
    """One is killed in its work, two go on and one of them is killed too: what is served equals what all records at once make."""
    random, rows = np.random.default_rng(21), departures(np.random.default_rng(20), 1_500)
    write_stack_env(own, tmp_path)
    half = len(rows) // 2
    with worker_process(topic, tmp_path):
        sent = send(own, topic, rows[:half], random)
        until(lambda: taken(own, topic), lambda count: count > 0, 60)
    before = taken(own, topic)
    with worker_process(topic, tmp_path):
        with worker_process(topic, tmp_path):
            sent += send(own, topic, rows[half:], random)
            until(lambda: taken(own, topic), lambda count: count > before, 60)
        assert until(lambda: taken(own, topic), lambda count: count == sent, 90) == sent

    with online(own) as connection:
        kept = store.live(connection, topic)
        whole = store.begin(connection, feed_of_its_own())
        store.go_live(connection, whole)
        found = rows_kept(connection, kept)
    with open_session(own, whole) as session:
        keep_records(session, table_of(rows), {0: 1})
    with online(own) as connection:
        expected = rows_kept(connection, whole)
    order = [(name, "ascending") for name in expected.column_names]
    assert found.sort_by(order).to_pylist() == expected.sort_by(order).to_pylist()
    assert served(own, kept, rows[-1]["recorded_at"]) == served(own, whole, rows[-1]["recorded_at"])


def feed_of_its_own() -> Feed:
    """Departures under another hash, so that both stand in one store."""
    declared = feed("departures_history")
    declared.__dict__["hash"] = "another"
    return declared


def test_a_worker_that_lost_its_partitions_without_knowing_changes_nothing(own: Settings, topic: Feed) -> None:
    """What a worker took, another took before it committed: the states and offsets are those of the first."""
    rows = departures(np.random.default_rng(22), 200)
    sent = send(own, topic, rows, np.random.default_rng(23))
    with ExitStack() as stack:
        assert topic.stream is not None
        worker = Worker(own, {topic: Course()}, [topic.stream], stack)
        until(lambda: (worker.step(), taken(own, topic))[1], lambda count: count == sent, 60)
        kept = worker.sessions[0].kept
        before = served(own, kept, rows[-1]["recorded_at"])
        change = keep_records(worker.sessions[0], table_of(rows[:150]), {0: 1, 1: 1})
        assert (change.gone, change.come) == (0, 0)
        assert taken(own, topic) == sent
        assert served(own, kept, rows[-1]["recorded_at"]) == before
