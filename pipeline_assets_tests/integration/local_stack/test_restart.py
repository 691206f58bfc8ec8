"""What becomes of runs when `up` restarts the code server: with a project of one job, on the real Dagster of the stack."""

import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pipeline_assets.core.settings import ROOT, DagsterKey, StackSettings, read_part
from pipeline_assets.local_stack import processes, stack
from pipeline_assets.local_stack.http import key_header
from pipeline_assets.local_stack.plan import CODE, DAEMON, POSTGRES, WEBSERVER
from pipeline_assets.local_stack.restart import RUNS
from pipeline_assets.local_stack.runs import Dagster
from pipeline_assets_tests.stream_records import until

SERVICES = (POSTGRES, CODE, WEBSERVER, DAEMON)
JOB, POOL = "wait_for_gate", "gates"
PATIENCE_SECONDS = 90.0
# Each run says that it has begun, and ends once its gate is opened: both are files named after it.
MODULE = """
import os
from pathlib import Path
from threading import Event

import dagster as dg


@dg.asset(pool="gates")
def gate(context: dg.AssetExecutionContext) -> None:
    folder = Path(os.environ["GATES"])
    (folder / f"{context.run_id}.begun").touch()
    while not (folder / f"{context.run_id}.open").exists():
        Event().wait(0.05)


defs = dg.Definitions(assets=[gate], jobs=[dg.define_asset_job("wait_for_gate", selection="*")])
"""
STATUS = "query Status($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
RETRIES = """
query Retries($run: String!) {
  runsOrError(filter: {tags: [{key: "dagster/parent_run_id", value: $run}]}) { ... on Runs { results { runId } } }
}"""
CLAIMS = "query Claims($pool: String!) { instance { concurrencyLimit(concurrencyKey: $pool) { claimedSlots { runId } } } }"


wait_for = partial(until, seconds=PATIENCE_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project with one job, its stack, and what `up` last reported of runs."""

    root: Path
    home: Path
    reported: list[str] = field(default_factory=list)

    def up(self, note: str, *, wait_seconds: float = PATIENCE_SECONDS) -> None:
        """Start the stack; another `note` is a changed setting."""
        self.reported.clear()
        given = {"PIPELINE_NOTE": note}
        asked = StackSettings(ports=stack.free_ports(self.root), given=given, run_wait_seconds=wait_seconds)
        stack.up(self.home, self.root, only=SERVICES, stack=asked, watch=self._watch)

    def begin(self) -> str:
        """The id of a new run whose step has begun."""
        run_id = self._dagster.launch(JOB, None, {})
        wait_for((self.root / f"{run_id}.begun").exists)
        return run_id

    def retry_of(self, run_id: str) -> str:
        """The id of the run that the daemon has started to make up for another, once its step has begun."""
        retry, *_ = wait_for(lambda: self._retries(run_id))
        wait_for((self.root / f"{retry}.begun").exists)
        return retry

    def open(self, run_id: str) -> None:
        """Let a run end."""
        (self.root / f"{run_id}.open").touch()

    def status(self, run_id: str) -> str:
        """The status of a run."""
        return str(self._ask(STATUS, {"run": run_id})["runOrError"]["status"])

    def claims(self) -> list[str]:
        """The runs that hold a slot of the pool."""
        return [slot["runId"] for slot in self._ask(CLAIMS, {"pool": POOL})["instance"]["concurrencyLimit"]["claimedSlots"]]

    def code_server(self) -> processes.Running:
        """The code server that runs."""
        known = processes.running(self.home, CODE)
        assert known is not None
        return known

    @property
    def _dagster(self) -> Dagster:
        web = processes.running(self.home, WEBSERVER)
        assert web is not None
        return Dagster(web.url, "gates", self._key)

    @property
    def _key(self) -> str:
        """The key with which the stack asks the web server, which has a login in these tests."""
        found = read_part(DagsterKey, self.home).dagster_key
        assert found is not None
        return found.get_secret_value()

    def _retries(self, run_id: str) -> list[str]:
        return [run["runId"] for run in self._ask(RETRIES, {"run": run_id})["runsOrError"]["results"]]

    def _ask(self, query: str, variables: dict[str, object]) -> dict[str, Any]:
        headers = key_header(self._key)
        answer = httpx.post(f"{self._dagster.url}/graphql", json={"query": query, "variables": variables}, headers=headers, timeout=60)
        return dict(answer.json()["data"])

    def _watch(self, name: str, state: str) -> None:
        if name == RUNS:
            self.reported.append(state)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project with its stack up; stopped at the end."""
    root = tmp_path_factory.mktemp("gates")
    (root / "gates.py").write_text(MODULE)
    (root / "workspace.yaml").write_text("load_from: [{python_module: {module_name: gates, location_name: gates}}]")
    instance = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    # The object store is not needed here.
    (root / "dagster.yaml").write_text(yaml.safe_dump({name: value for name, value in instance.items() if name != "compute_logs"}))
    made = Project(root=root, home=root / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root))
        patch.setenv("GATES", str(root))
        patch.setenv("PIPELINE_WEB_LOGIN", "true")
        try:
            made.up("first")
            yield made
        finally:
            stack.down(made.home, root)
            shutil.rmtree(made.home)


def test_a_changed_setting_lets_runs_end(project: Project) -> None:
    """`up` waits for the run that has begun, says for which, and restarts the code server after its end."""
    before, run_id = project.code_server(), project.begin()
    with ThreadPoolExecutor() as pool:
        restarted = pool.submit(project.up, "second")
        wait_for(lambda: bool(project.reported))
        was_waiting = not restarted.done() and project.code_server().pid == before.pid
        project.open(run_id)
        restarted.result()

    assert was_waiting
    assert project.reported[0].endswith(f"s at most for {JOB} ({run_id[:8]})")
    assert project.reported[-1] == "ended"
    assert project.status(run_id) == "SUCCESS"
    assert project.code_server().pid != before.pid


def test_a_run_that_does_not_end_in_time_fails_frees_its_pool_and_is_retried(project: Project) -> None:
    """Regression: a run under a restarted code server stayed STARTED, and held its pool until it was cancelled by hand."""
    run_id = project.begin()
    held = project.claims()
    project.up("third", wait_seconds=1)
    status = project.status(run_id)
    retry = project.retry_of(run_id)
    now_held = project.claims()
    project.open(retry)
    wait_for(lambda: project.status(retry) == "SUCCESS")

    assert (held, now_held) == ([run_id], [retry])
    assert f"still running after 1 s: {JOB} ({run_id[:8]})" in project.reported
    assert status == "FAILURE"


def test_runs_of_a_killed_code_server_are_cancelled_by_the_next_up(project: Project) -> None:
    """The pool is free again, and the next run of it ends as usual."""
    run_id = project.begin()
    killed = project.code_server().find()
    assert killed is not None
    processes.signal_all(processes.family(project.home, CODE), signal.SIGKILL)
    killed.wait(timeout=10)
    project.up("third")
    following = project.begin()
    project.open(following)
    wait_for(lambda: project.status(following) == "SUCCESS")

    assert project.reported == [f"cancelled, as they were cut off: {JOB} ({run_id[:8]})"]
    assert project.status(run_id) == "CANCELED"
    assert project.claims() == []


def test_up_without_a_change_leaves_runs_alone(project: Project) -> None:
    """Neither waited for nor cancelled: the run goes on in the same code server."""
    before, run_id = project.code_server(), project.begin()
    project.up("third")
    during = project.status(run_id)
    project.open(run_id)
    wait_for(lambda: project.status(run_id) == "SUCCESS")

    assert (during, project.reported) == ("STARTED", [])
    assert project.code_server().pid == before.pid
