"""Whether a million vectors that were served online, in the course of three months, are those of the lake, bit for bit.

    python -m benchmarks.replay [--stops N]

On a stack of its own three months of an airport are replayed: departures and arrivals come as records of streams, as they became known, in
batches, some of them late, sent twice, corrected or moved to another time, airport or aircraft; weather and the register of aircraft come
by the commits of their tables in the lake, with corrections and deletions. At each stop the store is asked about random entities at times
of the last ten minutes. At the end dbt builds the cleaned tables of all rows in the warehouse, and the lake is asked the same questions.
Prints how many values differ, by feature; exit code 1 where one does.
"""

import argparse
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.connections import online
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.instants import microseconds_at
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings, StackSettings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.streaming.staged.state import stage_state
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.plan import POSTGRES, S3
from pipeline_assets.model_lifecycle.feature_store import offline
from pipeline_assets.model_lifecycle.feature_store.offline import silent
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.build import build, follow
from pipeline_assets.model_lifecycle.feature_store.online.copies import open_source
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of, feeds_of_model
from pipeline_assets.model_lifecycle.feature_store.online.keep import KEPT_APART, keep_records
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader
from pipeline_assets.model_lifecycle.feature_store.online.session import Session, open_session
from pipeline_assets.model_lifecycle.feature_store.parity import differs
from pipeline_assets.processing.cleaning.dbt import PROGRAM, between, project_folder, variables
from pipeline_assets.processing.cleaning.manifest import ensure_manifest, read_manifest
from pipeline_assets.processing.cleaning.models import ProjectModels
from pipeline_assets.processing.cleaning.publish import publish
from pipeline_assets.processing.cleaning.raw_tables import load_raw_days, load_raw_snapshot
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.models import Model
from pipeline_assets.use_cases.nyc_flights.sources import flight_arrivals, planes
from pipeline_assets_tests.airport_course import (
    DAYS,
    DEPARTURES,
    END,
    ORIGINS,
    START,
    WEATHER,
    Airport,
    Course,
    course,
    log_between,
    stage_known,
)
from pipeline_assets_tests.change_logs import put_log

MODEL, STOPS, VECTORS, MOMENTS = "flight_delay", 90, 1_000_000, 12
ARRIVALS = versioned(flight_arrivals.contract)
STREAMS = {"departures_history": DEPARTURES, "arrivals_history": ARRIVALS}
CLEANED = (*STREAMS, "weather_observations_history", "aircraft_history")
MODELS = (*(names.stg(table) for table in ("flight_departures", "flight_arrivals", "weather", "planes")), *CLEANED)
RECORDS_AT_ONCE, SENT_TWICE = 2_000, 0.1
AIRPORT = Airport(
    flights_a_day=60,
    destinations=tuple(f"D{number}" for number in range(20)),
    carriers=("9E", "AA", "B6", "DL", "EV", "MQ", "UA", "US"),
    aircraft=tuple(f"N{number}" for number in range(1, 61)),
)
HAPPENED = (
    "late departure", "departure corrected", "corrected back", "departure sent again", "late weather", "weather corrected",
    "weather deleted", "aircraft deleted",
)  # fmt: skip
INSTANT = pa.timestamp("us", tz="UTC")
Row = dict[str, Any]


def with_arrivals(made: Course) -> Course:
    """The course with an arrival for each version of a departure that was not cancelled, two hours later."""
    random, fields = Random(5), [field.name for field in flight_arrivals.contract.fields]  # noqa: S311 - rows, no secrets
    for version in made.versions[DEPARTURES.name]:
        version.deleted_at = None
        row = version.row
        if not row["is_cancelled"]:
            moved = {"event_at": row["event_at"] + timedelta(hours=2), "recorded_at": row["recorded_at"] + timedelta(hours=2)}
            arrival = row | moved | {"delay_minutes": row["delay_minutes"] + random.randrange(-30, 30)}
            made.add(ARRIVALS, [{name: arrival[name] for name in fields}])
    return made


def build_at_the_end(settings: Settings, folder: Path, project: Project, made: Course) -> None:
    """Has dbt build the cleaned tables of all that ever became known, and the lake hold them."""
    spans = []
    for contract in (DEPARTURES, ARRIVALS, WEATHER):
        spans.append(stage_known(settings, made, contract, None, END))
        tables.publish_days(settings, contract, *spans[-1])
        load_raw_days(settings, contract, *spans[-1])
    put_log(settings, planes.contract, log_between(made, None, END))
    stage_state(settings, planes, run_id="replay")
    tables.publish_snapshot(settings, versioned(planes.contract))
    load_raw_snapshot(settings, versioned(planes.contract))
    days = between(min(first for first, _ in spans), max(last for _, last in spans))
    command = [str(PROGRAM), "run", "--quiet", "--target-path", str(folder), "--log-path", str(folder), "--select", *MODELS, *days]
    subprocess.run(command, cwd=project_folder(), env=os.environ | variables(settings), check=True)
    models = ProjectModels(project=project, manifest=json.loads(ensure_manifest(project_folder()).read_text(encoding="utf-8")))
    for table in CLEANED:
        built = models.built(f"model.pipeline.{table}")
        if built is None:
            raise SystemExit(f"dbt has no table {table}.")
        publish(settings, built)


class Followed:
    """A cleaned table that reaches the store by its commits: what the lake had of it at each time."""

    def __init__(self, settings: Settings, feed: Feed) -> None:
        self.settings, self.feed, self.name = settings, feed, names.cleaned(feed.table.name)
        self.rows = tables.read_all(settings, self.name).read_all()
        self.is_by_day = bool(tables.days(settings, self.name))

    def commit(self, at: datetime) -> None:
        """Has the lake's table be what was known at a time."""
        now, known, ended = pa.scalar(at, INSTANT), self.feed.table.known_at, str(self.feed.table.superseded_at)
        rows = self.rows.filter(pc.less_equal(self.rows[known], now))
        to_come = pc.greater(rows[ended], now)
        place = rows.column_names.index(ended)
        rows = rows.set_column(place, rows.schema.field(ended), pc.if_else(to_come, pa.scalar(None, INSTANT), rows[ended]))
        if not self.is_by_day:
            tables.replace_all(self.settings, self.name, rows.to_reader())
            return
        bounds = pc.min_max(self.rows[self.feed.table.event_at]).as_py()
        tables.replace_days(self.settings, self.name, rows, self.feed.table.event_at, bounds["min"].date(), bounds["max"].date())

    def begin(self, at: datetime) -> None:
        """Has the store built from the table as it was known at a time."""
        self.commit(at)
        build(self.settings, self.feed, silent)

    def follow(self, at: datetime) -> None:
        """Has the store follow the table up to a time."""
        self.commit(at)
        follow(self.settings, self.feed)


class Streamed:
    """A stream that reaches the store by its records, in the order in which they became known; some come twice."""

    def __init__(self, session: Session, made: Course) -> None:
        contract = STREAMS[session.kept.feed.table.name]
        self.session, self.known_at, self.random = session, contract.known_at, Random(7)  # noqa: S311 - rows, no secrets
        self.schema = arrow_schema(session.kept.feed.contract)
        self.waiting = sorted((version.row for version in made.versions[contract.name]), key=lambda row: str(row[contract.known_at]))
        self.taken: list[Row] = []

    def take(self, until: datetime) -> int:
        """Takes the records that became known up to a time; how many, repeats included."""
        count = next((at for at, row in enumerate(self.waiting) if row[self.known_at] > until), len(self.waiting))
        rows, self.waiting = self.waiting[:count], self.waiting[count:]
        self.taken += rows
        rows = [*rows, *self.random.sample(self.taken, int(len(rows) * SENT_TWICE))]
        self.random.shuffle(rows)
        for first in range(0, max(len(rows), 1), RECORDS_AT_ONCE):
            part = pa.Table.from_pylist(rows[first : first + RECORDS_AT_ONCE], schema=self.schema)
            keep_records(self.session, part, {0: len(self.taken)}, until=microseconds_at(until))
        return len(rows)


def asked_at(stop: datetime, count: int) -> Iterator[pa.Table]:
    """Random entities, some of them unknown, at some times of the last ten minutes before a stop."""
    random = np.random.default_rng(microseconds_at(stop) % 2**32)
    entities: Mapping[str, Sequence[str | None]] = {
        "origin": (*ORIGINS, "XXX"),
        "carrier": (*AIRPORT.carriers, "??"),
        "tailnum": (*AIRPORT.aircraft, None),
        "dest": AIRPORT.destinations,
    }
    for part in np.array_split(np.arange(count), MOMENTS):
        at = stop - timedelta(microseconds=int(random.integers(0, KEPT_APART)))
        columns = {name: pa.array(random.choice(np.array(values, object), len(part)), pa.string()) for name, values in entities.items()}
        yield pa.table({**columns, names.DECISION_AT: pa.array([at] * len(part), INSTANT)})


def stops_of(count: int) -> list[datetime]:
    """As many times over the three months, in order, the last of them at the end; at random times of the day."""
    random, step = Random(3), (END - START) / count  # noqa: S311 - times, no secrets
    return [START + step * (number + 0.5 + random.random() / 2) for number in range(count - 1)] + [END]


def replay(
    settings: Settings, feeds: Sequence[Feed], model: Model, made: Course, stops: Sequence[datetime]
) -> list[tuple[pa.Table, pa.Table]]:
    """What was asked at each stop, and what was served."""
    followed = [Followed(settings, feed) for feed in feeds if feed.stream is None]
    answers, records, begun = list[tuple[pa.Table, pa.Table]](), 0, time.perf_counter()
    with ExitStack() as opened:
        streams = []
        for feed in (feed for feed in feeds if feed.stream is not None):
            with online(settings) as connection:
                kept = store.begin(connection, feed)
                store.go_live(connection, kept)
            streams.append(Streamed(opened.enter_context(open_session(settings, kept)), made))
        for table in followed:
            table.begin(stops[0])
        reader = Reader(opened.enter_context(open_source(settings, feeds)), model.views)
        for number, stop in enumerate(stops, start=1):
            records += sum(stream.take(stop) for stream in streams)
            for table in followed:
                table.follow(stop)
            for asked in asked_at(stop, -(-VECTORS // len(stops))):
                answers.append((asked, reader.read(asked).features))
            if number % 10 == 0:
                print(f"  stop {number} of {len(stops)}: {records:,} records, {time.perf_counter() - begun:.0f} s", flush=True)
    return answers


def differing(settings: Settings, project: Project, answers: Sequence[tuple[pa.Table, pa.Table]]) -> tuple[Counter[str], int, int]:
    """In how many vectors each feature differs from the lake's; how many values were compared, and how many of them are not null."""
    found, values, known = Counter[str](), 0, 0
    for first in range(0, len(answers), 10 * MOMENTS):
        part = answers[first : first + 10 * MOMENTS]
        asked, served = (pa.concat_tables([one[place] for one in part]) for place in (0, 1))
        past = offline.historical_features(settings, project, MODEL, asked, on_notice=silent)
        for name in served.column_names:
            found[name] += int(differs(served[name], past[name]).sum())
            values, known = values + served.num_rows, known + served.num_rows - served[name].null_count
    return found, values, known


def measure(settings: Settings, folder: Path, stops: int) -> bool:
    """Replays, compares and prints; whether all is equal."""
    project = load_project()
    model, made = project.model(MODEL), with_arrivals(course(airport=AIRPORT))
    feeds = feeds_of_model(feeds_of(project, read_manifest(project_folder())), model)
    build_at_the_end(settings, folder, project, made)
    rows = {name: len(made.versions[name]) for name in (DEPARTURES.name, ARRIVALS.name, WEATHER.name)}
    happened = {what: count for what, count in made.counts.items() if what in HAPPENED}
    print(f"Three months, {DAYS} days: {rows}, {len(made.log)} changes of aircraft; of these {happened}", flush=True)
    answers = replay(settings, feeds, model, made, stops_of(stops))
    found, values, known = differing(settings, project, answers)
    vectors = sum(asked.num_rows for asked, _ in answers)
    print(
        f"{vectors:,} vectors of {len(found)} features at {len(answers):,} times: {values:,} values, {known:,} of them not null;", end=" "
    )
    print(f"{sum(found.values()):,} differ in any bit (0 wanted) {({name: count for name, count in found.items() if count}) or ''}")
    return not sum(found.values())


def main() -> None:
    """Starts Postgres and the object store, measures, and stops them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stops", type=int, default=STOPS)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        home = Path(name) / "stack"
        try:
            settings = stack.up(home, only=(POSTGRES, S3), with_history=False, stack=StackSettings(ports=stack.free_ports(), given={}))
            is_equal = measure(settings, Path(name) / "dbt", asked.stops)
        finally:
            stack.down(home, purge=True)
    raise SystemExit(0 if is_equal else 1)


if __name__ == "__main__":
    main()
