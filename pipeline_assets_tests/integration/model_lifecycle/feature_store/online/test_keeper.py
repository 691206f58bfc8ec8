"""The process that keeps views online: it waits for what is not there, ends when asked, and shows how far it is."""

import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from pipeline_assets.core.connections import online
from pipeline_assets.core.settings import Settings
from pipeline_assets.local_stack.ports import free_port
from pipeline_assets.model_lifecycle.feature_store.online import progress, store
from pipeline_assets.model_lifecycle.feature_store.online.course import Course
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.progress import STALL, Standing, standing
from pipeline_assets.model_lifecycle.feature_store.online.worker import Worker
from pipeline_assets_tests.online_departures import departures, feed
from pipeline_assets_tests.online_worker import departures_of
from pipeline_assets_tests.online_workers import departures_topic, send, taken, worker_process
from pipeline_assets_tests.stack_env import write_stack_env
from pipeline_assets_tests.stack_services import create_database
from pipeline_assets_tests.stream_records import until

SECONDS = 60


@pytest.fixture
def own(streams: Settings) -> Settings:
    """The settings of the streams with an empty online store."""
    return streams.model_copy(update={"online_dsn": create_database(streams.home, SecretStr(streams.online_dsn.get_secret_value()))})


@pytest.fixture
def topic(own: Settings) -> Feed:
    """Departures from a topic of this test, of which the store has nothing."""
    return departures_topic(own)


def put_online(settings: Settings, declared: Feed) -> store.Kept:
    """Has a feed read, with nothing in it."""
    with online(settings) as connection:
        kept = store.begin(connection, declared)
        store.go_live(connection, kept)
    return kept


def seen(settings: Settings, declared: Feed, now: datetime | None = None) -> Standing | None:
    """How a feed stands, None where the store does not have it."""
    with online(settings) as connection:
        kept = store.find(connection, declared)
        return None if kept is None else standing(kept, progress.read(connection, kept), now or datetime.now(UTC))


def is_caught_up(found: Standing | None) -> bool:
    """A worker keeps the feed, and has taken all."""
    return found is not None and found.workers == 1 and found.lag == 0 and found.caught_up_at is not None


def ended(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Asks a process to end, and gives its exit code; fails where it takes longer."""
    process.send_signal(signal.SIGTERM)
    return process.wait(seconds)


def test_a_worker_takes_up_a_feed_that_is_built_after_its_start(own: Settings, topic: Feed, tmp_path: Path) -> None:
    """It starts with an empty store, takes a feed once it is there, and once more when it is built anew while it is read."""
    write_stack_env(own, tmp_path)
    sent = send(own, topic, departures(np.random.default_rng(30), 100), np.random.default_rng(31))
    with worker_process(topic, tmp_path) as process:
        until((tmp_path / "worker.log").read_text, lambda text: "Keeping views online." in text, SECONDS)
        first = put_online(own, topic)
        assert until(lambda: taken(own, topic), lambda count: count == sent, SECONDS) == sent
        second = put_online(own, topic)
        assert first.id != second.id
        assert until(lambda: taken(own, topic), lambda count: count == sent, SECONDS) == sent
        assert process.poll() is None


def test_a_worker_ends_when_asked_and_leaves_no_trace_in_the_table_of_workers(own: Settings, topic: Feed, tmp_path: Path) -> None:
    """SIGTERM ends it within seconds with exit code 0; what it reported is removed."""
    write_stack_env(own, tmp_path)
    put_online(own, topic)
    with worker_process(topic, tmp_path) as process:
        assert is_caught_up(until(lambda: seen(own, topic), is_caught_up, SECONDS))
        assert ended(process, 8) == 0
    with online(own) as connection:
        assert connection.execute("select count(*) from online.workers").fetchone() == (0,)


def test_a_worker_that_waits_for_a_lock_ends_in_bounded_time(own: Settings, topic: Feed, tmp_path: Path) -> None:
    """What is in hand when it is asked to end is given up after some seconds, and nothing of it is there."""
    write_stack_env(own, tmp_path)
    kept = put_online(own, topic)
    with worker_process(topic, tmp_path) as process, online(own) as blocker:
        until(lambda: seen(own, topic), is_caught_up, SECONDS)
        blocker.execute("select pg_advisory_xact_lock(hashtext('online'), %s)", (kept.id,))
        send(own, topic, departures(np.random.default_rng(32), 20), np.random.default_rng(33))
        waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        until(lambda: blocker.execute(waits).fetchone(), lambda count: count == (1,), SECONDS)
        assert ended(process, 10) == 1
    assert taken(own, topic) == 0


def test_metrics_are_on_loopback_in_the_format_of_prometheus(own: Settings, topic: Feed, tmp_path: Path) -> None:
    """What it has taken and left out, its lag and its watermark are there for each feed."""
    write_stack_env(own, tmp_path)
    put_online(own, topic)
    rows, port = departures(np.random.default_rng(34), 80), free_port()
    sent = send(own, topic, rows, np.random.default_rng(35))
    with worker_process(topic, tmp_path, port):
        until(lambda: taken(own, topic), lambda count: count == sent, SECONDS)
        expected = f'pipeline_online_taken_records_total{{feed="{topic.name}"}} {sent:.1f}'
        text = until(lambda: httpx.get(f"http://127.0.0.1:{port}/metrics").text, lambda text: expected in text, SECONDS)
        found = until(lambda: seen(own, topic), is_caught_up, SECONDS)

    assert f'pipeline_online_lag{{feed="{topic.name}"}} 0.0' in text
    assert f'pipeline_online_is_failing{{feed="{topic.name}"}} 0.0' in text
    assert "pipeline_online_watermark_timestamp_seconds{" in text
    assert found is not None
    assert found.left_out > 0
    assert found.trouble is None


def test_a_feed_that_cannot_be_kept_stops_alone(own: Settings, topic: Feed) -> None:
    """One of two feeds of a topic has lost its table: it says so and is left out, while the other takes every record."""
    other = departures_of(topic.stream.topic if topic.stream is not None else "")
    other.__dict__["hash"] = "another"
    put_online(own, topic)
    broken = put_online(own, other)
    with online(own) as connection:
        connection.execute(f"drop table online.state_{broken.id}")
    rows = departures(np.random.default_rng(36), 60)
    with ExitStack() as stack:
        assert topic.stream is not None
        worker = Worker(own, {topic: Course(), other: Course()}, [topic.stream], stack)
        sent = send(own, topic, rows, np.random.default_rng(37))
        assert until(lambda: (worker.step(), taken(own, topic))[1], lambda count: count == sent, SECONDS) == sent
        problem = until(lambda: (worker.step(), worker.courses[other].problem)[1], lambda text: text is not None, SECONDS)

        assert problem is not None
        assert f"state_{broken.id}" in problem
        assert worker.courses[topic].problem is None


def test_a_worker_that_was_killed_is_missed(own: Settings, topic: Feed, tmp_path: Path) -> None:
    """Nothing is wrong at first; some minutes later it says that no worker keeps the feed, and when one was seen."""
    write_stack_env(own, tmp_path)
    put_online(own, topic)
    with worker_process(topic, tmp_path):
        found = until(lambda: seen(own, topic), is_caught_up, SECONDS)
    assert found is not None
    assert found.trouble is None

    later = seen(own, topic, datetime.now(UTC) + STALL + timedelta(seconds=1))
    assert later is not None
    assert later.trouble == f"no worker keeps {topic.name}: the last one was seen 2 min ago"


def feed_of_weather() -> Feed:
    """A feed that follows a table."""
    return feed("weather_observations_history")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Course.let_go, None),
        (lambda course: course.failed("its table is gone"), "cannot keep weather_observations_history:table: its table is gone"),
        (lambda course: course.stands(3, None), "stands still: lag of 3 without progress for 2 min"),
    ],
)
def test_what_a_worker_reports_is_judged(change: Callable[[Course], None], words: str | None) -> None:
    """A problem is named at once, and no progress after two minutes."""
    now = datetime.now(UTC)
    course = Course(progressed_at=now)
    change(course)
    at = now if words is None or "stands" not in words else now - STALL - timedelta(seconds=5)
    found = standing(kept_of(now - timedelta(days=1)), [report(course, now, at)], now)

    assert (found.trouble is None) == (words is None)
    assert words is None or words in str(found.trouble)


def test_a_feed_that_is_older_than_promised_while_its_source_moves_is_named() -> None:
    """A worker that takes records, and is further behind than the least freshness promised, is too slow."""
    now = datetime.now(UTC)
    promised = min(view.freshness for view in feed_of_weather().views)
    course = Course(progressed_at=now, lag=7)
    course.caught_up_at = now - promised
    found = standing(kept_of(now - timedelta(days=9)), [report(course, now, now)], now)

    assert str(found.trouble).startswith("older than promised: lag of 7, caught up ")


def kept_of(made_at: datetime) -> store.Kept:
    """Weather in a store."""
    return store.Kept(id=1, feed=feed_of_weather(), is_live=True, watermark=None, snapshot_id=None, made_at=made_at)


def report(course: Course, now: datetime, progressed_at: datetime) -> progress.Progress:
    """What a worker writes of a course."""
    return progress.Progress(
        worker="w:1", seen_at=now, progressed_at=progressed_at, caught_up_at=course.caught_up_at, lag=course.lag, taken=0, left_out=0,
        per_second=0.0, bytes=0, problem=course.problem,
    )  # fmt: skip
