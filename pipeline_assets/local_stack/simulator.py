"""The outside world of the reference use case, where the project has it: a weather API, and the rows of the operational database.

The simulator is started as a program and never imported: a user with real sources deletes its folder.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.local_stack.http import answers
from pipeline_assets.local_stack.plan import HOST, WEATHER, Plan, Service, write_private
from pipeline_assets.local_stack.processes import TAIL_LINES, end_all, family, marked_environment

AIRLINE_OPS, AIRLINE_OPS_DSN = "airline_ops", "PIPELINE_DATABASES__AIRLINE_OPS"
FIRST_DAY, LAST_DAY = date(2013, 1, 1), date(2013, 12, 31)
EVENTS = "events"
# The history ends before this day; what happens from then on is told by events.
STREAM_FROM = date(2013, 6, 1)


def service(plan: Plan) -> Service:
    """The weather API; it reads its key from a file."""
    port, key = plan.ports[WEATHER], plan.home / WEATHER / "api_key"
    return Service(
        name=WEATHER,
        command=(sys.executable, "-m", "simulator.api", "--host", HOST, "--port", str(port), "--api-key-file", str(key)),
        folder=plan.root,
        port=port,
        url=url(port),
        is_ready=partial(answers, f"{url(port)}/health"),
        prepare=partial(write_key, plan, key),
    )


def exists(root: Path) -> bool:
    """The project still has the outside world of the reference use case."""
    return (root / "simulator" / "database.py").exists()


def fill_database(plan: Plan) -> None:
    """Load the operational database, once; a load that was killed is repeated and doubles no row."""
    done = plan.home / "run" / f"{AIRLINE_OPS}-until-{STREAM_FROM}.loaded"
    if done.exists():
        return
    end_all(family(plan.home, AIRLINE_OPS))
    environment = {**marked_environment(plan.home, AIRLINE_OPS), AIRLINE_OPS_DSN: plan.settings[AIRLINE_OPS_DSN]}
    span = ["--first", str(FIRST_DAY), "--last", str(LAST_DAY), "--stream-from", str(STREAM_FROM)]
    _run(plan.root, ["simulator.database", *span], environment, AIRLINE_OPS, "could not be filled by the simulator")
    done.touch()


def send_events(home: Path, root: Path, bootstrap: str, first: date, last: date) -> None:
    """Tell the topics what happened on the days first..last (inclusive), once; what a killed call had told is told again."""
    done = home / "run" / f"events-{first}-{last}.sent"
    if done.exists():
        return
    span = ["--first", str(first), "--last", str(last)]
    environment = marked_environment(home, EVENTS)
    _run(root, ["simulator.events", "--bootstrap", bootstrap, *span], environment, EVENTS, "could not be sent by the simulator")
    done.touch()


def _run(root: Path, program: Sequence[str], environment: Mapping[str, str], subject: str, problem: str) -> None:
    result = subprocess.run(  # noqa: S603 - the simulator of this project
        [sys.executable, "-m", *program], cwd=root, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        raise ServiceFailed(subject, problem, "\n".join(result.stdout.splitlines()[-TAIL_LINES:]))


def url(port: int) -> str:
    """The address of the weather API."""
    return f"http://{HOST}:{port}"


def write_key(plan: Plan, key: Path) -> None:
    """Put the key of the weather API where the API reads it."""
    key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(key, plan.settings["PIPELINE_SERVICES__WEATHER__API_KEY"])
