"""A version that is tried beside the live one: what it answers for its share, within a time, and what is seen of it.

It scores the same questions as the live version, whole batches, so that times and scores of both are those of the same work; of its scores
those of its share are given. Where it fails, or takes too long, the live version's scores are given, which are there already.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline_assets.core.errors import TransientError
from pipeline_assets.model_lifecycle.registry.ledger import Trial
from pipeline_assets.model_lifecycle.training.judged import Scores
from pipeline_assets.serving.realtime.service.evidence import Evidence
from pipeline_assets.serving.realtime.service.features import Found
from pipeline_assets.serving.realtime.service.packages import Loaded
from pipeline_assets.serving.realtime.service.share import rows_of_share

Outcome = Literal["answered", "failed", "dropped"]
# Counts rows of a version that is tried, by what became of them; seconds of the call, 0 where it did not end.
OnScored = Callable[["Challenger", Outcome, int, float], None]


class NoAnswer(TransientError):
    """A version that is tried did not answer, or not with numbers."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Which rows of some questions a canary answers, and its scores of all of them."""

    loaded: Loaded
    rows: frozenset[int]
    scores: Scores
    model_ms: float

    def over(self, scores: Scores) -> Scores:
        """The live version's scores with those of the canary in the rows that it answers."""
        own = np.array([row in self.rows for row in range(len(scores))])
        given: Scores = np.where(own if scores.ndim == 1 else own[:, None], self.scores, scores)
        return given


class Challenger:
    """One version that is tried, in one step of its trial; with a thread of its own, as one that hangs must not hold up answers."""

    def __init__(self, loaded: Loaded, trial: Trial, on_scored: OnScored = lambda *_: None) -> None:
        self.loaded, self.trial, self.evidence, self._on_scored = loaded, trial, Evidence(), on_scored
        self._patience = loaded.model.canary.patience.total_seconds()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"try-{loaded.model.name}")
        self._hanging: asyncio.Future[tuple[Scores, float, float]] | None = None

    async def answer(self, champion: Loaded, questions: pa.Table, found: Found, live: tuple[Scores, float]) -> Tried | None:
        """What a canary answers of some questions; None where none are its own, or it fails. Never raises.

        live: the scores of the live version, `champion`, and its milliseconds of the processor.
        """
        rows = frozenset[int]()
        try:
            rows = rows_of_share(self.loaded.model, self.trial, questions)
            if not rows:
                return None
            scores, model_ms, cpu_ms = await self._in_time(found, live[0])
        except Exception as error:  # noqa: BLE001 - whatever it does, the live version has answered already
            self.evidence.failed(live[1], f"{type(error).__name__}: {error}")
            self._on_scored(self, "failed", len(rows), 0.0)
            return None
        self.evidence.answered((live[0] / champion.spread, live[1]), (scores / champion.spread, cpu_ms), len(rows))
        self._on_scored(self, "answered", len(rows), model_ms / 1000)
        return Tried(loaded=self.loaded, rows=rows, scores=scores, model_ms=model_ms)

    def scored(self, found: Found, like: Scores) -> tuple[Scores, float, float]:
        """Its scores of some questions, in the shape of the live version's, in how many milliseconds, and those of the processor.

        Raises NoAnswer.
        """
        began, cpu_began = time.perf_counter(), time.thread_time()
        scores = self.loaded.scorer.score_arrays(found.arrays)
        model_ms, cpu_ms = (time.perf_counter() - began) * 1000, (time.thread_time() - cpu_began) * 1000
        if scores.shape != like.shape or not np.isfinite(scores).all():
            raise NoAnswer(f"Version {self.loaded.version} gave scores that are no numbers, or not one for each row.")
        return scores, model_ms, cpu_ms

    def close(self) -> None:
        """Ends the thread once it has done what it was given; it is not waited for."""
        self._thread.shutdown(wait=False)

    async def _in_time(self, found: Found, like: Scores) -> tuple[Scores, float, float]:
        if self._hanging is not None and not self._hanging.done():
            raise NoAnswer(f"Version {self.loaded.version} still works on a call from before.")
        scoring = asyncio.get_running_loop().run_in_executor(self._thread, self.scored, found, like)
        try:
            # Shielded, as a call that runs cannot be ended.
            return await asyncio.wait_for(asyncio.shield(scoring), self._patience)
        except TimeoutError:
            self._hanging = scoring
            scoring.add_done_callback(lambda late: None if late.cancelled() else late.exception())
            raise NoAnswer(f"Version {self.loaded.version} gave no answer within {self._patience * 1000:.0f} ms.") from None
