"""Features of questions, from the online store or, where it is slow or lost, from what it said last.

A circuit breaker leaves the store alone for a while after some failures in a row, then lets one read try.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
import pyarrow as pa

from pipeline_assets.core.errors import TransientError
from pipeline_assets.model_lifecycle.feature_store.online.position import Position
from pipeline_assets.model_lifecycle.feature_store.online.read import Served, Status
from pipeline_assets.processing.features.arrays import Defaults, FeatureArrays, end_to_end, side_by_side
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.request import request_arrays
from pipeline_assets.serving.realtime.log.record import Tier
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.models import Model

LOG = logging.getLogger(__name__)
TIERS: tuple[Tier, ...] = ("online", "last_good", "default")
# After so many failures in a row the store is left alone for so long.
FAILURES, REST_SECONDS = 3, 2.0
MOST_REMEMBERED, PUT_TOGETHER = 20_000, 256
Clock = Callable[[], float]
Key = tuple[object, ...]


class StoreFailed(TransientError):
    """The online store did not answer in time, or not at all."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The features of some questions in the model's order; of each view the status of each question.

    tiers: of each question where its features come from, the worst of its views.
    """

    arrays: FeatureArrays
    statuses: Mapping[str, Sequence[Status]]
    tiers: Sequence[Tier]
    known_to: Mapping[str, int | None]
    positions: Mapping[str, Position]


@dataclass
class Breaker:
    """Whether the store is asked: open after some failures in a row, until a read that is let through has succeeded."""

    clock: Clock = time.monotonic
    failures: int = 0
    _tried_at: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the store is left alone, but for a read now and then."""
        return self.failures >= FAILURES

    def allows(self) -> bool:
        """Whether a read may try now; where the breaker is open, one each so many seconds."""
        now = self.clock()
        if self.is_open and now - self._tried_at < REST_SECONDS:
            return False
        self._tried_at = now
        return True

    def failed(self, why: str) -> None:
        """A read has failed, which it may have taken as long as the store is left alone."""
        self.failures, self._tried_at = self.failures + 1, self.clock()
        if self.failures == FAILURES:
            LOG.warning("the online store is left alone, after %d failures in a row: %s", FAILURES, why)

    def succeeded(self) -> None:
        """A read has succeeded."""
        if self.is_open:
            LOG.warning("the online store answers again")
        self.failures = 0


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What the store gave for some questions; of each when, the keys that it asked for by column, and by view what the store knew."""

    at: Sequence[float]
    keys: Mapping[str, Sequence[object]]
    arrays: FeatureArrays
    known_to: Mapping[str, Sequence[int | None]]


class LastGood:
    """The newest features of entities by view, for as long as the view promises to be fresh; the oldest go first.

    Answers are kept of so many rows in all, and put together as they come: alone, a single row takes five times its place. Which of them is
    the newest of an entity is looked for once it is asked: as long as the store answers, that costs nothing.
    """

    def __init__(self, model: Model, clock: Clock = time.monotonic, most_rows: int = MOST_REMEMBERED) -> None:
        self.model, self._clock, self._most_rows = model, clock, most_rows
        self.rows_kept, self._answers, self._since = 0, deque[_Answers](), 0
        self._new, self._rows_new, self._put_together_at = list[_Answers](), 0, min(PUT_TOGETHER, most_rows // 2)
        # Of each entity of a view the number of the answers, and the row in them; of those before `_indexed`.
        self._places: dict[tuple[str, Key], tuple[int, int]] = {}
        self._indexed = 0
        self._columns = [column for view in model.views for column in view_columns(view)]
        self._defaults = Defaults(self._columns)
        ends = np.cumsum([0, *(len(view_columns(view)) for view in model.views)]).tolist()
        self._own = {view.name: slice(*ends[place : place + 2]) for place, view in enumerate(model.views)}

    def remember(self, questions: pa.Table, served: Served) -> None:
        """Keeps what the store gave."""
        count = questions.num_rows
        known_to = {view: [at] * count for view, at in served.known_to.items()}
        self._new.append(_Answers(at=[self._clock()] * count, keys=self._keys_of(questions), arrays=served.arrays, known_to=known_to))
        self.rows_kept, self._rows_new = self.rows_kept + count, self._rows_new + count
        if self._rows_new >= self._put_together_at:
            self._put_together()
        while self.rows_kept > self._most_rows and len(self._answers) > 1:
            self.rows_kept -= len(self._answers.popleft().at)
            self._since += 1

    def _put_together(self) -> None:
        """Makes one of the answers that came since the last time."""
        if self._new:
            self._answers.append(_joined(self._new))
            self._new, self._rows_new = [], 0

    def answer(self, questions: pa.Table) -> Found:
        """What is still good of the questions' features, and else what is declared for an entity of which nothing is known."""
        self._index()
        found, count = self._unknown(questions.num_rows), questions.num_rows
        statuses, known_to, keys = dict[str, list[Status]](), dict[str, int | None](), self._keys_of(questions)
        tiers: list[Tier] = ["online"] * count
        for view in self.model.views:
            good = [self._good(view, key) for key in _keys(keys, view)]
            for row, one in enumerate(good):
                if one is not None:
                    _copy(self._own[view.name], one[0].arrays, one[1], found, row)
            statuses[view.name] = ["unknown" if one is None else "stale" for one in good]
            tiers = [_worse(tier, "default" if one is None else "last_good") for tier, one in zip(tiers, good, strict=True)]
            known = (one[0].known_to[view.name][one[1]] for one in good if one is not None)
            known_to[view.name] = max((at for at in known if at is not None), default=None)
        parts = [self._defaults.fill(found), request_arrays(self.model.request_features, questions)]
        return Found(arrays=side_by_side(parts), statuses=statuses, tiers=tiers, known_to=known_to, positions={})

    def _index(self) -> None:
        """Takes up the answers that came since it was last asked."""
        self._put_together()
        first = max(self._indexed - self._since, 0)
        for number in range(first, len(self._answers)):
            answers = self._answers[number]
            for view in self.model.views:
                for row, key in enumerate(_keys(answers.keys, view)):
                    self._places[view.name, key] = self._since + number, row
        self._indexed = self._since + len(self._answers)
        if len(self._places) > 2 * self._most_rows * len(self.model.views):
            self._places = {key: place for key, place in self._places.items() if place[0] >= self._since}

    def _good(self, view: FeatureView, key: Key) -> tuple[_Answers, int] | None:
        number, row = self._places.get((view.name, key), (-1, 0))
        if number < self._since:
            return None
        answers = self._answers[number - self._since]
        return (answers, row) if self._clock() - answers.at[row] <= view.freshness.total_seconds() else None

    def _keys_of(self, questions: pa.Table) -> dict[str, list[object]]:
        return {key: questions[key].to_pylist() for key in dict.fromkeys(key for view in self.model.views for key in view.entity.keys)}

    def _unknown(self, count: int) -> FeatureArrays:
        """What is said of entities of which nothing is known, without defaults."""
        columns = self._columns
        table = pa.table({one.name: pa.array([one.empty] * count, pa.type_for_alias(one.dtype)) for one in columns})
        return FeatureArrays.of_table(table)


class Features:
    """The features of one model, on an event loop."""

    def __init__(
        self, model: Model, read: Callable[[pa.Table], Awaitable[Served]], budget_seconds: float, clock: Clock = time.monotonic
    ) -> None:
        self.model, self.breaker, self.last_good = model, Breaker(clock), LastGood(model, clock)
        self._read, self._budget = read, budget_seconds

    async def read(self, questions: pa.Table) -> Found:
        """The features of typed questions within the budget.

        Raises what the reader raises about a question (BehindState, TableMismatch) and NotOnline; a store that fails is no error.
        """
        if not self.model.views:
            return self.last_good.answer(questions)
        try:
            served = await self._online(questions)
        except StoreFailed as error:
            LOG.info("features of %s without the online store: %s", self.model.name, error)
            return self.last_good.answer(questions)
        self.last_good.remember(questions, served)
        return Found(
            arrays=served.arrays,
            statuses=served.statuses,
            tiers=["online"] * questions.num_rows,
            known_to=served.known_to,
            positions=served.positions,
        )

    async def _online(self, questions: pa.Table) -> Served:
        if not self.breaker.allows():
            raise StoreFailed("it failed some times in a row.")
        try:
            async with asyncio.timeout(self._budget):
                served = await self._read(questions)
        except TimeoutError:
            self.breaker.failed(f"no answer within {self._budget * 1000:.0f} ms")
            raise StoreFailed(f"no answer within {self._budget * 1000:.0f} ms.") from None
        except (psycopg.Error, TransientError, OSError) as error:
            self.breaker.failed(str(error))
            raise StoreFailed(str(error)) from error
        self.breaker.succeeded()
        return served


def _joined(parts: Sequence[_Answers]) -> _Answers:
    """Answers as one, in their order."""
    first = parts[0]
    return _Answers(
        at=[at for part in parts for at in part.at],
        keys={column: [key for part in parts for key in part.keys[column]] for column in first.keys},
        arrays=end_to_end([part.arrays for part in parts]),
        known_to={view: [at for part in parts for at in part.known_to[view]] for view in first.known_to},
    )


def _keys(columns: Mapping[str, Sequence[object]], view: FeatureView) -> list[Key]:
    return list(zip(*(columns[key] for key in view.entity.keys), strict=True))


def _copy(own: slice, given: FeatureArrays, row: int, into: FeatureArrays, place: int) -> None:
    """Puts the features of a view that a row has into the place of a question."""
    into.bits[own, place], into.present[own, place] = given.bits[own, row], given.present[own, row]
    for feature in range(own.start, own.stop):
        if feature in into.texts:
            into.texts[feature][place] = given.texts[feature][row]


def _worse(one: Tier, other: Tier) -> Tier:
    return max(one, other, key=TIERS.index)
