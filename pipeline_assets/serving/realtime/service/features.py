"""Features of questions, from the online store or, where it is slow or lost, from what it said last.

A circuit breaker leaves the store alone for a while after some failures in a row, then lets one read try.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass, field

import psycopg
import pyarrow as pa

from pipeline_assets.core.errors import TransientError
from pipeline_assets.model_lifecycle.feature_store.online.position import Position
from pipeline_assets.model_lifecycle.feature_store.online.read import Served, Status
from pipeline_assets.processing.features.catalogue import FeatureColumn, view_columns
from pipeline_assets.processing.features.defaults import with_defaults
from pipeline_assets.processing.features.request import request_features
from pipeline_assets.serving.realtime.log.record import Tier
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.models import Model

LOG = logging.getLogger(__name__)
TIERS: tuple[Tier, ...] = ("online", "last_good", "default")
# After so many failures in a row the store is left alone for so long.
FAILURES, REST_SECONDS = 3, 2.0
MOST_REMEMBERED = 50_000
Clock = Callable[[], float]
Key = tuple[object, ...]


class StoreFailed(TransientError):
    """The online store did not answer in time, or not at all."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The features of some questions: their columns in the model's order; of each view the status of each question.

    tiers: of each question where its features come from, the worst of its views.
    """

    features: pa.Table
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
        """A read has failed."""
        self.failures += 1
        if self.failures == FAILURES:
            LOG.warning("the online store is left alone, after %d failures in a row: %s", FAILURES, why)

    def succeeded(self) -> None:
        """A read has succeeded."""
        if self.is_open:
            LOG.warning("the online store answers again")
        self.failures = 0


@dataclass(frozen=True, kw_only=True)
class _Remembered:
    """The features of a view that the store gave for an entity, as a row of a table that is kept by its number, and when."""

    at: float
    table: int
    row: int
    known_to: int | None


@dataclass
class LastGood:
    """The newest features of entities by view, for as long as the view promises to be fresh; the oldest go first.

    Tables are kept as they came, of so many rows in all: an entity whose table has gone is no longer known.
    """

    model: Model
    clock: Clock = time.monotonic
    most_rows: int = MOST_REMEMBERED
    _tables: "OrderedDict[int, pa.Table]" = field(default_factory=OrderedDict)
    rows_kept: int = 0
    _number: int = 0
    _rows: "OrderedDict[tuple[str, Key], _Remembered]" = field(default_factory=OrderedDict)

    def remember(self, questions: pa.Table, served: Served) -> None:
        """Keeps what the store gave."""
        now = self.clock()
        self._number += 1
        self._tables[self._number] = served.features
        self.rows_kept += served.features.num_rows
        for view in self.model.views:
            for row, key in enumerate(_keys(questions, view)):
                known = _Remembered(at=now, table=self._number, row=row, known_to=served.known_to[view.name])
                self._rows[view.name, key] = known
                self._rows.move_to_end((view.name, key))
        while self.rows_kept > self.most_rows and len(self._tables) > 1:
            _, gone = self._tables.popitem(last=False)
            self.rows_kept -= gone.num_rows
        while len(self._rows) > self.most_rows * len(self.model.views):
            self._rows.popitem(last=False)

    def answer(self, questions: pa.Table) -> Found:
        """What is still good of the questions' features, and else what is declared for an entity of which nothing is known."""
        columns: dict[str, pa.ChunkedArray] = {}
        statuses: dict[str, list[Status]] = {}
        worst: list[Tier] = ["online"] * questions.num_rows
        known_to: dict[str, int | None] = {}
        for view in self.model.views:
            found = [self._good(view, key) for key in _keys(questions, view)]
            for column in view_columns(view):
                columns[column.name] = _column(column, self._tables, found)
            statuses[view.name] = ["unknown" if one is None else "stale" for one in found]
            worst = [_worse(one, "default" if each is None else "last_good") for one, each in zip(worst, found, strict=True)]
            known_to[view.name] = max((one.known_to for one in found if one is not None and one.known_to is not None), default=None)
        features = with_defaults([one for view in self.model.views for one in view_columns(view)], pa.table(columns))
        of_request = request_features(self.model.request_features, questions)
        whole = pa.table([*features.columns, *of_request.columns], [*features.column_names, *of_request.column_names])
        return Found(features=whole, statuses=statuses, tiers=worst, known_to=known_to, positions={})

    def _good(self, view: FeatureView, key: Key) -> _Remembered | None:
        known = self._rows.get((view.name, key))
        if known is None or known.table not in self._tables:
            return None
        return known if self.clock() - known.at <= view.freshness.total_seconds() else None


class Features:
    """The features of one model. Reads happen in a thread of their own, as one that hangs must not hold up answers."""

    def __init__(
        self, model: Model, read: Callable[[Model, pa.Table], Served], budget_seconds: float, clock: Clock = time.monotonic
    ) -> None:
        self.model, self.breaker, self.last_good = model, Breaker(clock), LastGood(model, clock)
        self._read, self._budget = read, budget_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"features-{model.name}")
        self._hanging: Future[Served] | None = None

    def read(self, questions: pa.Table) -> Found:
        """The features of typed questions within the budget.

        Raises what the reader raises about a question (BehindState, TableMismatch) and NotOnline; a store that fails is no error.
        """
        if not self.model.views:
            return self.last_good.answer(questions)
        try:
            served = self._online(questions)
        except StoreFailed as error:
            LOG.info("features of %s without the online store: %s", self.model.name, error)
            return self.last_good.answer(questions)
        self.last_good.remember(questions, served)
        return Found(
            features=served.features,
            statuses=served.statuses,
            tiers=["online"] * questions.num_rows,
            known_to=served.known_to,
            positions=served.positions,
        )

    def close(self) -> None:
        """Ends the thread; one that hangs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _online(self, questions: pa.Table) -> Served:
        if self._hanging is not None and not self._hanging.done():
            raise StoreFailed("a read from before still waits for it.")
        if not self.breaker.allows():
            raise StoreFailed("it failed some times in a row.")
        reading = self._thread.submit(self._read, self.model, questions)
        try:
            served = reading.result(self._budget)
        except TookTooLong:
            self._hanging = reading
            self.breaker.failed(f"no answer within {self._budget * 1000:.0f} ms")
            raise StoreFailed(f"no answer within {self._budget * 1000:.0f} ms.") from None
        except (psycopg.Error, TransientError, OSError) as error:
            self.breaker.failed(str(error))
            raise StoreFailed(str(error)) from error
        self.breaker.succeeded()
        return served


def _keys(questions: pa.Table, view: FeatureView) -> list[Key]:
    return list(zip(*(questions[key].to_pylist() for key in view.entity.keys), strict=True))


def _column(column: FeatureColumn, tables: Mapping[int, pa.Table], found: Sequence[_Remembered | None]) -> pa.ChunkedArray:
    values = [column.empty if one is None else tables[one.table][column.name][one.row].as_py() for one in found]
    return pa.chunked_array([pa.array(values, pa.type_for_alias(column.dtype))])


def _worse(one: Tier, other: Tier) -> Tier:
    return max(one, other, key=TIERS.index)
