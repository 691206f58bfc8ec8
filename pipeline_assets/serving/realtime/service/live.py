"""Which version of each model serves: follows the ledger, loads what goes live, and swaps it in whole.

A version that cannot serve is refused with an alarm in the log, and the one before serves on. While the ledger does not answer nothing
changes; a process that starts then serves what was live here last. What is tried beside the live version is followed by the same looks.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any
from uuid import uuid4

import psycopg

from pipeline_assets.core.dsn import limited, with_time_zone
from pipeline_assets.core.errors import in_words
from pipeline_assets.core.settings import WAREHOUSE_DSN, PredictionSettings
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.serving.realtime.service.challenger import OnScored
from pipeline_assets.serving.realtime.service.challengers import Challengers
from pipeline_assets.serving.realtime.service.packages import Loaded, Packages
from pipeline_assets.spec.models import Model

LOG = logging.getLogger(__name__)
LOOK_SECONDS, RETRY_SECONDS, PATIENCE_SECONDS = 0.5, 5.0, 5
LAST = "live.json"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A version that serves, which entry of the ledger made it live, and since when it does (wall clock)."""

    loaded: Loaded
    sequence: int
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the ledger says of a model, as it is kept on this machine."""

    version: int
    sequence: int
    trial: ledger.Trial | None = None
    contract_sha256: str | None = None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Wanted":
        """What `dataclasses.asdict` and JSON made of it."""
        trial = stored.get("trial")
        if trial is not None:
            trial = ledger.Trial(**{**trial, "live_from": datetime.fromisoformat(trial["live_from"])})
        return cls(version=stored["version"], sequence=stored["sequence"], trial=trial, contract_sha256=stored.get("contract_sha256"))


@dataclass
class LiveVersions:
    """The versions that serve, by model, followed in a thread of its own.

    serving: replaced as a whole at each change, so that whoever took one goes on with it. problems: by model why the version that is
    live does not serve here. has_looked: once what is live has been looked for, there or on this machine.
    """

    settings: PredictionSettings
    models: Sequence[Model]
    folder: Path
    on_change: Callable[[Serving], None] = lambda _: None
    on_scored: OnScored = lambda *_: None
    serving: Mapping[str, Serving] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    ledger_answers: bool = False
    has_looked: bool = False
    _stopped: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self._packages = Packages(self.settings, self.folder)
        self.challengers = Challengers(self._packages, self._keep_last, self.on_scored)
        self._connection: psycopg.Connection | None = None
        self._failed: dict[str, tuple[Wanted, float]] = {}

    def start(self) -> Thread:
        """Looks once, as far as that can be done now, then goes on in a thread until `stop`."""
        wanted = self._look()
        self._take(self._last() if wanted is None else wanted)
        self.has_looked = True
        self.challengers.start()
        thread = Thread(target=self._follow, name="live-versions", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Ends the threads after their turn."""
        self._stopped.set()
        self.challengers.stop()

    def _follow(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            try:
                wanted = self._look()
                if wanted is not None and self._connection is not None:
                    self._take(wanted)
                    self.challengers.write(self._connection, {name: one.trial for name, one in wanted.items() if one.trial is not None})
            except Exception:
                # Nothing may end the thread: what goes live after that would never serve.
                LOG.exception("following the ledger failed, and goes on")
        if self._connection is not None:
            self._connection.close()

    def _look(self) -> dict[str, Wanted] | None:
        """What the ledger says; None where it does not answer."""
        try:
            if self._connection is None or self._connection.closed:
                dsn = limited(with_time_zone(WAREHOUSE_DSN, self.settings.warehouse_dsn), PATIENCE_SECONDS)
                self._connection = psycopg.connect(dsn, autocommit=True)
            found = ledger.live_versions(self._connection)
        except psycopg.Error as error:
            if self.ledger_answers:
                LOG.warning("the ledger of promotions does not answer: %s", error)
            self.ledger_answers, self._connection = False, None
            return None
        self.ledger_answers = True
        return {
            model: Wanted(version=one.version, sequence=one.sequence, trial=one.trial, contract_sha256=one.contract_sha256)
            for model, one in found.items()
        }

    def _take(self, wanted: Mapping[str, Wanted]) -> None:
        """Has the versions serve that are live; what cannot be loaded is tried again later."""
        for model in self.models:
            one, now = wanted.get(model.name), self.serving.get(model.name)
            if one is None:
                continue
            is_new = now is None or (now.loaded.version, now.sequence) != (one.version, one.sequence)
            if is_new and not self._waits(model.name, one):
                try:
                    self._swap(model, one)
                except Exception as error:  # noqa: BLE001 - whatever a foreign package does, the version before serves on
                    self._refuse(model, one, in_words(error))
            # After the live version, which may have been tried until now.
            self.challengers.take(model, one.trial)

    def _swap(self, model: Model, one: Wanted) -> None:
        now = self.serving.get(model.name)
        known = now.loaded if now is not None and now.loaded.version == one.version else self.challengers.loaded(model.name, one.version)
        loaded = known or self._packages.load(model, one.version, one.contract_sha256)
        if loaded is None:
            self.problems = {**self.problems, model.name: f"version {one.version} is live and has no package yet"}
            return
        serving = Serving(loaded=loaded, sequence=one.sequence, since=datetime.now(UTC))
        self.on_change(serving)
        self.serving = {**self.serving, model.name: serving}
        self.problems = {name: problem for name, problem in self.problems.items() if name != model.name}
        self._failed.pop(model.name, None)
        self._keep_last()
        LOG.info("model %s: version %d serves", model.name, loaded.version)

    def _waits(self, model: str, one: Wanted) -> bool:
        """Whether this version has failed a moment ago."""
        failed = self._failed.get(model)
        return failed is not None and failed[0] == one and monotonic() - failed[1] < RETRY_SECONDS

    def _refuse(self, model: Model, one: Wanted, problem: str) -> None:
        if self.problems.get(model.name) != problem:
            before = self.serving.get(model.name)
            on = "none serves" if before is None else f"version {before.loaded.version} serves on"
            LOG.error("ALARM model %s: version %d is live and cannot serve, %s: %s", model.name, one.version, on, problem)
        self.problems = {**self.problems, model.name: problem}
        self._failed[model.name] = one, monotonic()

    def _last(self) -> dict[str, Wanted]:
        """What was live here last."""
        try:
            stored = json.loads((self.folder / LAST).read_text(encoding="utf-8"))
            return {model: Wanted.from_json(one) for model, one in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return {}

    def _keep_last(self) -> None:
        tried = {name: one.trial for name, one in self.challengers.running.items()}
        last = {
            name: asdict(
                Wanted(
                    version=one.loaded.version,
                    sequence=one.sequence,
                    trial=tried.get(name),
                    contract_sha256=one.loaded.contract_sha256,
                )
            )
            for name, one in self.serving.items()
        }
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self.folder / f".{LAST}.{uuid4().hex}"
            draft.write_text(json.dumps(last, default=datetime.isoformat), encoding="utf-8")
            draft.replace(self.folder / LAST)
        except OSError as error:
            LOG.warning("what is live could not be kept in %s: %s", self.folder, error)
