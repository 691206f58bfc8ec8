"""What one new day costs, from the sources to the vectors: processor time by step, beside dbt alone on the models of that day.

    python -m benchmarks.one_day [--days N]

On a stack of its own some weeks of flights are loaded, with airlines, airports and planes followed from their database. Then one more day
is made by the run that the sensor asks for, in a process as Dagster starts it. Every tenth of a second it is noted how much processor time
the run itself, dbt below it, Postgres with all its backends, and the object store have used; steps begin and end by the run's event log.
Then dbt alone builds the models of the same day once more, started by hand with its project parsed. Exit code 1 where vectors are missing.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time

import dagster as dg
import psutil

from pipeline_assets.core import names
from pipeline_assets.core.due import Requested
from pipeline_assets.core.settings import StackSettings
from pipeline_assets.ingestion.batch.due import asked_range
from pipeline_assets.local_stack import processes, stack
from pipeline_assets.local_stack.plan import CONNECT, KAFKA, POSTGRES, S3
from pipeline_assets.processing.cleaning.assets import BUILT
from pipeline_assets.processing.cleaning.dbt import PROGRAM, between, project_folder, variables
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets_tests.graph_runs import PROJECT, Graph, vectors_between
from pipeline_assets_tests.stack_services import WEATHER

FLIGHTS = PROJECT.use_case("nyc_flights")
JOB = names.build_features(FLIGHTS.name)
FIRST, DAYS, DAY = date(2013, 1, 1), 21, timedelta(days=1)
EVERY_SECONDS = 0.1
# What a new day may cost: so many times what dbt alone takes for its models, and so many seconds.
TIMES, SECONDS = 1.5, 8.0
PARTS = ("run", "dbt", "postgres", "store")
# Step names begin with the first level of the asset's key.
KINDS = {
    "staged": "staged", "typed": "typed", "lake": "lake", "raw": "raw", "features": "features", "feature_store": "vectors",
    names.registers(FLIGHTS.name): "registers (dbt, lake)", names.cleaned_by_day(FLIGHTS.name): "by day (dbt, lake)",
}  # fmt: skip
OUTSIDE = "start, planning, end"


@dataclass(kw_only=True)
class Meter:
    """Processor seconds since the start of the parts, each a few processes, at times of the clock."""

    home: Path
    process: "subprocess.Popen[bytes]"
    seen: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def look(self) -> None:
        """Notes what was used by now."""
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(self.process.pid).cpu_times()
            tree = used(self.process.pid)
            own = times.user + times.system
            now = {"run": own, "dbt": tree - own, "postgres": used(self.pid(POSTGRES)), "store": used(self.pid(S3))}
            self.seen.append((time(), now))

    def pid(self, service: str) -> int:
        """The process of a service of the stack."""
        known = processes.running(self.home, service)
        if known is None:
            raise SystemExit(f"{service} has ended.")
        return known.pid

    def at(self, moment: float) -> dict[str, float]:
        """What was used by a moment; between two looks as if evenly."""
        before, after = self.seen[0], self.seen[-1]
        for one in self.seen:
            before = one if one[0] <= moment else before
            if one[0] >= moment:
                after = one
                break
        share = 0.0 if after[0] <= before[0] else min(1.0, max(0.0, (moment - before[0]) / (after[0] - before[0])))
        return {part: before[1][part] + share * (after[1][part] - before[1][part]) for part in PARTS}

    def between(self, begun: float, ended: float) -> Counter[str]:
        """What the parts used between two moments."""
        first, last = self.at(begun), self.at(ended)
        return Counter({part: last[part] - first[part] for part in PARTS})


def used(pid: int) -> float:
    """Processor seconds of a process, of those below it, and of those that it has waited for."""
    total = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


@contextmanager
def metered(home: Path, command: Sequence[str | Path], environment: dict[str, str], folder: Path) -> Iterator[Meter]:
    """Runs a command to its end while its processor time is noted; ends the bench where it fails."""
    log = folder / "bench.log"
    with log.open("wb") as output, subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as process:
        meter, ended = Meter(home=home, process=process), threading.Event()

        def watch() -> None:
            while not ended.wait(EVERY_SECONDS):
                meter.look()

        meter.look()
        watching = threading.Thread(target=watch)
        watching.start()
        # Looked at once more when it has ended and before it is waited for, as nothing is known of it afterwards.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        ended.set()
        watching.join()
        meter.look()
    if process.returncode:
        raise SystemExit(log.read_text(errors="replace")[-6000:])
    yield meter


def run_days(graph: Graph, days: tuple[date, date]) -> dict[str, Counter[str]]:
    """Makes days by the job that sensors ask for; what each kind of step used, by the parts."""
    tags = json.dumps(names.range_tags(*days))
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "pipeline_assets.definitions", "-j", JOB, "--tags", tags]
    with metered(graph.settings.home, command, graph.environment(), graph.folder) as meter:
        spans = steps_of_newest_run(graph.folder)
    used_by = dict[str, Counter[str]]()
    for step, (begun, ended) in spans.items():
        kind = KINDS.get(step) or KINDS[step.partition("__")[0]]
        used_by[kind] = used_by.get(kind, Counter()) + meter.between(begun, ended)
    whole = meter.between(meter.seen[0][0], meter.seen[-1][0])
    used_by[OUTSIDE] = whole - sum(used_by.values(), Counter())
    return used_by


def steps_of_newest_run(folder: Path) -> dict[str, tuple[float, float]]:
    """When each step of the newest run of an instance began and ended."""
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        (run,) = instance.get_runs(limit=1)
        logs = instance.all_logs(run.run_id, {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS})
    begun = {event.step_key: event.timestamp for event in logs if event.dagster_event_type == dg.DagsterEventType.STEP_START}
    ended = {event.step_key: event.timestamp for event in logs if event.dagster_event_type == dg.DagsterEventType.STEP_SUCCESS}
    return {step: (begun[step], at) for step, at in ended.items() if step is not None}


def dbt_alone(graph: Graph, days: tuple[date, date]) -> Counter[str]:
    """What dbt uses that is started by hand for the models of the days; its project was parsed before."""
    by_day, _ = read_models(PROJECT).selections(FLIGHTS)
    environment, target = os.environ | variables(graph.settings), graph.folder / "target"
    places = ["--target-path", str(target), "--log-path", str(target), "--project-dir", str(project_folder())]
    places += ["--profiles-dir", str(project_folder()), "--quiet"]
    subprocess.run([PROGRAM, "parse", *places], env=environment, check=True, cwd=graph.folder)
    command: list[str | Path] = [PROGRAM, "build", *places, "--select", *by_day.select.split(), *between(*days), *BUILT]
    with metered(graph.settings.home, command, environment, graph.folder) as meter:
        return meter.between(meter.seen[0][0], meter.seen[-1][0])


def report(used_by: dict[str, Counter[str]], alone: Counter[str]) -> None:
    """Prints processor seconds of the run by step and part, and what dbt alone took."""
    print(f"  {'':24}" + "".join(f"{part:>10}" for part in (*PARTS, "all")))
    whole = sum(used_by.values(), Counter())
    for kind, found in (*used_by.items(), ("all", whole), ("dbt alone", alone)):
        print(f"  {kind:24}" + "".join(f"{found[part]:10.1f}" for part in PARTS) + f"{asked_of(found):10.1f}")
    most = TIMES * asked_of(alone) + SECONDS
    print(f"processor time of run, dbt and Postgres: {asked_of(whole):.1f} s, dbt alone {asked_of(alone):.1f} s", end="; ")
    print(f"at most {TIMES:g} x and {SECONDS:g} s wanted: {most:.1f} s")


def asked_of(found: Counter[str]) -> float:
    """What is asked for: all but the object store, which another machine has."""
    return found["run"] + found["dbt"] + found["postgres"]


def load_history(graph: Graph, last: date, new: date) -> None:
    """Fills the databases up to the new day, follows their tables, and makes all days before it."""
    graph.load_world(FIRST, new)
    graph.connect()
    graph.settle()
    run_days(graph, (FIRST, last))


def measure(graph: Graph, new: date) -> bool:
    """Makes one more day, and prints; whether its vectors are there."""
    requested = Requested(what="days", first=new, last=new, mark=0, asked_on=datetime.now(UTC).date())
    asked = asked_range(requested, FLIGHTS, PROJECT.span_of(FLIGHTS))
    print(f"The day after {(new - FIRST).days} days: a run over {asked[0]} to {asked[1]}; processor seconds", flush=True)
    found = run_days(graph, asked)
    report(found, dbt_alone(graph, asked))
    vectors = vectors_between(graph.settings, new, new)
    print(f"{vectors} vectors of the new day")
    return vectors > 0


def main() -> None:
    """Starts a stack, measures, and stops it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=int, default=DAYS)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        home, folder = Path(name) / "stack", Path(name) / "dagster"
        folder.mkdir()
        services = (POSTGRES, S3, WEATHER, KAFKA, CONNECT)
        try:
            settings = stack.up(home, only=services, with_history=False, stack=StackSettings(ports=stack.free_ports(), given={}))
            graph, new = Graph(settings=settings, folder=folder), FIRST + asked.days * DAY
            load_history(graph, new - DAY, new)
            is_there = measure(graph, new)
        finally:
            stack.down(home, purge=True)
    raise SystemExit(0 if is_there else 1)


if __name__ == "__main__":
    main()
