"""dbt as a program of its own: what it is told, what it tells, and what it leaves behind.

It runs beside this process, so that its memory, its threads and its global settings are its own. Where the warehouse is, and which days are
asked for, it learns from its environment: nothing of it shows in the list of processes.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pipeline_assets.core.errors import CleaningFailed
from pipeline_assets.core.settings import Settings, environment_of_children, load_settings
from pipeline_assets.processing.cleaning.project import PROJECT, DataTest, Model

PROGRAM = Path(sys.executable).with_name("dbt")
FLAGS = ("--log-format", "json", "--log-level", "info", "--no-use-colors")
MANIFEST, PARSED = "manifest.json", "partial_parse.msgpack"
# The parts of a DSN, with what libpq takes for those left out.
PARTS = {"host": "", "port": "5432", "user": "", "dbname": "", "sslmode": "prefer", "sslcert": "", "sslkey": "", "sslrootcert": ""}
RESULTS = {"LogModelResult", "LogTestResult"}
END_SECONDS = 20
KEPT = timedelta(days=7)

Event = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model that was built; `sql` is its select statement as it ran."""

    model: Model
    seconds: float
    sql: str


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A data test that was run: how many rows fail it; where the test itself could not be run, it did not pass and `failures` is None."""

    test: DataTest
    passed: bool
    failures: int | None
    seconds: float


def build(
    settings: Settings,
    models: Sequence[Model],
    tests: Sequence[DataTest],
    days: tuple[date, date] | None = None,
    *,
    full_refresh: bool = False,
) -> Iterator[Built | Tested]:
    """Build models with their unit tests, and run data tests, each after what it depends on; tells of each as it is done.

    `days` (UTC, inclusive) bounds the rows that are replaced in models built by the day; None: all rows are. What hangs on a failed test
    that blocks is not built. Raises CleaningFailed, after all else was tried, if a model could not be built or a unit test failed.
    """
    chosen = [f"path:{model.path}" for model in models] + [test.name for test in tests]
    chosen += [test for model in models for test in model.unit_tests]
    arguments = ["build", "--indirect-selection", "empty", "--select", *chosen, *(["--full-refresh"] if full_refresh else [])]
    nodes: list[Model | DataTest] = [*models, *tests]
    known = {node.unique_id: node for node in nodes}
    failed, problems = False, []
    with _target(settings.home / "dbt") as target, _running(arguments, variables(settings, days), target) as events:
        for event in events:
            failed = failed or _has_failed(event, known)
            problems += _problems(event)
            outcome = _outcome(event, known, target)
            if outcome is not None:
                yield outcome
        if failed:
            raise CleaningFailed("build", problems, target)


def parse(project: Path, target: Path) -> None:
    """Let dbt read `project` and write what it found to `target`: manifest and parse cache. Needs no warehouse. Raises CleaningFailed."""
    # The profile is rendered, but nothing connects.
    with _running(["parse"], _connection(dict.fromkeys(PARTS, "0"), password=""), target, project) as events:
        told = list(events)
    if any(_has_failed(event, {}) for event in told):
        raise CleaningFailed("parse", [problem for event in told for problem in _problems(event)], target)


def variables(settings: Settings, days: tuple[date, date] | None = None) -> dict[str, str]:
    """What `profiles.yml` and the macros of the project read from the environment: the parts of the warehouse's DSN, and the days."""
    from psycopg.conninfo import conninfo_to_dict

    told = {name: str(value) for name, value in conninfo_to_dict(settings.warehouse_dsn.get_secret_value()).items()}
    parts = {part: told.get(part, default) for part, default in PARTS.items()}
    first, last = ("", "") if days is None else (day.isoformat() for day in days)
    return _connection(parts, told.get("password", "")) | {"PIPELINE_DBT_FIRST_DAY": first, "PIPELINE_DBT_LAST_DAY": last}


def _connection(parts: Mapping[str, str], password: str) -> dict[str, str]:
    # dbt keeps the value of a variable with the second prefix out of all that it prints and writes.
    return {f"PIPELINE_DBT_{part.upper()}": value for part, value in parts.items()} | {"DBT_ENV_SECRET_PASSWORD": password}


@contextmanager
def _target(folder: Path) -> Iterator[Path]:
    """A folder for one run, with what the last run parsed; removed afterwards, unless the run failed, for its log and SQL tell why."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("run-*"):
        if old.stat().st_mtime < time.time() - KEPT.total_seconds():
            shutil.rmtree(old, ignore_errors=True)
    target = Path(mkdtemp(prefix="run-", dir=folder))
    with suppress(FileNotFoundError):
        shutil.copy(folder / PARSED, target / PARSED)
    yield target
    (target / PARSED).replace(folder / PARSED)
    shutil.rmtree(target)


@contextmanager
def _running(arguments: Sequence[str], variables: Mapping[str, str], target: Path, project: Path = PROJECT) -> Iterator[Iterator[Event]]:
    """The events of a dbt command as they come; the process has ended when this is left, however it is left."""
    folders = ["--project-dir", str(project), "--profiles-dir", str(project), "--target-path", str(target), "--log-path", str(target)]
    command = [str(PROGRAM), *FLAGS, arguments[0], *folders, *arguments[1:]]
    with subprocess.Popen(  # noqa: S603 - this environment's own program, with names from the manifest
        command, cwd=project, env=environment_of_children(variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield _events(process)
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(END_SECONDS)
                process.kill()


def _events(process: "subprocess.Popen[str]") -> Iterator[Event]:
    """What dbt tells line by line, then its exit code. A line that is no event (of a crash, a warning of Python) is told as an error."""
    for line in process.stdout or ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            yield {"info": {"name": "Line", "level": "error", "msg": line}, "data": {}}
    yield {"info": {"name": "Ended", "level": "info", "msg": ""}, "data": {"code": process.wait()}}


def _problems(event: Event) -> list[str]:
    """The text of an error; the line that a node failed is left out, as its reason follows."""
    info = event["info"]
    return [info["msg"].strip()] if info["level"] == "error" and info["name"] not in RESULTS and info["msg"].strip() else []


def _has_failed(event: Event, known: Mapping[str, Model | DataTest]) -> bool:
    """Whether the event tells of more than failing data tests; dbt's exit code is 1 where a node failed, 2 where nothing could be run."""
    data = event["data"]
    match event["info"]["name"]:
        case "LogModelResult":
            return bool(data["node_info"]["node_status"] != "success")
        case "LogTestResult":
            return data["node_info"]["unique_id"] not in known and data["status"] != "pass"
        case "Ended":
            return data["code"] not in {0, 1}
    return False


def _outcome(event: Event, known: Mapping[str, Model | DataTest], target: Path) -> Built | Tested | None:
    data = event["data"]
    node, seconds = known.get(data.get("node_info", {}).get("unique_id")), data.get("execution_time", 0.0)
    match event["info"]["name"], node:
        case "LogModelResult", Model() if not _has_failed(event, known):
            sql = (target / "compiled" / node.unique_id.split(".")[1] / node.path).read_text(encoding="utf-8")
            return Built(model=node, seconds=seconds, sql=sql)
        case "LogTestResult", DataTest():
            failures = None if data["status"] == "error" else data["num_failures"]
            return Tested(test=node, passed=data["status"] == "pass", failures=failures, seconds=seconds)
    return None


if __name__ == "__main__":
    # dbt by hand against the warehouse of the settings: `python -m pipeline_assets.processing.cleaning.dbt source freshness`.
    by_hand = environment_of_children(variables(load_settings()))
    sys.exit(subprocess.run([PROGRAM, *sys.argv[1:]], cwd=PROJECT, env=by_hand, check=False).returncode)  # noqa: S603 - what was typed
