"""Has the feeds of tables follow the lake: each commit of their tables is taken once it is there."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from pipeline_assets.core import names
from pipeline_assets.core.connections import online
from pipeline_assets.core.iceberg import metadata_of
from pipeline_assets.core.kept_sessions import KeptSession
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.build import Built, follow
from pipeline_assets.model_lifecycle.feature_store.online.course import Course
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed


class Follower:
    """Follows the tables of some feeds; those that are not built yet are taken up once they are."""

    def __init__(self, settings: Settings, feeds: Sequence[Feed]) -> None:
        self.settings, self._online = settings, KeptSession(partial(online, settings))
        self.courses = {feed: Course() for feed in feeds}
        # What the catalog said of a table when its feed had all of it.
        self._taken: dict[Feed, tuple[int, str | None]] = {}

    def look(self) -> Iterator[Built]:
        """Takes what tables have had since; what is wrong with one feed stands in its course."""
        now, held = datetime.now(UTC), metadata_of(self.settings, names.CLEANED)
        with self._online.use() as connection:
            found = {feed: store.find(connection, feed) for feed in self.courses}
        for feed, kept in found.items():
            if kept is None or not kept.is_live:
                self.courses[feed].let_go()
                continue
            state = (kept.id, held.get(feed.table.name))
            if self._taken.get(feed) != state:
                yield from self._follow(feed)
            if self.courses[feed].problem is None:
                self._taken[feed] = state
                self.courses[feed].stands(0, now)

    def _follow(self, feed: Feed) -> Iterator[Built]:
        course = self.courses[feed]
        try:
            done = follow(self.settings, feed)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a feed, the others go on
            course.stands(1, None)
            course.failed(f"{error}" or type(error).__name__)
            return
        course.took(0 if done is None else done.read, 0 if done is None else done.read, datetime.now(UTC))
        if done is not None:
            yield done
