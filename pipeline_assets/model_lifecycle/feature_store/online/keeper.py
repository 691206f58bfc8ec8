"""Keeps all feeds online until it is stopped: topics, the lake's commits and the reports, each in a thread of its own.

What is not there yet is waited for: the database, Kafka, a topic, a feed that is not built. What fails is said, and tried again.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from threading import Event, Thread

from pipeline_assets.core.connections import online
from pipeline_assets.core.settings import OnlineSettings, Settings
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.copies import change_name, open_copies
from pipeline_assets.model_lifecycle.feature_store.online.course import Course
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.follower import Follower
from pipeline_assets.model_lifecycle.feature_store.online.metrics import serve
from pipeline_assets.model_lifecycle.feature_store.online.reporter import SECONDS_BETWEEN_REPORTS, Reporter
from pipeline_assets.model_lifecycle.feature_store.online.session import open_session
from pipeline_assets.model_lifecycle.feature_store.online.worker import Worker
from pipeline_assets.spec.sources import EventStream

SECONDS_BETWEEN_LOOKS, PAUSE_SECONDS, END_SECONDS = 2.0, 5.0, 5.0
Say = Callable[[str], None]


def keep_online(
    settings: Settings, feeds: Sequence[Feed], streams: Sequence[EventStream], stopped: Event, say: Say, metrics_port: int | None = None
) -> bool:
    """Keeps the feeds until `stopped` is set. Then waits some seconds at most for what is in hand, which is whole or not at all.

    streams: all of the project, as those of one topic share it. metrics_port: where Prometheus asks, None for nowhere. Returns whether all
    had ended by then; the caller ends the process either way.
    """
    tables = Follower(settings, [feed for feed in feeds if feed.stream is None])
    courses = {feed: Course() for feed in feeds if feed.stream is not None}
    reporter = Reporter(settings, courses | tables.courses)
    if metrics_port is not None:
        serve(reporter, metrics_port)
    works = [partial(_follow, tables, stopped, say), partial(_report, reporter, stopped)]
    if courses:
        works.append(partial(_take, settings, courses, streams, stopped, say))
    if settings.online_valkey is not None:
        works.append(partial(_copy, settings, feeds, stopped))
    threads = [Thread(target=_again, args=(work, stopped, say), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    say("Keeping views online.")
    stopped.wait()
    deadline = time.monotonic() + END_SECONDS
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return not any(thread.is_alive() for thread in threads)


def _again(work: Callable[[], None], stopped: Event, say: Say) -> None:
    """Does a work until it is stopped; where it fails, after a pause once more. The same problem is said once."""
    said = ""
    while not stopped.is_set():
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a service that is away comes again, and a process that ended would not
            problem = str(error) or type(error).__name__
            if problem != said:
                say(f"Waiting: {problem}")
            said = problem
            stopped.wait(PAUSE_SECONDS)


def _take(settings: Settings, courses: dict[Feed, Course], streams: Sequence[EventStream], stopped: Event, say: Say) -> None:
    try:
        with ExitStack() as stack:
            worker = Worker(settings, courses, streams, stack)
            while not stopped.is_set():
                for taken in worker.step():
                    say(f"{taken.feed}: {taken.records:,} records, {taken.rows:,} rows")
    except Exception as error:
        for course in courses.values():
            course.failed(str(error) or type(error).__name__)
        raise


def _follow(tables: Follower, stopped: Event, say: Say) -> None:
    while not stopped.is_set():
        for done in tables.look():
            say(f"{done.feed}: {done.read:,} rows read, {done.come:,} came, {done.gone:,} went")
        stopped.wait(SECONDS_BETWEEN_LOOKS)


def _copy(settings: Settings, feeds: Sequence[Feed], stopped: Event) -> None:
    while not stopped.is_set():
        ensure_copies(settings, feeds)
        stopped.wait(SECONDS_BETWEEN_LOOKS)


def ensure_copies(settings: OnlineSettings, feeds: Sequence[Feed]) -> None:
    """Copies all states of the feeds whose copy is not what Postgres has: of a server that was emptied, or is new."""
    with online(settings) as connection, open_copies(settings) as copies:
        live = [kept for kept in (store.find(connection, feed) for feed in feeds) if kept is not None and kept.is_live]
        behind = [one for one in live if copies is not None and copies.change_of(one.feed) != change_name(one.id, one.change)]
    for kept in behind:
        with open_session(settings, kept) as session:
            session.ensure_copy()


def _report(reporter: Reporter, stopped: Event) -> None:
    while not stopped.is_set():
        reporter.report()
        stopped.wait(SECONDS_BETWEEN_REPORTS)
    reporter.leave()
