"""How long a changed row of a source takes to the lake on the local stack as it is: daemon, sensors, run queue, code server.

    python benchmarks/changes.py

A stack of its own is started by `pipeline up`, stopped and started again, which is timed. Its sensors then have the connectors run by
themselves. Once the tables are in the lake, single aircraft are updated at random times, whether or not the update before has arrived, and
each update is waited for in the typed table of changes. Measured are the times to the landing table, to the request of
the run that typed it, to that run's start, and from there to the commit. Exit code 1 where an update is missing or duplicated.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psycopg
from pyiceberg.catalog import Catalog

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.iceberg import open_table
from pipeline_assets.core.settings import PREFIX, Settings, read_settings
from pipeline_assets.ingestion.streaming.streams import change_log
from pipeline_assets.ingestion.streaming.typed.table import rows_of
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.settings import port_setting
from pipeline_assets.use_cases.nyc_flights.sources import planes

UPDATES, SHORTEST_PAUSE, LONGEST_PAUSE = 24, 2.0, 12.0
POLL_SECONDS, PATIENCE_SECONDS = 0.2, 240.0
WANTED_SECONDS, WANTED_UP_SECONDS = 20.0, 45.0
LOG = change_log(planes)
UNFINISHED = "select count(*) from runs where status in ('QUEUED', 'NOT_STARTED', 'STARTING', 'STARTED')"
UPDATE = "update planes set seats = %s where tailnum = (select min(tailnum) from planes)"


@dataclass(kw_only=True)
class Trial:
    """An update, and when it was seen: seconds since 1970, and the run that typed it."""

    updated_at: float
    landed_at: float = 0.0
    typed_at: float = 0.0
    run_id: str = ""


def pipeline(home: Path, command: str) -> float:
    """Runs a command of the local stack in a folder, on free ports, and gives its seconds."""
    ports = {port_setting(name): "0" for name in stack.free_ports()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    began = time.monotonic()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("pipeline")), command],
        env={**environment, **ports, f"{PREFIX}HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.monotonic() - began


def rows(lake: Catalog, identifier: names.AssetName) -> int:
    """How many rows a table of the lake has; none where it is not there."""
    table = open_table(lake, identifier)
    return 0 if table is None else rows_of(table)


def captured_at_first(settings: Settings, lake: Catalog) -> int:
    """Waits until the followed tables are in the lake and no run is left, and gives how many changes of aircraft that were."""
    with (
        psycopg.connect(settings.databases["airline_ops"].get_secret_value()) as source,
        psycopg.connect(settings.dagster_dsn.get_secret_value(), autocommit=True) as dagster,
    ):
        (wanted,) = source.execute("select count(*) from planes").fetchone() or (0,)
        deadline = time.monotonic() + PATIENCE_SECONDS
        log, table = names.typed(LOG.contract.name), names.lake(planes.contract.name)
        while rows(lake, log) < wanted or not rows(lake, table) or dagster.execute(UNFINISHED).fetchone() != (0,):
            if time.monotonic() > deadline:
                raise SystemExit(f"The tables were not in the lake after {PATIENCE_SECONDS:.0f} s.")
            time.sleep(POLL_SECONDS)
    return rows(lake, log)


def updated(settings: Settings, lake: Catalog) -> list[Trial]:
    """Updates aircraft at random times, each update a transaction, and gives when each was seen on its way."""
    pause = random.Random(2013)  # noqa: S311 - no secret
    before, trials, due = captured_at_first(settings, lake), list[Trial](), time.time()
    with psycopg.connect(settings.owners["airline_ops"].get_secret_value(), autocommit=True) as source:
        deadline = time.time() + UPDATES * LONGEST_PAUSE + PATIENCE_SECONDS
        while len(trials) < UPDATES or not all(trial.typed_at for trial in trials):
            if len(trials) < UPDATES and time.time() >= due:
                source.execute(UPDATE, [len(trials) + 1])
                trials.append(Trial(updated_at=time.time()))
                due = time.time() + pause.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)
            look(lake, trials, before)
            if time.time() > deadline:
                raise SystemExit(f"{sum(not trial.typed_at for trial in trials)} of {len(trials)} updates have not arrived.")
            time.sleep(POLL_SECONDS)
    refuse_other_rows(lake, before)
    return trials


def look(lake: Catalog, trials: Sequence[Trial], before: int) -> None:
    """Notes which updates have come to the landing table, and which to the typed one; they come in their order."""
    for trial in trials[: rows(lake, names.landed(LOG.topic)) - before]:
        trial.landed_at = trial.landed_at or time.time()
    table = lake.load_table(names.typed(LOG.contract.name))
    snapshot = table.current_snapshot()
    for trial in trials[: rows_of(table) - before]:
        if not trial.typed_at and snapshot is not None and snapshot.summary is not None:
            trial.typed_at, trial.run_id = time.time(), snapshot.summary.additional_properties["pipeline.run-id"]


def refuse_other_rows(lake: Catalog, before: int) -> None:
    """Ends the bench unless each update is there once."""
    found = lake.load_table(names.typed(LOG.contract.name)).scan(selected_fields=("_offset", "_op", "seats")).to_arrow()
    seats = [row["seats"] for row in found.sort_by("_offset").to_pylist() if row["_op"] == "u"]
    if seats != list(range(1, UPDATES + 1)) or found.num_rows != before + UPDATES:
        raise SystemExit(f"The updates 1 to {UPDATES} came as {seats}.")


def ways(settings: Settings, trials: Sequence[Trial]) -> dict[str, list[float]]:
    """The seconds that each part of the way took, by its name; a run that was under way already did not have to be asked for."""
    with psycopg.connect(settings.dagster_dsn.get_secret_value()) as dagster:
        query = "select run_id, extract(epoch from create_timestamp at time zone 'UTC')::float, start_time from runs"
        runs = {run_id: (float(asked), float(started or asked)) for run_id, asked, started in dagster.execute(query).fetchall()}
    return {
        "update to landing table": [one.landed_at - one.updated_at for one in trials],
        "landing table to request of a run": [runs[one.run_id][0] - one.landed_at for one in trials],
        "request to start of the run": [runs[one.run_id][1] - runs[one.run_id][0] for one in trials],
        "start of the run to commit": [one.typed_at - runs[one.run_id][1] for one in trials],
    }


def spread(seconds: Sequence[float]) -> str:
    """Median, 95th percentile (a value that was measured) and maximum."""
    middle, high = np.percentile(seconds, (50, 95), method="inverted_cdf")
    return f"median {middle:.1f} s, p95 {high:.1f} s, most {max(seconds):.1f} s"


def measure(home: Path) -> None:
    """Prints how long the stack takes to start again, and the times of the updates."""
    pipeline(home, "up")
    pipeline(home, "down")
    print(f"`pipeline up` of a stopped stack: {pipeline(home, 'up'):.0f} s; wanted at most {WANTED_UP_SECONDS:.0f} s")
    settings = read_settings(home)
    trials = updated(settings, catalog(settings))
    waited = spread([trial.typed_at - trial.updated_at for trial in trials])
    print(f"From an updated row to the typed table, {UPDATES} times: {waited}; wanted p95 {WANTED_SECONDS:.0f} s")
    for name, seconds in ways(settings, trials).items():
        print(f"  {name}: {spread(seconds)}")


def main() -> None:
    """Starts a stack, measures, and stops it."""
    with TemporaryDirectory() as name:
        home = Path(name) / "stack"
        try:
            measure(home)
        finally:
            stack.down(home, purge=True)


if __name__ == "__main__":
    main()
