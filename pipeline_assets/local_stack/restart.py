"""Runs that a restart of services concerns: they are left to end, and those that it cuts off free their slots in the pools.

A run is a child of the code server and ends with it. One that is asked to end fails, and is retried as `dagster.yaml` has it. One whose
process was killed would be STARTED forever and hold its slots, as Dagster's launcher does not watch its processes: it is cancelled here.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_assets.core.settings import DagsterKey, read_part
from pipeline_assets.local_stack import processes
from pipeline_assets.local_stack.http import ask_graphql
from pipeline_assets.local_stack.plan import CODE, HOST, WEBSERVER
from pipeline_assets.local_stack.services import Watch

RUNS = "runs"
POLL_SECONDS, ANSWER_SECONDS = 1.0, 30.0
SHOWN, ID_DIGITS = 3, 8
ACTIVE = """
query Active($filter: RunsFilter!) {
  runsOrError(filter: $filter) { ... on Runs { results { runId jobName } } }
}"""
CANCEL = """
mutation Cancel($runs: [String!]!) {
  terminateRuns(runIds: $runs, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { __typename }
}"""
FREE = "mutation Free($run: String!) { freeConcurrencySlots(runId: $run) }"
STATUSES = ("STARTING", "STARTED", "CANCELING")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that has begun and not ended."""

    run_id: str
    job: str

    def __str__(self) -> str:
        return f"{self.job} ({self.run_id[:ID_DIGITS]})"


def let_end(home: Path, seconds: float, watch: Watch) -> list[Run]:
    """Wait until the runs that the code server has begun have ended, `seconds` at most; returns those that have not.

    `watch` is called with the runs that are waited for. Returns at once where there is no code server, or no web server to ask.
    """
    code, deadline = processes.running(home, CODE), time.monotonic() + seconds
    reported: list[Run] = []
    while code is not None and (runs := _active(home, {code.port})):
        left = deadline - time.monotonic()
        if left <= 0:
            watch(RUNS, f"still running after {seconds:.0f} s: {_listed(runs)}")
            return runs
        if runs != reported:
            watch(RUNS, f"waiting {left:.0f} s at most for {_listed(runs)}")
            reported = runs
        time.sleep(min(POLL_SECONDS, left))
    if reported:
        watch(RUNS, "ended")
    return []


def cancel_cut_off(home: Path, before: processes.Running | None, watch: Watch) -> list[Run]:
    """Cancel the runs that ended with an earlier code server, and free their slots in the pools; returns them.

    before: the code server that ran last, whose port may have been another. Does nothing where there is no web server to ask; the next call
    makes up for it. Runs that were begun elsewhere, by a person on the command line for example, are left alone.
    """
    now = processes.running(home, CODE)
    if now is None:
        return []
    cut_off = _active(home, {now.port, before.port if before is not None else now.port}, begun_before=now.created_at)
    if cut_off:
        _ask(home, CANCEL, {"runs": [run.run_id for run in cut_off]})
        free_slots(home, cut_off)
        watch(RUNS, f"cancelled, as they were cut off: {_listed(cut_off)}")
    return cut_off


def free_slots(home: Path, runs: Sequence[Run]) -> None:
    """Free what runs that have ended hold in pools, for the next runs at once; the daemon itself would take a minute."""
    for run in runs:
        _ask(home, FREE, {"run": run.run_id})


def _active(home: Path, ports: Iterable[int | None], begun_before: float | None = None) -> list[Run]:
    """The runs of code servers at these ports that have not ended, those begun before a time (seconds since 1970) if one is given."""
    found: list[Run] = []
    for port in ports:
        # What the launcher of the pinned Dagster notes on each run that it hands to a code server.
        launched_by = {"key": ".dagster/grpc_info", "value": json.dumps({"host": HOST, "port": port})}
        wanted = {"statuses": STATUSES, "tags": [launched_by], "updatedBefore": begun_before}
        data = _ask(home, ACTIVE, {"filter": wanted})
        results = data["runsOrError"].get("results", []) if data is not None else []
        found += [Run(run_id=each["runId"], job=each["jobName"]) for each in results]
    return found


def _ask(home: Path, query: str, variables: Mapping[str, object]) -> dict[str, Any] | None:
    web = processes.running(home, WEBSERVER)
    key = read_part(DagsterKey, home).dagster_key
    text = key.get_secret_value() if key is not None else None
    return ask_graphql(f"{web.url}/graphql", query, variables, seconds=ANSWER_SECONDS, key=text) if web is not None else None


def _listed(runs: Sequence[Run]) -> str:
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return ", ".join(map(str, runs[:SHOWN])) + more
