"""The versions that are tried in this process: loaded as the ledger names them, judged twice a second, and left alone where they are bad.

Whoever finds a canary beyond a margin leaves it alone here at once, whether the ledger answers or not, and has the ledger say so as soon as
it does: then all other processes leave it, too. Whoever has seen enough of it within the margins takes the next step. Several processes may
decide at the same moment; by compare-and-swap one of them counts.
"""

import logging
from collections.abc import Callable, Mapping
from threading import Event, RLock, Thread
from time import monotonic
from typing import Any

import psycopg

from pipeline_assets.core.errors import in_words
from pipeline_assets.core.trial_errors import TrialConflict
from pipeline_assets.model_lifecycle.registry import trials
from pipeline_assets.model_lifecycle.registry.ledger import Trial
from pipeline_assets.serving.realtime.service.challenger import Challenger, OnScored
from pipeline_assets.serving.realtime.service.decisions import Left, is_ready, write_return, write_step
from pipeline_assets.serving.realtime.service.evidence import Measure
from pipeline_assets.serving.realtime.service.packages import Loaded, Packages
from pipeline_assets.spec.models import Model

LOG = logging.getLogger(__name__)
JUDGE_SECONDS, RETRY_SECONDS = 0.5, 5.0


class Challengers:
    """What is tried beside the live versions, by model; `running` is replaced as a whole at each change."""

    def __init__(self, packages: Packages, on_change: Callable[[], None], on_scored: OnScored = lambda *_: None) -> None:
        self.running: Mapping[str, Challenger] = {}
        self.problems: Mapping[str, str] = {}
        self.left: dict[str, Left] = {}
        self._packages, self._on_change, self._on_scored = packages, on_change, on_scored
        self._failed: dict[str, tuple[Trial, float]] = {}
        self._ready: dict[str, Challenger] = {}
        self._unwritten: str | None = None
        self._wait_until, self._stopped, self._lock = 0.0, Event(), RLock()

    def start(self) -> None:
        """Judges in a thread until `stop`."""
        Thread(target=self._judge_on, name="challengers", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread after its turn, and those of the versions."""
        self._stopped.set()
        for one in self.running.values():
            one.close()

    def beside(self, champion: Loaded) -> Challenger | None:
        """The canary beside this live version; None where there is none."""
        one = self.running.get(champion.model.name)
        return one if one is not None and one.trial.role == "canary" and one.trial.champion == champion.version else None

    def loaded(self, model: str, version: int) -> Loaded | None:
        """A version that is tried, as it is loaded already."""
        one = self.running.get(model)
        return one.loaded if one is not None and one.loaded.version == version else None

    def take(self, model: Model, trial: Trial | None) -> None:
        """Has a version tried as the ledger says; what cannot be loaded is refused with an alarm and tried again later."""
        now, left = self.running.get(model.name), self.left.get(model.name)
        if trial is None:
            self.left.pop(model.name, None)
            self._solved(model.name)
            self._run(model.name, None)
        elif left is not None and left.began == trial.began:
            self._run(model.name, None)
        elif (now is None or now.trial != trial) and not self._waits(model.name, trial):
            try:
                self._begin(model, trial)
            except Exception as error:  # noqa: BLE001 - whatever a foreign package does, the live version serves on alone
                self._refuse(model, trial, in_words(error))

    def judge(self) -> None:
        """Leaves canaries alone that are beyond a margin, and notes which are ready for their next step."""
        for name, one in self.running.items():
            if one.trial.role != "canary":
                continue
            measures = one.evidence.measures(one.loaded.model.canary)
            beyond = [measure for measure in measures if measure.is_beyond]
            if beyond:
                self._leave(name, one, beyond, measures)
            elif is_ready(one, measures):
                self._ready[name] = one

    def write(self, connection: "psycopg.Connection", wanted: Mapping[str, Trial]) -> None:
        """Has the ledger say what was decided here; wanted: what it says now. What cannot be written is tried again in some seconds."""
        if monotonic() < self._wait_until:
            return
        try:
            for name, left in tuple(self.left.items()):
                if name in wanted and wanted[name].began == left.began:
                    write_return(connection, wanted[name], left)
            while self._ready:
                _, one = self._ready.popitem()
                write_step(connection, one)
        except TrialConflict as error:
            LOG.info("another process, or a person, was faster: %s", error)
        except psycopg.Error as error:
            self._wait_until = monotonic() + RETRY_SECONDS
            if str(error) != self._unwritten:
                LOG.error("ALARM what was decided on versions that are tried cannot be written into the ledger: %s", error)  # noqa: TRY400
            self._unwritten = str(error)
        else:
            self._unwritten = None

    def problem(self, model: str) -> str | None:
        """Why nothing is tried here although the ledger says so; None where there is no such thing."""
        left = self.left.get(model)
        return self.problems.get(model) if left is None else f"a canary was left alone. {left.reason}"

    def described(self, model: str) -> dict[str, Any] | None:
        """What is tried of a model in this process, and what was seen of it; None where nothing is."""
        one = self.running.get(model)
        if one is None:
            return None if self.problem(model) is None else {"problem": self.problem(model)}
        measures = one.evidence.measures(one.loaded.model.canary)
        return {
            "version": one.trial.version,
            "role": one.trial.role,
            "share": one.trial.share,
            "answers": one.evidence.answers,
            "measures": [measure.to_json() for measure in measures],
            "last_error": one.evidence.last_error,
        }

    def in_words(self, model: str) -> str | None:
        """What is tried of a model, in a few words."""
        one = self.running.get(model)
        return None if one is None else trials.in_words(one.trial)

    def _begin(self, model: Model, trial: Trial) -> None:
        loaded = self.loaded(model.name, trial.version) or self._packages.load(model, trial.version, trial.contract_sha256)
        if loaded is None:
            self._refuse(model, trial, "it has no package yet")
            return
        self._solved(model.name)
        self._run(model.name, Challenger(loaded, trial, self._on_scored))
        LOG.info("model %s: %s", model.name, trials.in_words(trial))

    def _judge_on(self) -> None:
        while not self._stopped.wait(JUDGE_SECONDS):
            try:
                self.judge()
            except Exception:
                # Nothing may end the thread: a bad canary would go on.
                LOG.exception("judging versions that are tried failed, and goes on")

    def _leave(self, name: str, one: Challenger, beyond: list[Measure], measures: tuple[Measure, ...]) -> None:
        why = "" if one.evidence.last_error is None else f"; last error: {one.evidence.last_error}"
        reason = f"Beyond its margin: {'; '.join(map(str, beyond))}{why}"
        with self._lock:
            if self.running.get(name) is not one:
                return
            self.left[name] = Left(model=one.loaded.model, began=one.trial.began, reason=reason, measures=measures)
            self._run(name, None)
        LOG.error("ALARM model %s: version %d is left alone, the live version answers: %s", name, one.trial.version, reason)

    def _run(self, name: str, one: Challenger | None) -> None:
        with self._lock:
            before = self.running.get(name)
            others = {other: running for other, running in self.running.items() if other != name}
            self.running = others if one is None else {**others, name: one}
            self._ready.pop(name, None)
        if before is not one:
            if before is not None:
                before.close()
            self._on_change()

    def _waits(self, name: str, trial: Trial) -> bool:
        failed = self._failed.get(name)
        return failed is not None and failed[0] == trial and monotonic() - failed[1] < RETRY_SECONDS

    def _refuse(self, model: Model, trial: Trial, problem: str) -> None:
        words = f"version {trial.version} cannot be tried: {problem}"
        if self.problems.get(model.name) != words:
            LOG.error("ALARM model %s: %s. The live version answers alone.", model.name, words)
        self.problems = {**self.problems, model.name: words}
        self._failed[model.name] = trial, monotonic()
        self._run(model.name, None)

    def _solved(self, name: str) -> None:
        self.problems = {model: problem for model, problem in self.problems.items() if model != name}
        self._failed.pop(name, None)
