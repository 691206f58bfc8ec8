"""The demo of a world: the asset graph of its use case over months of history, on the live stack, with its results in one file.

Two runs make the history: the connectors, which bring the followed tables, and the features of its days. Then the views online are built,
and the world sends events: the stream worker takes them to the online store, while the sensors of the live Dagster have them typed and
taken to the features. Beside them come a model of what was known at a day, the scores and monitors of the days after it, and the audit,
which compares every topic and every followed table with the lake.
Every run replaces what it writes, and events are sent once, so the demo can be run again at any time.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.local_stack.runs import POLL_SECONDS, Checked, Dagster, Materialized, RunEvent, RunFailed, StepEnded
from pipeline_assets.local_stack.worlds import Days, Demo
from pipeline_assets.spec.models import Model

STREAM_SECONDS = 600.0
SUMMARY = "demo.json"
# Of these a run counts the whole table, of others what it made itself.
WHOLE_TABLES = (names.TYPED, names.LAKE, names.CLEANED, names.FEATURES, names.FEATURE_STORE)


def streams_of(demo: Demo) -> tuple[str, ...]:
    """The streams whose events the demo waits for, by the names of their contracts."""
    return tuple(stream.contract.name for stream in load_project().use_case(demo.use_case).streams)


@dataclass(frozen=True, kw_only=True)
class Journey:
    """One run of the demo: a job, its days, and the configuration of its ops."""

    title: str
    job: str
    days: Days | None = None
    ops: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def span(self) -> tuple[date, date] | None:
        """First and last day (inclusive), None for a job without days."""
        return (self.days.first, self.days.last) if self.days is not None else None


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A journey that was started, by the clock of this process."""

    journey: Journey
    run_id: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Journeys:
    """The runs of a demo."""

    connectors: Journey
    history: Journey
    online: tuple[Journey, ...]
    modelling: tuple[Journey, ...]
    scores: tuple[Journey, ...]
    streamed: Journey
    audit: Journey


def journeys_of(demo: Demo) -> Journeys:
    """The runs of a demo, in the order in which they begin."""
    features = names.build_features(demo.use_case)
    return Journeys(
        connectors=Journey(title="connectors of tables and topics", job=names.APPLY_CONNECTORS),
        history=Journey(title=f"features of {_span(demo.history)}", job=features, days=demo.history),
        online=_online(demo),
        modelling=tuple(_training(demo, model) for model in demo.models),
        scores=tuple(
            Journey(title=f"{model}: scores and monitors of {_span(demo.scored)}", job=names.score_and_monitor(model), days=demo.scored)
            for model in demo.models
        ),
        streamed=Journey(title=f"features of {_span(demo.streamed)}, requested by the sensors", job=features, days=demo.streamed),
        audit=Journey(title="audit: nothing lost, nothing counted twice", job=names.AUDIT_SOURCES),
    )


def _online(demo: Demo) -> tuple[Journey, ...]:
    """The build of the views that are kept online; none where no view of the use case is."""
    project = load_project()
    is_there = any(view.online is not None and project.home_of_view(view).name == demo.use_case for view in project.views)
    return (Journey(title="views online, from the lake", job=names.build_online(demo.use_case)),) if is_there else ()


def _training(demo: Demo, model: str) -> Journey:
    ops = {"__".join(names.training_set(model)): {"as_of": f"{demo.as_of}T00:00:00+00:00"}}
    return Journey(title=f"{model}: a version of what was known on {demo.as_of}", job=names.train(model), ops=ops)


def _span(days: Days) -> str:
    return f"{days.first} to {days.last}"


@dataclass(kw_only=True)
class Tally:
    """What the runs reported: newest numbers of assets and the rows of each partition, failed checks, the audit, and how long it took."""

    numbers: dict[str, dict[str, float]] = field(default_factory=dict)
    urls: dict[str, dict[str, str]] = field(default_factory=dict)
    partitions: dict[str, dict[str, float]] = field(default_factory=dict)
    failed_checks: list[Checked] = field(default_factory=list)
    audited: dict[str, dict[str, int | bool]] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, event: RunEvent) -> None:
        """Takes in one event of a run."""
        match event:
            case Materialized():
                self.numbers.setdefault(event.asset, {}).update(event.numbers)
                self.urls.setdefault(event.asset, {}).update(event.urls)
                days = self.partitions.setdefault(event.asset, {})
                days.update({} if event.partition is None else {event.partition: event.numbers.get(names.PARTITION_ROWS, 0)})
            case Checked():
                self.failed_checks += [] if event.passed else [event]
            case StepEnded():
                self.steps[event.step] = round(event.seconds, 2)

    def count_tables(self, dagster: Dagster) -> None:
        """Takes in how many rows whole tables have by now, after runs over other days than those of the demo's own."""
        for asset, numbers in self.numbers.items():
            path = asset.split("/")
            if path[0] in WHOLE_TABLES:
                newest = dagster.newest_metadata(path)
                numbers.update({names.ROW_COUNT: float(newest[names.ROW_COUNT])} if names.ROW_COUNT in newest else {})

    def rows(self, asset: str) -> int | None:
        """Rows of the whole table, or else of the days that were made, each as it was made last; None where it has no rows (a model)."""
        numbers, days = self.numbers[asset], self.partitions[asset]
        rows = numbers.get(names.ROW_COUNT, sum(days.values()) if days else None)
        return None if rows is None else int(rows)

    def number(self, asset: names.AssetName, label: str) -> float:
        """A number of an asset's metadata; KeyError names what is missing."""
        return self.numbers["/".join(asset)][label]


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A demo on a live Dagster; `watch` is called with each event of a run."""

    demo: Demo
    dagster: Dagster
    watch: Callable[[Journey, RunEvent], None]
    tally: Tally = field(default_factory=Tally)

    def run(self, stream: Callable[[], object], *, is_first: bool) -> tuple[Tally, int]:
        """Runs everything; `stream` sends the events. Also returns the number of runs that sensors requested.

        Raises RunFailed for the first run that does not succeed. What is left of a demo that was killed is cancelled first; `is_first`
        until one has succeeded: if the sensors request nothing then, they have requested a run that did not succeed, which is repeated.
        """
        journeys = journeys_of(self.demo)
        for journey in (journeys.connectors, journeys.history, *journeys.online, *journeys.modelling, journeys.audit, *journeys.scores):
            self.dagster.cancel_unfinished(journey.job)
        # Once there, connectors are kept as they are declared by a sensor.
        if not self.dagster.is_built(names.CONNECTORS):
            self._run(journeys.connectors)
        self._run(journeys.history)
        since = time.time()
        begun = self._begin(*journeys.online)
        stream()
        self._follow(begun + self._begin(*journeys.modelling))
        self._run(journeys.audit, *journeys.scores)
        runs = self._follow_sensor(journeys.streamed, since)
        if is_first and not runs:
            self._run(journeys.streamed)
        self.tally.count_tables(self.dagster)
        return self.tally, runs

    def _run(self, *journeys: Journey) -> None:
        """Starts all of the journeys and follows one after the other to its end."""
        self._follow(self._begin(*journeys))

    def _begin(self, *journeys: Journey) -> list[Begun]:
        """Starts all of the journeys."""
        return [Begun(journey=one, run_id=self.dagster.launch(one.job, one.span, one.ops), at=time.monotonic()) for one in journeys]

    def _follow(self, runs: Sequence[Begun]) -> None:
        """Follows one run after the other to its end."""
        for run in runs:
            for event in self.dagster.follow(run.journey.job, run.run_id):
                self.tally.add(event)
                self.watch(run.journey, event)
                if run.journey.job == names.AUDIT_SOURCES and isinstance(event, Checked):
                    self.tally.audited[event.asset] = {**event.numbers, "passed": event.passed}
            self.tally.seconds[run.journey.job] = round(time.monotonic() - run.at, 2)

    def _follow_sensor(self, journey: Journey, since: float) -> int:
        """Follows the runs over days with events that the sensor has requested since a time, until it has no more to request.

        Returns their number. Raises RunFailed for the first that does not succeed, or if the sensor has not come so far in some minutes.
        """
        sensor, done, begun = names.days_changed(self.demo.use_case), list[str](), time.monotonic()
        while not (is_seen := self._has_seen_all()) or self.dagster.requested(sensor, since) != done:
            for run_id in self.dagster.requested(sensor, since)[len(done) :]:
                for event in self.dagster.follow(journey.job, run_id):
                    self.watch(journey, event)
                done.append(run_id)
            if not is_seen and time.monotonic() - begun > STREAM_SECONDS:
                raise RunFailed(journey.job, "(not requested)", self.dagster.url, f"the sensor {sensor} did not see the events")
            time.sleep(POLL_SECONDS)
        self.tally.seconds[sensor] = round(time.monotonic() - begun, 2)
        return len(done)

    def _has_seen_all(self) -> bool:
        """Whether the sensor has looked at the events that were typed last."""
        typed = {name: self.dagster.newest_metadata(names.typed(name)).get("snapshot_id") for name in streams_of(self.demo)}
        seen = json.loads(self.dagster.cursor(names.days_changed(self.demo.use_case)) or "{}").get("snapshots", {})
        return not self.dagster.unfinished(names.TYPE_RECORDS) and {name: str(snapshot) for name, snapshot in seen.items()} == typed


def summary(demo: Demo, tally: Tally) -> dict[str, Any]:
    """What the demo made, in the form of `demo.json`."""
    project = load_project()
    return {
        "seconds": tally.seconds,
        "steps": tally.steps,
        "assets": {
            asset: {"rows": tally.rows(asset), "partitions": len(tally.partitions[asset])}
            for asset in sorted(tally.numbers)
            if not asset.startswith(f"{names.CONNECTORS}/")
        },
        "models": [_model(project.model(name), tally) for name in demo.models],
        "stream": {
            "first_day": str(demo.streamed.first),
            "last_day": str(demo.streamed.last),
            "audited": dict(sorted(tally.audited.items())),
        },
        "pages": {title: url for name in demo.models for title, url in _pages(name, tally).items()},
    }


def _model(model: Model, tally: Tally) -> dict[str, Any]:
    """What became of one model: its version, the figures of its hold-out, its scores, and the drift of the days that were scored."""
    champion, scores, drift = names.champion(model.name), names.predictions(model.name), names.drift(model.name)
    metric, turned_out = model.gate.metric, tally.numbers["/".join(names.performance(model.name))]
    return {
        "name": model.name,
        "version": int(tally.number(champion, "version")),
        "metric": metric,
        "value": tally.number(champion, metric),
        "baseline": tally.number(champion, f"baseline_{metric}"),
        "training_rows": int(tally.number(champion, "training_rows")),
        "scores": {"rows": tally.rows("/".join(scores)), "days": len(tally.partitions["/".join(scores)])},
        "turned_out": {
            "rows": int(turned_out["labels"]),
            "value": turned_out.get(metric),
        },
        "drift": {label: int(tally.number(drift, label)) for label in ("days", "drifted_days", "features", "drifted")},
    }


def _pages(model: str, tally: Tally) -> dict[str, str]:
    return {
        f"{model}: version": tally.urls["/".join(names.champion(model))]["version_page"],
        f"{model}: training": tally.urls["/".join(names.candidate(model))]["mlflow_run"],
        f"{model}: drift report": tally.urls["/".join(names.drift(model))]["report"],
    }


def write_summary(home: Path, made: Mapping[str, Any]) -> Path:
    """Writes `demo.json` in `home`; the file appears whole or not at all."""
    path, draft = home / SUMMARY, home / f"{SUMMARY}.new"
    draft.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return draft.rename(path)
