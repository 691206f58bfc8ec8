"""Dagster's web server behind its guard, as a process of its own on a small code location; shared by the tests of the guard."""

import json
import os
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pipeline_assets.local_stack.plan import program
from pipeline_assets.local_stack.ports import free_port
from pipeline_assets_tests.stream_records import until

CODE = """
import dagster as dg


@dg.op
def greet(context: dg.OpExecutionContext) -> None:
    context.log.info("greetings to all who listen")


@dg.job
def greeting() -> None:
    greet()


defs = dg.Definitions(jobs=[greeting])
"""
# Runs start at once, without a daemon.
INSTANCE = """
telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""
LAUNCH = (
    'mutation Launch { launchRun(executionParams: {selector: {repositoryLocationName: "greetings.py", repositoryName: "__repository__", '
    'jobName: "greeting"}, runConfigData: {}}) { __typename ... on LaunchRunSuccess { run { runId } } } }'
)
RUNS = "{ runsOrError { ... on Runs { results { runId status } } } }"


@dataclass(frozen=True, kw_only=True)
class WebServer:
    """A server that runs: its address, the file of its audit log, and whom its clients trust."""

    url: str
    audit: Path
    home: Path
    trust: ssl.SSLContext | bool = True

    def ask(self, query: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """The answer to GraphQL by POST."""
        return httpx.post(f"{self.url}/graphql", json={"query": query}, headers=dict(headers or {}), timeout=60, verify=self.trust)

    def runs(self, headers: Mapping[str, str] | None = None) -> dict[str, str]:
        """The state of each run that there is, by its id."""
        found: Any = self.ask(RUNS, headers).json()
        return {run["runId"]: run["status"] for run in found["data"]["runsOrError"]["results"]}

    def start(self, headers: Mapping[str, str] | None = None, config: str = "{}") -> str:
        """Starts a run as a program does, with a configuration in the words of GraphQL; its id."""
        answer: Any = self.ask(LAUNCH.replace("runConfigData: {}", f"runConfigData: {config}"), headers).json()
        run: str = answer["data"]["launchRun"]["run"]["runId"]
        return run

    def launch(self, headers: Mapping[str, str] | None = None) -> str:
        """As `start`, and waits for its end."""
        run = self.start(headers)
        until(lambda: self.runs(headers)[run], lambda state: state == "SUCCESS")
        return run

    def audited(self, **facts: object) -> list[dict[str, Any]]:
        """The lines of the audit log that have these facts, once there is one."""
        return until(lambda: [line for line in self._lines() if facts.items() <= line.items()])

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


@contextmanager
def web_server(folder: Path, *, code: str = CODE, authority: str = "", **settings: str) -> Iterator[WebServer]:
    """A server in a folder, with settings of the product by their whole names, until the block ends; code: its job is `greeting`.

    authority: the file of whom its clients trust, where the settings have a certificate.
    """
    port, home = free_port(), folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(INSTANCE)
    (folder / "greetings.py").write_text(code)
    (folder / "workspace.yaml").write_text("load_from: [{python_file: greetings.py}]")
    own = {
        "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "true", "PIPELINE_HOME": str(home),
        "PIPELINE_WEB_AUDIT_FILE": str(home / "audit.log"),
    }  # fmt: skip
    command = (program("pipeline"), "webserver", "--port", str(port))
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **own, **settings}, stdout=log, stderr=log)
        try:
            trust = ssl.create_default_context(cafile=authority) if authority else True
            scheme = "https" if "PIPELINE_WEB_CERTIFICATE" in settings else "http"
            found = WebServer(url=f"{scheme}://127.0.0.1:{port}", audit=home / "audit.log", home=home, trust=trust)
            until(lambda: process.poll() is not None or _answers(found))
            assert process.poll() is None, (folder / "server.log").read_text()
            yield found
        finally:
            process.terminate()
            process.wait(timeout=20)


def _answers(server: WebServer) -> bool:
    try:
        return httpx.get(f"{server.url}/favicon.png", verify=server.trust).status_code < 500
    except httpx.HTTPError:
        return False
