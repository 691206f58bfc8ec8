"""How long a run takes to end once it is cancelled, at twenty random moments of the whole graph.

    python -m benchmarks.cancel [RUNS]

On a stack of its own, runs over some days of the flights, from the sources to the vectors, are started one after the other; each is
cancelled as in the web pages after a random while. Counted are the seconds until the run is CANCELED, until it holds no place in a pool,
and until none of its processes is there. In the end a run over the same days has to succeed, and every object of the lake to be what was
written. Exit code 1 where a cancelled run ends late, or something is damaged.
"""

import random
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from pipeline_assets.core import names
from pipeline_assets.core.settings import Settings, StackSettings
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.demo_command import LOCATION
from pipeline_assets.local_stack.http import ask_graphql
from pipeline_assets.local_stack.runs import Dagster
from pipeline_assets.processing.lake.audit import audit_lake

# How long a run takes at most is learned from those that were over before they were cancelled.
RUNS, LONGEST_SECONDS, WANTED_SECONDS, PATIENCE_SECONDS = 20, 36.0, 10.0, 180.0
USE_CASE, DAYS = "nyc_flights", (date(2013, 1, 1), date(2013, 1, 7))
TERMINATE = "mutation Terminate($run: String!) { terminateRun(runId: $run) { __typename } }"
STATE = """
query State($run: ID!) {
  runOrError(runId: $run) { ... on Run { status } }
  instance { concurrencyLimits { claimedSlots { runId } } }
}
"""
ENDED = ("CANCELED", "FAILURE", "SUCCESS")


class Cancelled:
    """A run that was cancelled: how long it took to end, by what of it."""

    def __init__(self, settings: Settings, dagster: Dagster, after: float) -> None:
        self._url, key = f"{settings.dagster_url}/graphql", settings.dagster_key
        self._key = None if key is None else key.get_secret_value()
        self.run = dagster.launch(names.build_features(USE_CASE), DAYS, {})
        until(lambda: self._state()[0] == "STARTED")
        time.sleep(after)
        self.what, own = ", ".join(sorted({_what(one) for one in processes_of(self.run)})), processes_of(self.run)
        self.was_over, began = self._state()[0] in ENDED, time.monotonic()
        ask_graphql(self._url, TERMINATE, {"run": self.run}, key=self._key)
        until(lambda: self._state()[0] in ENDED)
        self.ended = time.monotonic() - began
        until(lambda: self.run not in self._state()[1])
        self.is_free = time.monotonic() - began
        until(lambda: not any(_is_there(one) for one in own))
        self.is_gone, self.status = time.monotonic() - began, self._state()[0]

    def _state(self) -> tuple[str, list[str]]:
        found: dict[str, Any] = ask_graphql(self._url, STATE, {"run": self.run}, key=self._key) or {}
        claimed = [slot["runId"] for limit in found["instance"]["concurrencyLimits"] for slot in limit["claimedSlots"]]
        return str(found["runOrError"]["status"]), claimed


def until(is_so: Callable[[], bool]) -> None:
    """Returns once something is so; ends the bench if that takes minutes."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > ends:
            raise SystemExit("A run did not begin or end.")
        time.sleep(0.05)


def processes_of(run: str) -> list[psutil.Process]:
    """The process of a run, a child of the code server, and all below it; it is found by those that follow its logs, which name the run."""
    named = [one for one in psutil.process_iter(["cmdline"]) if run in " ".join(one.info["cmdline"] or ())]
    spawned = [parent for one in named for parent in one.parents() if "spawn_main" in " ".join(parent.cmdline())]
    return list(dict.fromkeys([*named, *spawned, *(child for one in spawned for child in one.children(recursive=True))]))


def _what(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return "gone"


def _is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def measure(settings: Settings, runs: int) -> list[Cancelled]:
    """Cancels so many runs under way, and prints how long each took to end."""
    dagster = Dagster(settings.dagster_url, LOCATION, settings.dagster_key.get_secret_value() if settings.dagster_key else None)
    chance, longest, found = random.Random(4711), LONGEST_SECONDS, list[Cancelled]()  # noqa: S311 - chance, no secret
    while len(found) < runs:
        after = chance.uniform(0, longest)
        one = Cancelled(settings, dagster, after)
        if one.was_over:
            longest = after
            continue
        found.append(one)
        print(
            f"  {len(found)}: after {after:.0f} s ({one.what}): {one.status} in {one.ended:.1f} s, pool free in {one.is_free:.1f} s,",
            end=" ",
        )
        print(f"processes gone in {one.is_gone:.1f} s", flush=True)
    last = dagster.launch(names.build_features(USE_CASE), DAYS, {})
    for _ in dagster.follow(names.build_features(USE_CASE), last):
        pass
    return found


def main() -> None:
    """Starts a stack, measures, and looks at what is left."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with TemporaryDirectory() as name:
        home = Path(name) / "stack"
        try:
            settings = stack.up(home, stack=StackSettings(ports=stack.free_ports(), given={}))
            found = measure(settings, runs)
            damaged = [verdict.table for verdict in audit_lake(settings) if verdict.problems]
        finally:
            stack.down(home, purge=True)
    slowest = max(max(one.is_free, one.is_gone) for one in found)
    print(f"  {len(found)} runs cancelled under way, the slowest free and gone in {slowest:.1f} s ({WANTED_SECONDS:.0f} wanted)")
    print(f"  damaged tables: {damaged}")
    if slowest > WANTED_SECONDS or damaged:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
