"""The demo: the asset graph of the reference use case over five months of real flights, on the live stack, with its results in one file.

Two runs make the history: the connectors, which bring the followed tables, and features for January to May. Then June is told as events,
and the sensors of the live Dagster have it typed and taken to the features. Beside them come a model of what was known when May began, the
scores and the watch of May, and the integrity oracle, which holds every topic and every followed table against the lake.
Every run replaces what it writes, and June is told once, so the demo can be run again at any time.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pipeline_assets.core import names
from pipeline_assets.local_stack.runs import POLL_SECONDS, Checked, Dagster, Materialized, RunEvent, RunFailed, StepEnded
from pipeline_assets.local_stack.simulator import STREAM_FROM
from pipeline_assets.use_cases.nyc_flights import use_case

FIRST_DAY, LAST_DAY, TRAINED_UNTIL = date(2013, 1, 1), date(2013, 5, 31), date(2013, 5, 1)
# On the evening of the last day decisions concern flights of June, which come with the stream.
LAST_SCORED = date(2013, 5, 30)
STREAMED = (STREAM_FROM, date(2013, 6, 30))
STREAM_SECONDS = 600.0
SUMMARY = "demo.json"
MODEL = use_case.model.name
# As `dagster.yaml` has it for pools that nobody set.
POOL_LIMIT = 1
# Of these a run counts the whole table, of others what it made itself.
WHOLE_TABLES = (names.TYPED, names.LAKE, names.CLEANED, names.FEATURES, names.FEATURE_STORE)
ROW_COUNT, PARTITION_ROWS = "dagster/row_count", "dagster/partition_row_count"


@dataclass(frozen=True, kw_only=True)
class Journey:
    """One run of the demo: a job, its days (inclusive), and the configuration of its ops."""

    title: str
    job: str
    days: tuple[date, date] | None
    ops: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


CONNECTORS = Journey(title="connectors of tables and topics", job=names.CONNECT_STREAMS, days=None)
HISTORY = Journey(title="features of January to May", job=names.BUILD_FEATURES, days=(FIRST_DAY, LAST_DAY))
MODELLING = Journey(
    title="a model of what was known on 1 May",
    job=names.TRAIN,
    days=None,
    ops={"__".join(names.training_set(MODEL)): {"as_of": f"{TRAINED_UNTIL}T00:00:00+00:00"}},
)
SCORES = Journey(title="scores and watch of May", job=names.SCORE_AND_MONITOR, days=(TRAINED_UNTIL, LAST_SCORED))
SENSORS = Journey(title="features of June, as the sensors ask", job=names.BUILD_FEATURES, days=STREAMED)
ORACLE = Journey(title="nothing lost, nothing doubled", job=names.VERIFY, days=None)


@dataclass(kw_only=True)
class Tally:
    """What the runs told: materializations by asset, failed checks, what the oracle compared, and how long steps and runs took."""

    numbers: dict[str, dict[str, float]] = field(default_factory=dict)
    urls: dict[str, dict[str, str]] = field(default_factory=dict)
    partitions: dict[str, set[str]] = field(default_factory=dict)
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
                self.partitions.setdefault(event.asset, set()).update([event.partition] if event.partition is not None else [])
            case Checked():
                self.failed_checks += [] if event.passed else [event]
            case StepEnded():
                self.steps[event.step] = round(event.seconds, 2)

    def count_tables(self, dagster: Dagster) -> None:
        """Takes in how many rows whole tables have by now, after runs over other days than those of the demo's own."""
        for asset, numbers in self.numbers.items():
            path = asset.split("/")
            if path[0] in WHOLE_TABLES:
                numbers[ROW_COUNT] = float(dagster.told(path).get(ROW_COUNT, 0))

    def number(self, asset: names.AssetName, label: str) -> float:
        """A number of an asset's metadata; KeyError names what is missing."""
        return self.numbers["/".join(asset)][label]


def run(dagster: Dagster, stream: Callable[[], object], watch: Callable[[Journey, RunEvent], None], *, is_first: bool) -> tuple[Tally, int]:
    """Runs everything: `stream` tells the events, `watch` sees each event of a run. Gives the number of runs that sensors asked for, too.

    Raises RunFailed for the first run that does not succeed. What is left of a demo that was killed is cancelled first; `is_first` until
    one has come to its end: if the sensors ask for nothing then, they have asked for a run that did not succeed, which is made up for.
    """
    tally = Tally()
    dagster.ensure_pools(POOL_LIMIT)
    for journey in (CONNECTORS, HISTORY, MODELLING, ORACLE, SCORES):
        dagster.cancel_unfinished(journey.job)
    # Once there, connectors are kept as they are declared by a sensor.
    if not dagster.is_built(names.CONNECTORS):
        _run(dagster, tally, watch, CONNECTORS)
    _run(dagster, tally, watch, HISTORY)
    since = time.time()
    stream()
    _run(dagster, tally, watch, MODELLING)
    _run(dagster, tally, watch, ORACLE, SCORES)
    runs = _follow_sensors(dagster, tally, watch, since)
    if is_first and not runs:
        _run(dagster, tally, watch, SENSORS)
    tally.count_tables(dagster)
    return tally, runs


def _run(dagster: Dagster, tally: Tally, watch: Callable[[Journey, RunEvent], None], *journeys: Journey) -> None:
    """Starts all of the journeys and follows one after the other to its end."""
    begun = time.monotonic()
    runs = [(journey, dagster.launch(journey.job, journey.days, journey.ops)) for journey in journeys]
    for journey, run_id in runs:
        for event in dagster.follow(journey.job, run_id):
            tally.add(event)
            watch(journey, event)
            if journey is ORACLE and isinstance(event, Checked):
                tally.audited[event.asset] = {**event.numbers, "passed": event.passed}
        tally.seconds[journey.job] = round(time.monotonic() - begun, 2)


def _follow_sensors(dagster: Dagster, tally: Tally, watch: Callable[[Journey, RunEvent], None], since: float) -> int:
    """Follows the runs over the days with events that a sensor has asked for since a time, until it has nothing more to ask for.

    Gives their number. Raises RunFailed for the first that does not succeed, or if the sensor has not come so far in some minutes.
    """
    done, begun = list[str](), time.monotonic()
    while not (is_seen := _has_seen_all(dagster)) or dagster.requested(names.EVENTS_TYPED, since) != done:
        for run_id in dagster.requested(names.EVENTS_TYPED, since)[len(done) :]:
            for event in dagster.follow(SENSORS.job, run_id):
                watch(SENSORS, event)
            done.append(run_id)
        if not is_seen and time.monotonic() - begun > STREAM_SECONDS:
            raise RunFailed(SENSORS.job, "(not asked for)", dagster.url, f"the sensor {names.EVENTS_TYPED} did not see the events")
        time.sleep(POLL_SECONDS)
    tally.seconds[names.EVENTS_TYPED] = round(time.monotonic() - begun, 2)
    return len(done)


def _has_seen_all(dagster: Dagster) -> bool:
    """Whether the sensor has looked at the events that were typed last."""
    typed = {stream.contract.name: dagster.told(names.typed(stream.contract.name)).get("snapshot_id") for stream in use_case.streams}
    seen = json.loads(dagster.cursor(names.EVENTS_TYPED) or "{}").get("snapshots", {})
    return not dagster.unfinished(names.TYPE_EVENTS) and {name: str(snapshot) for name, snapshot in seen.items()} == typed


def summary(tally: Tally) -> dict[str, Any]:
    """What the demo made, in the form of `demo.json`."""
    champion, scores, drift = names.champion(MODEL), names.predictions(MODEL), names.drift(MODEL)
    return {
        "seconds": tally.seconds,
        "steps": tally.steps,
        "assets": {
            asset: {"rows": _rows(numbers), "partitions": len(tally.partitions[asset])}
            for asset, numbers in sorted(tally.numbers.items())
            if not asset.startswith(f"{names.CONNECTORS}/")
        },
        "model": {
            "name": MODEL,
            "version": int(tally.number(champion, "version")),
            "roc_auc": tally.number(champion, "roc_auc"),
            "baseline_roc_auc": tally.number(champion, "baseline_roc_auc"),
            "training_rows": int(tally.number(champion, "training_rows")),
        },
        "scores": {"rows": _rows(tally.numbers["/".join(scores)]), "days": len(tally.partitions["/".join(scores)])},
        "stream": {"first_day": str(STREAMED[0]), "last_day": str(STREAMED[1]), "audited": dict(sorted(tally.audited.items()))},
        "drift": {label: int(tally.number(drift, label)) for label in ("days", "features", "drifted")},
        "pages": {
            "model": tally.urls["/".join(champion)]["version_page"],
            "training": tally.urls["/".join(names.candidate(MODEL))]["mlflow_run"],
            "drift report (link for a week)": tally.urls["/".join(drift)]["report"],
        },
    }


def write_summary(home: Path, told: Mapping[str, Any]) -> Path:
    """Writes `demo.json` in `home`; the file appears whole or not at all."""
    path, draft = home / SUMMARY, home / f"{SUMMARY}.new"
    draft.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return draft.rename(path)


def _rows(numbers: Mapping[str, float]) -> int | None:
    """Rows of an asset as its last run counted them; None where it has no rows (a model, a report)."""
    rows = numbers.get(ROW_COUNT, numbers.get(PARTITION_ROWS))
    return int(rows) if rows is not None else None
