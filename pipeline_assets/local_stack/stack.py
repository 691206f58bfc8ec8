"""Start, look at and stop all services of one folder. Each call may be repeated, and takes over from one that was killed."""

import fcntl
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from pipeline_assets.core.settings import Settings, StackSettings, read_settings, read_stack_settings
from pipeline_assets.local_stack import connect, dagster, java, kafka, mlflow, postgres, processes, s3, simulator
from pipeline_assets.local_stack.plan import (
    CODE,
    CONNECT,
    DAEMON,
    JARS,
    KAFKA,
    MLFLOW,
    NAMES,
    POSTGRES,
    S3,
    WEATHER,
    WEBSERVER,
    Plan,
    Service,
)
from pipeline_assets.local_stack.services import Watch, ensure, nobody_watches, run_after, stop
from pipeline_assets.local_stack.settings import AIRLINE_OPS, is_given, make_plan, write_settings

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("logs", "run", POSTGRES, S3, KAFKA, CONNECT)
KEPT_BY_PURGE = ("jars", "stack.lock")
PAGES = (WEBSERVER, MLFLOW)
STOPPED_IN_TURN = ((DAEMON,), (WEBSERVER, MLFLOW, WEATHER, CONNECT), (CODE, KAFKA, S3, POSTGRES))
BUILDERS: dict[str, Callable[[Plan], Service]] = {
    POSTGRES: postgres.service,
    S3: s3.service,
    KAFKA: kafka.service,
    CONNECT: connect.service,
    MLFLOW: mlflow.service,
    WEATHER: simulator.service,
    CODE: dagster.code_server,
    WEBSERVER: dagster.webserver,
    DAEMON: dagster.daemon,
}


@dataclass(frozen=True, kw_only=True)
class State:
    """A service as it is now.

    state: running; dead (it was started, and its process ended by itself); stopped; elsewhere (the environment points to it).
    rss_mb: resident memory of all its processes, in MB. is_page: the url is for a browser.
    """

    name: str
    state: str
    pid: int | None
    port: int | None
    url: str
    rss_mb: float | None
    is_page: bool


def up(
    home: Path,
    root: Path = ROOT,
    *,
    only: Sequence[str] = NAMES,
    with_history: bool = True,
    stack: StackSettings | None = None,
    watch: Watch = nobody_watches,
) -> Settings:
    """Start what is not running, wait until all of it works, and return the settings to use it.

    `only`: names of the services wanted. `with_history`: fill the simulator's database, where the project has one. `stack`: else read from
    the environment. `watch` is called with a name and its new state. Raises PortTaken, ServiceFailed and SettingsMissing; what did start
    stays, and the next call goes on from there.
    """
    for folder in (home, *(home / name for name in FOLDERS)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(home):
        stack = stack or read_stack_settings()
        plan = make_plan(stack, root, home)
        write_settings(plan)
        dagster.write_dotenv(plan)
        start_all(plan, chosen(stack, root, only, watch), watch, with_history=with_history and AIRLINE_OPS not in stack.given)
    return read_settings(home)


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Let one command at a time change the stack; the lock goes with the process that has it, however it ends."""
    with (home / "stack.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def chosen(stack: StackSettings, root: Path, only: Sequence[str], watch: Watch) -> list[str]:
    """The names of the services to start: wanted, part of the project, and not elsewhere."""
    wanted = [name for name in NAMES if name in only and (name != WEATHER or simulator.exists(root))]
    missing = [name for name in wanted if not is_given(stack, name, root)]
    for name in wanted:
        watch(name, "waiting" if name in missing else "elsewhere")
    return missing


def start_all(plan: Plan, names: Sequence[str], watch: Watch, *, with_history: bool) -> None:
    """Start the services side by side, each after those it needs; raises the first failure once all have come to an end."""
    halted, begun = Event(), dict[str, Future[None]]()
    with ThreadPoolExecutor(max_workers=len(NAMES) + 2) as pool:
        if wanted := java.missing(plan.jars, names):
            fetch = partial(java.download, plan, wanted, partial(watch, JARS))
            begun[JARS] = pool.submit(run_after, [], JARS, fetch, watch, done="ready")
        for service in (BUILDERS[name](plan) for name in names):
            needs = [begun[name] for name in service.needs if name in begun]
            begun[service.name] = pool.submit(run_after, needs, service.name, partial(ensure, plan.home, service, halted), watch)
        if with_history and POSTGRES in begun and simulator.exists(plan.root):
            fill = partial(simulator.fill_database, plan)
            begun[simulator.AIRLINE_OPS] = pool.submit(run_after, [begun[POSTGRES]], simulator.AIRLINE_OPS, fill, watch, done="ready")
        try:
            wait(begun.values())
        except KeyboardInterrupt:
            halted.set()
            raise
    for future in begun.values():
        future.result()


def down(home: Path, root: Path = ROOT, *, only: Sequence[str] = NAMES, purge: bool = False, watch: Watch = nobody_watches) -> list[str]:
    """Stop the services of the folder, those that others need last; the names of those that ran.

    `only`: names of the services meant. `purge`: stop all, and delete their data.
    """
    if not home.exists():
        return []
    with locked(home), ThreadPoolExecutor(max_workers=len(NAMES)) as pool:
        meant = NAMES if purge else only
        stopped: list[str] = []
        for wave in STOPPED_IN_TURN:
            names = [name for name in wave if name in meant]
            stopped += [name for name, was_alive in zip(names, pool.map(partial(stop, home, watch=watch), names), strict=True) if was_alive]
        if POSTGRES in meant:
            postgres.remove_copy(home)
        if purge:
            dagster.remove_dotenv(dagster.dotenv(root, home))
            delete_data(home)
    return stopped


def delete_data(home: Path) -> None:
    """Delete all that the services wrote; downloaded jars stay."""
    for path in home.iterdir():
        if path.name not in KEPT_BY_PURGE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def status(home: Path, root: Path = ROOT) -> list[State]:
    """Every service of the folder, in the order in which they start."""
    stack = read_stack_settings()
    return [state_of(home, name, is_elsewhere=is_given(stack, name, root)) for name in NAMES]


def state_of(home: Path, name: str, *, is_elsewhere: bool) -> State:
    """One service as it is now."""
    remembered, alive = processes.remembered(home, name), processes.running(home, name)
    members = processes.family(home, name)
    ended = "elsewhere" if is_elsewhere else "stopped" if remembered is None else "dead"
    return State(
        name=name,
        state=ended if alive is None else "running",
        pid=None if alive is None else alive.pid,
        port=None if alive is None else alive.port,
        url="" if alive is None else alive.url,
        rss_mb=processes.resident_mb(members) if members else None,
        is_page=name in PAGES,
    )
