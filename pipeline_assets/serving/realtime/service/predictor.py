"""Predictions of one model: requests that wait at the same time are answered together, by one read of features and one call of the model.

Requests are put into a queue; a task on the event loop takes all that wait, and has the version that serves then answer them, so that
every answer comes from one version as a whole, and where a canary is tried each row of it. Few rows are scored on the loop itself, which
takes less time than to wake a thread.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_assets.core.errors import UserInputError
from pipeline_assets.model_lifecycle.feature_store.online.read import Status
from pipeline_assets.model_lifecycle.training.judged import Scores
from pipeline_assets.serving.realtime.log.record import Tier
from pipeline_assets.serving.realtime.service.challenger import Challenger, Tried
from pipeline_assets.serving.realtime.service.features import Features, Found
from pipeline_assets.serving.realtime.service.live import Serving
from pipeline_assets.serving.realtime.service.packages import Loaded
from pipeline_assets.serving.realtime.service.problems import Problem
from pipeline_assets.serving.realtime.service.schema import RequestSchema, Row
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Binary, Multiclass

LOG = logging.getLogger(__name__)
MOST_ROWS, INLINE_ROWS = 1_000, 128
# A request is refused at once where it would wait longer than this for its turn, unless few do; and where its turn comes too late.
LONGEST_WAIT_SECONDS, FEW_WAITING, DEADLINE_SECONDS = 0.03, 64, 1.0
# Those of low priority leave this share of the room to the others.
ROOM_FOR_LOW = 0.5


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Questions that were answered together: by which version, when, with which features, and how long the stages took.

    cpu_ms: of the processor, for the live version's call of the model. tried: the canary that answered some of the rows, whose `scores` are
    its own; None where it answered none.
    """

    serving: Serving
    asked_at: datetime
    questions: pa.Table
    found: Found
    scores: Scores
    features_ms: float
    model_ms: float
    cpu_ms: float = 0.0
    tried: Tried | None = None

    def loaded(self, row: int) -> Loaded:
        """The version that answered a row."""
        return self.tried.loaded if self.tried is not None and row in self.tried.rows else self.serving.loaded

    def model_ms_of(self, row: int) -> float:
        """How long the version that answered a row took for all of them."""
        return self.tried.model_ms if self.tried is not None and row in self.tried.rows else self.model_ms

    @cached_property
    def asked(self) -> list[dict[str, Any]]:
        """The questions as rows."""
        found: list[dict[str, Any]] = self.questions.to_pylist()
        return found

    @cached_property
    def vectors(self) -> list[dict[str, Any]]:
        """The features as rows."""
        return self.found.arrays.rows()


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one request gets of questions that were answered together: `rows` rows from `first` on."""

    of: Answered
    first: int
    rows: int

    @property
    def scores(self) -> Scores:
        """The scores of its rows."""
        return self.of.scores[self.first : self.first + self.rows]

    @property
    def versions(self) -> list[Loaded]:
        """Of each of its rows the version that answered it."""
        if self.of.tried is None:
            return [self.of.serving.loaded] * self.rows
        return [self.of.loaded(row) for row in range(self.first, self.first + self.rows)]

    @property
    def tiers(self) -> Sequence[Tier]:
        """Where the features of its rows come from."""
        return self.of.found.tiers[self.first : self.first + self.rows]

    @cached_property
    def statuses(self) -> list[dict[str, Status]]:
        """Of each of its rows the status of each view."""
        own = [values[self.first : self.first + self.rows] for values in self.of.found.statuses.values()]
        return [dict(zip(self.of.found.statuses, one, strict=True)) for one in zip(*own, strict=True)] if own else [{}] * self.rows


@dataclass(frozen=True, slots=True)
class _Waiting:
    rows: Sequence[Row]
    answer: "asyncio.Future[Part]"
    since: float


@dataclass
class Predictor:
    """Answers for one model. `serving` gives the version that serves now, None where none does; `on_answered` gets what was answered.

    challenger: the canary beside that version, None where none is tried.
    """

    model: Model
    schema: RequestSchema
    features: Features
    serving: Callable[[], Serving | None]
    on_answered: Callable[[Answered], None] = lambda _: None
    challenger: Callable[[Loaded], Challenger | None] = lambda _: None
    _queue: "deque[_Waiting]" = field(default_factory=deque)
    _waiting_rows: int = 0
    _is_busy: bool = False
    _rows_per_second: float = 2_000.0

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"predict-{self.model.name}")
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._queue)

    def check_room(self, *, is_low: bool = False) -> None:
        """Raises Problem (503) where a further request would wait too long; called before its body is read."""
        room = ROOM_FOR_LOW if is_low else 1.0
        if len(self._queue) < FEW_WAITING * room:
            return
        if self._waiting_rows / self._rows_per_second > LONGEST_WAIT_SECONDS * room:
            detail = f"{len(self._queue)} requests wait for model '{self.model.name}'. Ask again in a second."
            raise Problem(503, "Overloaded", detail, retry_after=1, model=self.model.name)

    async def predict(self, rows: Sequence[Row]) -> Part:
        """The answer for some rows, as the schema has read them.

        Raises Problem: 503 where no version serves, or the turn comes too late; what is wrong with a question as its own error.
        """
        waiting = _Waiting(rows, asyncio.get_running_loop().create_future(), time.monotonic())
        self._queue.append(waiting)
        self._waiting_rows += len(rows)
        self._go_on()
        return await waiting.answer

    def close(self) -> None:
        """Ends the thread, and what is being answered."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._task is not None:
            self._task.cancel()

    def _go_on(self) -> None:
        """Has what waits be answered, unless something is: all that has come by the time the task begins."""
        if not self._is_busy and self._queue:
            self._is_busy = True
            self._task = asyncio.get_running_loop().create_task(self._answer())

    def _taken(self) -> list[_Waiting]:
        taken, rows = list[_Waiting](), 0
        while self._queue and (not taken or rows + len(self._queue[0].rows) <= MOST_ROWS):
            one = self._queue.popleft()
            rows += len(one.rows)
            taken.append(one)
        self._waiting_rows -= rows
        return taken

    async def _answer(self) -> None:
        """Answers what waits, together or, where that fails for one of them, each alone."""
        taken, began, answered = self._taken(), time.monotonic(), list[Answered]()
        in_time = [one for one in taken if began - one.since <= DEADLINE_SECONDS and not one.answer.cancelled()]
        outcomes: list[Part | Exception] = []
        try:
            outcomes = await self._outcomes(in_time, answered)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait get it
            outcomes = [error] * len(in_time)
        took = max(time.monotonic() - began, 1e-6)
        found = dict(zip(map(id, in_time), outcomes, strict=True))
        rate = sum(len(one.rows) for one in in_time) / took
        self._deliver([(one, found.get(id(one))) for one in taken], rate)
        for one in answered:
            self.on_answered(one)

    async def _outcomes(self, taken: Sequence[_Waiting], answered: list[Answered]) -> list[Part | Exception]:
        try:
            return await self._together(taken, answered) if taken else []
        except Exception as error:
            if len(taken) == 1:
                return [error]
            if not isinstance(error, UserInputError):
                raise
            return [outcome for one in taken for outcome in await self._outcomes([one], answered)]

    async def _together(self, taken: Sequence[_Waiting], answered: list[Answered]) -> list[Part | Exception]:
        serving = self.serving()
        if serving is None:
            raise Problem(503, "NothingLive", f"No version of model '{self.model.name}' serves.", retry_after=5, model=self.model.name)
        asked_at = datetime.now(UTC)
        questions = self.schema.questions([row for one in taken for row in one.rows], asked_at)
        began = time.perf_counter()
        found = await self.features.read(questions)
        features_ms = (time.perf_counter() - began) * 1000
        score = partial(self._scored, serving, found)
        is_short = questions.num_rows <= INLINE_ROWS
        scores, model_ms, cpu_ms = score() if is_short else await asyncio.get_running_loop().run_in_executor(self._thread, score)
        challenger = self.challenger(serving.loaded)
        tried = None if challenger is None else await challenger.answer(serving.loaded, questions, found, (scores, cpu_ms))
        whole = Answered(
            serving=serving,
            asked_at=asked_at,
            questions=questions,
            found=found,
            scores=scores if tried is None else tried.over(scores),
            features_ms=features_ms,
            model_ms=model_ms,
            cpu_ms=cpu_ms,
            tried=tried,
        )
        answered.append(whole)
        firsts = np.cumsum([0, *(len(one.rows) for one in taken)]).tolist()
        return [Part(of=whole, first=first, rows=len(one.rows)) for first, one in zip(firsts, taken, strict=False)]

    def _scored(self, serving: Serving, found: Found) -> tuple[Scores, float, float]:
        """What a version says to features, in how many milliseconds, and those of the processor."""
        began, cpu_began = time.perf_counter(), time.thread_time()
        scores = serving.loaded.scorer.score_arrays(found.arrays)
        if not np.isfinite(scores).all():
            raise Problem(500, "NotFinite", f"Version {serving.loaded.version} gave a score that is no number.", model=self.model.name)
        return scores, (time.perf_counter() - began) * 1000, (time.thread_time() - cpu_began) * 1000

    def _deliver(self, outcomes: Sequence[tuple[_Waiting, Part | Exception | None]], rate: float) -> None:
        """Hands out the answers, and goes on."""
        for one, outcome in outcomes:
            if one.answer.done():
                continue
            if outcome is None:
                detail = f"Its turn came after {DEADLINE_SECONDS:g} s. Ask again later."
                one.answer.set_exception(Problem(503, "TooLate", detail, retry_after=1, model=self.model.name))
            elif isinstance(outcome, Exception):
                one.answer.set_exception(outcome)
            else:
                one.answer.set_result(outcome)
        self._rows_per_second += 0.1 * (rate - self._rows_per_second)
        self._is_busy = False
        self._go_on()


def plain_scores(model: Model, part: Part) -> list[dict[str, Any]]:
    """The answer of each row: `score` of yes or no, `value` of a number, `scores` by class with the likeliest as `predicted`."""
    values = part.scores.tolist()
    if isinstance(model.task, Multiclass):
        classes = model.task.classes
        best = part.scores.argmax(axis=1).tolist()
        return [{"scores": dict(zip(classes, row, strict=True)), "predicted": classes[one]} for row, one in zip(values, best, strict=True)]
    name = "score" if isinstance(model.task, Binary) else "value"
    return [{name: value} for value in values]
