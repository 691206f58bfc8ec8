"""Reports how far a worker is with its feeds: in the online store, for any process to read, and to Prometheus."""

import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex

from psycopg import sql

from pipeline_assets.core.connections import online
from pipeline_assets.core.kept_sessions import KeptSession
from pipeline_assets.core.settings import OnlineSettings
from pipeline_assets.model_lifecycle.feature_store.online import progress, store
from pipeline_assets.model_lifecycle.feature_store.online.course import Course
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.progress import Progress

SECONDS_BETWEEN_REPORTS = 2.0


class Reporter:
    """Writes the courses of a worker's feeds; `reported` has what was written last, with the newest `known_at` of each feed (µs)."""

    def __init__(self, settings: OnlineSettings, courses: Mapping[Feed, Course]) -> None:
        self._online, self.courses = KeptSession(partial(online, settings)), dict(courses)
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{token_hex(2)}"
        self.reported: dict[str, tuple[Progress, int | None]] = {}
        self._is_made = False
        self._taken: dict[Feed, tuple[float, int]] = {}

    def report(self) -> None:
        """Writes how far each feed is that is kept, or should be; one that is not built has nothing to report."""
        found: dict[str, tuple[Progress, int | None]] = {}
        with self._online.use() as connection:
            if not self._is_made:
                store.create(connection)
                self._is_made = True
            progress.appear(connection, self.worker, datetime.now(UTC))
            for feed, course in self.courses.items():
                kept = store.find(connection, feed)
                if kept is not None and kept.is_live:
                    query = sql.SQL("select coalesce(sum(pg_total_relation_size(to_regclass(name))), 0) from unnest(%s::text[]) as name")
                    names = [one.as_string() for one in (kept.state, kept.rows, kept.raw)]
                    (size,) = connection.execute(query, (names,)).fetchone() or (0,)
                    done = self._progress(feed, course, int(size))
                    progress.write(connection, kept, done)
                    found[feed.name] = done, kept.watermark
        self.reported = found

    def leave(self) -> None:
        """Removes what was written, as the worker ends."""
        with self._online.use() as connection:
            progress.leave(connection, self.worker)

    def _progress(self, feed: Feed, course: Course, size: int) -> Progress:
        now, taken = time.monotonic(), course.taken
        before = self._taken.get(feed, (now, taken))
        self._taken[feed] = now, taken
        return Progress(
            worker=self.worker,
            seen_at=datetime.now(UTC),
            progressed_at=course.progressed_at,
            caught_up_at=course.caught_up_at,
            lag=course.lag,
            taken=taken,
            left_out=course.left_out,
            per_second=(taken - before[1]) / (now - before[0]) if now > before[0] else 0.0,
            bytes=size,
            problem=course.problem,
        )
