"""Versions in the shadow: they score what was answered once it was, in a thread of their own, and only the log of predictions sees it."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from threading import Event, Thread
from uuid import UUID, uuid5

from pipeline_assets.serving.realtime.service.challenger import Challenger, OnScored
from pipeline_assets.serving.realtime.service.predictor import Answered, Part

LOG = logging.getLogger(__name__)
# So many rows wait; what comes beyond is dropped and counted.
MOST_ROWS, PAUSE_SECONDS = 2_000, 0.02
# The space of identifiers of what was scored in the shadow, by that of the answer; never change it.
SPACE = UUID("5f0d3c52-0f5b-5c39-9d8e-3e5d1f4b7a21")
# Takes what a shadow scored: the part of it, its identifiers, the identifier of the request, and the trace.
TakeShadow = Callable[[Part, Sequence[str], str, str], None]


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    one: Challenger
    part: Part
    ids: Sequence[str]
    trace: str


class Shadows:
    """What waits to be scored in the shadow, by all models of a process."""

    def __init__(self, running: Callable[[], Mapping[str, Challenger]], log: TakeShadow, on_scored: OnScored) -> None:
        self._running, self._log, self._on_scored = running, log, on_scored
        self._waiting: deque[_Waiting] = deque()
        self._rows, self._stopped = 0, Event()
        self._thread = Thread(target=self._run, name="shadows", daemon=True)
        self._thread.start()

    def answered(self, part: Part, ids: Sequence[str], trace: str) -> None:
        """A request was answered; if its model has a version in the shadow, that scores it later. Never waits."""
        one = self._running().get(part.of.serving.loaded.model.name)
        if one is None or one.trial.role != "shadow" or not part.of.questions.num_columns:
            # Features that the caller brought are no questions.
            return
        if self._rows + part.rows > MOST_ROWS:
            self._on_scored(one, "dropped", part.rows, 0.0)
            return
        self._rows += part.rows
        self._waiting.append(_Waiting(one=one, part=part, ids=ids, trace=trace))

    def stop(self) -> None:
        """Ends the thread; what waits is not scored."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE_SECONDS):
            taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
            for _, own in groupby(taken, key=lambda waiting: (id(waiting.one), id(waiting.part.of))):
                self._score(list(own))
            self._rows = sum(waiting.part.rows for waiting in tuple(self._waiting))

    def _score(self, own: Sequence[_Waiting]) -> None:
        """Scores questions that were answered together once, and logs those of each request."""
        one, of, rows = own[0].one, own[0].part.of, sum(waiting.part.rows for waiting in own)
        try:
            scores, model_ms, cpu_ms = one.scored(of.found, of.scores)
        except Exception as error:  # noqa: BLE001 - whatever it does, nobody waits for it
            one.evidence.failed(of.cpu_ms, f"{type(error).__name__}: {error}")
            self._on_scored(one, "failed", rows, 0.0)
            return
        spread = of.serving.loaded.spread
        one.evidence.answered((of.scores / spread, of.cpu_ms), (scores / spread, cpu_ms), rows)
        self._on_scored(one, "answered", rows, model_ms / 1000)
        seen: Answered = replace(of, serving=replace(of.serving, loaded=one.loaded), scores=scores, model_ms=model_ms)
        for waiting in own:
            ids = [str(uuid5(SPACE, f"{answer}/{one.trial.version}")) for answer in waiting.ids]
            self._log(replace(waiting.part, of=seen), ids, waiting.ids[0], waiting.trace)
