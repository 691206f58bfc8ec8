"""Dagster's code server, web server and daemon, as programs of their own, and the environment that they and the command line tools need.

One code server serves the other two, so that the code is loaded once. All start in a folder of the stack, not in the project: Dagster reads
a file `.env` where it starts, and a second stack of the same project must not get the settings of the first.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from pipeline_assets.core.dsn import sqlalchemy_url
from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.core.http_errors import is_transient
from pipeline_assets.core.settings import DAGSTER_DSN, WebSettings, read_part
from pipeline_assets.core.state_errors import read_as_text
from pipeline_assets.local_stack import processes
from pipeline_assets.local_stack.http import answers, ask_graphql
from pipeline_assets.local_stack.own_keys import key_text, renew_key
from pipeline_assets.local_stack.plan import (
    CODE,
    DAEMON,
    HOST,
    POSTGRES,
    WEBSERVER,
    WITHOUT_TLS,
    Description,
    Ending,
    Plan,
    Service,
    has,
    private_folder,
    product_settings,
    program,
    setting,
    trusted_by_aws,
    write_private,
)
from pipeline_assets.local_stack.ports import is_listening
from pipeline_assets.local_stack.runs import Dagster, RunFailed

URL, KEY = setting("dagster_url"), setting("dagster_key")
# The secret and the name of the key with which the stack asks a web server that has a login.
SECRET, KEY_NAME = "dagster_operator_key", "stack operator"
BEGIN, END = "# >>> written by `pipeline up`, removed by `pipeline down --purge`", "# <<< written by `pipeline up`"
LOADED_SECONDS, ANSWERING_SECONDS, POLL_SECONDS = 90.0, 30.0, 0.2
# As `default_limit` of `dagster.yaml`.
POOL_LIMIT = 1
LOCATIONS = """{
  workspaceOrError { ... on Workspace { locationEntries { updatedTimestamp locationOrLoadError { ... on PythonError { className } } } } }
}"""
HEARTBEATS = "{ instance { daemonHealth { allDaemonStatuses { required lastHeartbeatTime } } } }"


def code_server(plan: Plan) -> Service:
    """The server of the code location; it listens once the code was loaded, or could not be: the web page then says why."""
    location, port = code_location(plan.root), plan.ports[CODE]
    return Service(
        name=CODE,
        command=(
            program("dagster"), "code-server", "start", "-h", HOST, "-p", str(port), "--use-python-environment-entry-point",
            "-m", location["module_name"], "--location-name", location["location_name"],
        ),
        folder=folder(plan),
        environment=environment(plan),
        port=port,
        url=f"grpc://{HOST}:{port}",
        is_ready=lambda _since: is_listening(port),
        prepare=partial(make_folder, plan),
    )  # fmt: skip


def webserver(plan: Plan) -> Service:
    """The web server, behind its guard."""
    port = plan.ports[WEBSERVER]
    return Service(
        name=WEBSERVER,
        command=(program("pipeline"), "webserver", "--port", str(port), "--workspace", str(folder(plan) / "workspace.yaml")),
        folder=folder(plan),
        environment={**environment(plan), **WITHOUT_TLS},
        port=port,
        url=url(port),
        is_ready=partial(answers, f"{url(port)}/server_info"),
        finish=partial(_finish, plan),
    )


def daemon(plan: Plan) -> Service:
    """The daemon: it starts queued runs, ticks schedules and sensors, and watches runs."""
    return Service(
        name=DAEMON,
        command=(program("dagster-daemon"), "run", "-w", str(folder(plan) / "workspace.yaml")),
        folder=folder(plan),
        environment=environment(plan),
        is_ready=partial(beats, url(plan.ports[WEBSERVER]), plan.settings.get(KEY)),
    )


def code_location(root: Path) -> dict[str, str]:
    """Module and name of the code location, as the project's workspace file has it for `dagster dev`."""
    import yaml

    found: dict[str, Any] = yaml.safe_load((root / "workspace.yaml").read_text(encoding="utf-8"))
    try:
        location = found["load_from"][0]["python_module"]
        return {name: str(location[name]) for name in ("module_name", "location_name")}
    except (KeyError, IndexError, TypeError) as error:
        raise ServiceFailed(
            CODE, f"finds no python_module with module_name and location_name first in {root / 'workspace.yaml'}"
        ) from error


def make_folder(plan: Plan) -> None:
    """The folder of Dagster, with a workspace file that points to the code server."""
    private_folder(folder(plan))
    server = {"host": HOST, "port": plan.ports[CODE], "location_name": code_location(plan.root)["location_name"]}
    write_private(folder(plan) / "workspace.yaml", json.dumps({"load_from": [{"grpc_server": server}]}))


def url(port: int) -> str:
    """The address of the web server."""
    return f"http://{HOST}:{port}"


def folder(plan: Plan) -> Path:
    """Where Dagster keeps files of its own."""
    return plan.home / "dagster"


def environment(plan: Plan) -> dict[str, str]:
    """What `dagster.yaml` reads, and the settings of the product; not those of the stack, which need no restart."""
    return {
        **product_settings(plan),
        # dagster-postgres expects psycopg2, which SQLAlchemy no longer takes by itself from 2.1 on; it may go once dagster-postgres does.
        "DAGSTER_POSTGRES_URL": sqlalchemy_url(DAGSTER_DSN, plan.settings[DAGSTER_DSN], "psycopg2"),
        "DAGSTER_HOME": str(plan.root),
        "PIPELINE_DAGSTER_FOLDER": str(folder(plan)),
        "AWS_ACCESS_KEY_ID": plan.settings["PIPELINE_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": plan.settings["PIPELINE_S3_SECRET_KEY"],
        "AWS_DEFAULT_REGION": plan.settings["PIPELINE_S3_REGION"],
        **trusted_by_aws(plan),
        "DAGSTER_DISABLE_TELEMETRY": "true",
        # The partitions of a range are recorded in one statement, not in four connections each.
        "DAGSTER_EVENT_BATCH_SIZE": "500",
        # What a run of a range plans is one event per asset instead of one per day; a failed run then names its range, not each day.
        "DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS": "true",
    }


def _settings(plan: Plan) -> dict[str, str]:
    """Its address; with a login also the key, unless the address is that of another server, which should not get it."""
    is_own = URL not in plan.given and read_part(WebSettings, plan.home).web_login
    return {URL: url(plan.ports[WEBSERVER]), **({KEY: key_text(plan, SECRET)} if is_own else {})}


def _finish(plan: Plan) -> None:
    """Return once the web server works with the code server that runs now, and every pool of the code has a limit.

    A web server with a login knows the key of the stack by then.
    """
    import stamina

    from pipeline_assets.serving.realtime.access.callers import Role

    key, address = plan.settings.get(KEY), url(plan.ports[WEBSERVER])
    if key is not None:
        renew_key(plan, SECRET, KEY_NAME, Role.OPERATOR)
    wait_for_code(plan.home, address, key)
    asked = Dagster(address, code_location(plan.root)["location_name"], key)
    # Connections that it had to a database which was started anew are found to be dead one by one, each by an answer 500.
    for attempt in stamina.retry_context(_may_pass, attempts=None, timeout=ANSWERING_SECONDS, wait_max=1.0):
        with attempt:
            asked.ensure_pools(POOL_LIMIT)


def _may_pass(error: Exception) -> bool:
    return isinstance(error, RunFailed) or is_transient(error)


def wait_for_code(home: Path, webserver_url: str, key: str | None = None) -> None:
    """Return once the web server works with the code server that runs now; raises ServiceFailed where it does not in time.

    A web server that stayed, while its code server was replaced, sees the new one after some seconds and refuses runs until then.
    """
    code, deadline = processes.running(home, CODE), time.monotonic() + LOADED_SECONDS
    while code is not None and not has_looked(webserver_url, key, code.created_at):
        if time.monotonic() > deadline:
            raise ServiceFailed(WEBSERVER, f"did not reach the code server within {LOADED_SECONDS:.0f} s", processes.tail(home, WEBSERVER))
        time.sleep(POLL_SECONDS)


def has_looked(webserver_url: str, key: str | None, since: float) -> bool:
    """The web server has loaded the code since a time (seconds since 1970), or shows why it cannot be loaded."""
    data = ask_graphql(f"{webserver_url}/graphql", LOCATIONS, key=key)
    entries = data["workspaceOrError"].get("locationEntries", []) if data is not None else []
    states = [(each["updatedTimestamp"], (each["locationOrLoadError"] or {}).get("className")) for each in entries]
    return bool(states) and all(updated >= since and error != "DagsterUserCodeUnreachableError" for updated, error in states)


def beats(webserver_url: str, key: str | None, since: float) -> bool:
    """Every daemon that the instance needs has shown life since the process started."""
    data = ask_graphql(f"{webserver_url}/graphql", HEARTBEATS, key=key)
    found = data["instance"]["daemonHealth"]["allDaemonStatuses"] if data is not None else []
    needed = [each["lastHeartbeatTime"] or 0 for each in found if each["required"]]
    return bool(needed) and min(needed) >= since


def dotenv(root: Path, home: Path) -> Path:
    """The file that `dagster` and `dg` read: in the project for its own stack, else in the folder of the stack."""
    return (root if home == root / ".pipeline" else home) / ".env"


def write_dotenv(plan: Plan) -> None:
    """Put the environment into the file for the command line tools; lines that are not of the stack stay."""
    path = dotenv(plan.root, plan.home)
    lines = [f"{name}={quoted(value)}" for name, value in environment(plan).items()]
    write_private(path, "\n".join([*others(path), BEGIN, *lines, END, ""]))


def quoted(value: str) -> str:
    """A value as dotenv files have it: a DSN of keyword=value pairs may have quotes of its own."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def remove_dotenv(path: Path) -> None:
    """Take the lines of the stack out of the file, and the file away if nothing else is in it."""
    if not path.exists():
        return
    kept = others(path)
    if kept:
        write_private(path, "\n".join([*kept, ""]))
    else:
        path.unlink()


def others(path: Path) -> list[str]:
    """The lines of the file that the stack did not write."""
    with read_as_text(path, "Save it as UTF-8, or delete it"):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if BEGIN not in lines:
        return lines
    begin = lines.index(BEGIN)
    end = lines.index(END, begin) if END in lines[begin:] else len(lines) - 1
    return lines[:begin] + lines[end + 1 :]


CODE_SERVER = Description(
    name=CODE, build=code_server, ports={CODE: 4266}, is_elsewhere=has(URL), ending=Ending(turn=2)
)  # fmt: skip
WEB_SERVER = Description(
    name=WEBSERVER,
    build=webserver,
    ports={WEBSERVER: 3000},
    secrets=(SECRET,),
    settings=_settings,
    is_elsewhere=has(URL),
    needs=(POSTGRES, CODE),
    is_page=True,
)
DAEMON_PROCESS = Description(
    name=DAEMON, build=daemon, is_elsewhere=has(URL), needs=(POSTGRES, CODE, WEBSERVER), ending=Ending(turn=0)
)  # fmt: skip
