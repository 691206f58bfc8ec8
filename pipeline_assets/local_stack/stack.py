"""Start, look at and stop all services of one folder. Each call may be repeated, and takes over from one that was killed."""

import fcntl
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.core.settings import ROOT, Settings, StackSettings, read_settings, read_stack_settings
from pipeline_assets.core.state_errors import check_is_file
from pipeline_assets.local_stack import dagster, java, postgres, processes, simulator
from pipeline_assets.local_stack.inventory import default_ports, described
from pipeline_assets.local_stack.plan import CODE, DAEMON, JARS, POSTGRES, Description, Plan, Service, private_folder
from pipeline_assets.local_stack.restart import Run, cancel_cut_off, free_slots, let_end
from pipeline_assets.local_stack.services import Watch, ensure, is_outdated, nobody_watches, run_after, stop
from pipeline_assets.local_stack.settings import make_plan, remove_unreadable, without_own, write_settings
from pipeline_assets.local_stack.worlds import Program, read_worlds

FOLDERS = ("logs", "run")
KEPT_BY_PURGE = ("jars", "stack.lock")


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


def names(root: Path = ROOT) -> tuple[str, ...]:
    """The names of the services of a project."""
    return tuple(described(read_worlds(root)))


def free_ports(root: Path = ROOT) -> dict[str, int]:
    """The ports of a project's services for a stack that runs beside others: each 0, which picks a free one."""
    return dict.fromkeys(default_ports(described(read_worlds(root)).values()), 0)


def up(
    home: Path,
    root: Path = ROOT,
    *,
    only: Sequence[str] | None = None,
    with_history: bool = True,
    stack: StackSettings | None = None,
    watch: Watch = nobody_watches,
) -> Settings:
    """Start what is not running, wait until all of it works, and return the settings to use it.

    `only`: names of the services wanted, None for all. `with_history`: fill the databases of the project's worlds. `stack`: else read from
    the environment. `watch` is called with a name and its new state. Where a service is restarted, runs that have begun get
    `stack.run_wait_seconds` to end; those that have not fail and are retried. Raises PortTaken, ServiceFailed and SettingsMissing; what did
    start stays, and the next call goes on from there.
    """
    for folder in (home, *(home / name for name in FOLDERS)):
        private_folder(folder)
    with locked(home):
        remove_unreadable(home)
        stack, worlds = stack or read_stack_settings(), read_worlds(root)
        services = described(worlds)
        stack = without_own(list(services.values()), stack, root, home)
        plan = make_plan(services.values(), stack, root, home)
        built = {each.name: each.build(plan) for each in chosen(services, stack, only, watch)}
        before = processes.remembered(home, CODE)
        left = spare_runs(home, services, built, stack.run_wait_seconds, watch)
        write_settings(plan)
        dagster.write_dotenv(plan)
        to_fill = simulator.databases_to_fill(worlds, stack.given) if with_history and POSTGRES in built else {}
        start_all(plan, services, built, to_fill, watch)
        require_alive(home, built)
        cancel_cut_off(home, before, watch)
        free_slots(home, left)
    return read_settings(home)


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Let one command at a time change the stack; the lock goes with the process that has it, however it ends."""
    check_is_file(lock := home / "stack.lock", "Delete it")
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def chosen(services: Mapping[str, Description], stack: StackSettings, only: Sequence[str] | None, watch: Watch) -> list[Description]:
    """The services to start: wanted, and not elsewhere."""
    wanted = [service for service in services.values() if only is None or service.name in only]
    missing = [service for service in wanted if not service.is_elsewhere(stack.given)]
    for service in wanted:
        watch(service.name, "waiting" if service in missing else "elsewhere")
    return missing


def spare_runs(home: Path, services: Mapping[str, Description], built: Mapping[str, Service], seconds: float, watch: Watch) -> list[Run]:
    """Before a service is restarted, let the runs end that have begun; returns those that have not. Queued ones wait for the new daemon."""
    if not any(is_outdated(home, service) for service in built.values()):
        return []
    if DAEMON in built and processes.running(home, DAEMON) is not None:
        stop(home, DAEMON, watch, services[DAEMON].ending)
    return let_end(home, seconds, watch)


def start_all(
    plan: Plan, services: Mapping[str, Description], built: Mapping[str, Service], to_fill: Mapping[str, Program], watch: Watch
) -> None:
    """Start the services side by side, each after those it needs, and fill databases; raises the first failure once all have ended."""
    halted, begun = Event(), dict[str, Future[None]]()
    with ThreadPoolExecutor(max_workers=len(built) + len(to_fill) + 1) as pool:
        if wanted := java.missing(plan.jars, [name for each in built for name in services[each].jars]):
            fetch = partial(java.download, plan, wanted, partial(watch, JARS))
            begun[JARS] = pool.submit(run_after, [], JARS, fetch, watch, done="ready")
        for name, service in built.items():
            needed = (*services[name].needs, *([JARS] if services[name].jars else []))
            work = partial(ensure, plan.home, service, halted, services[name].ending)
            begun[name] = pool.submit(run_after, [begun[need] for need in needed if need in begun], name, work, watch)
        for name, program in to_fill.items():
            fill = partial(simulator.fill_database, plan, name, program)
            begun[name] = pool.submit(run_after, [begun[POSTGRES]], name, fill, watch, done="ready")
        try:
            wait(begun.values())
        except KeyboardInterrupt:
            halted.set()
            raise
    for future in begun.values():
        future.result()


def require_alive(home: Path, names: Iterable[str]) -> None:
    """Raise ServiceFailed, with the last log lines, for a service that has ended since it was ready, and all others like it by name."""
    dead = [name for name in names if processes.running(home, name) is None]
    if dead:
        also = f", as did {', '.join(dead[1:])}" if dead[1:] else ""
        raise ServiceFailed(dead[0], f"ended after it had been ready{also}", processes.tail(home, dead[0]))


def down(
    home: Path, root: Path = ROOT, *, only: Sequence[str] | None = None, purge: bool = False, watch: Watch = nobody_watches
) -> list[str]:
    """Stop the services of the folder, those that others need last; the names of those that ran.

    `only`: names of the services meant, None for all. `purge`: stop all at once, and delete their data.
    """
    if not home.exists():
        return []
    services = described(read_worlds(root))
    meant = [service for service in services.values() if purge or only is None or service.name in only]
    with locked(home), ThreadPoolExecutor(max_workers=len(services)) as pool:
        gone = sorted(processes.all_remembered(home) - services.keys()) if purge or only is None else []
        # The services of a world whose folder was deleted meanwhile.
        stopped = [name for name in gone if stop(home, name, watch)]
        endings = {service.name: service.ending.without_order() if purge else service.ending for service in meant}
        for turn in sorted({ending.turn for ending in endings.values()}):
            wave = [name for name, ending in endings.items() if ending.turn == turn]
            ended = pool.map(lambda name: stop(home, name, watch, endings[name]), wave)
            stopped += [name for name, was_alive in zip(wave, ended, strict=True) if was_alive]
        if POSTGRES in [service.name for service in meant]:
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
    """Every service of the folder, each after those that it needs."""
    services = described(read_worlds(root))
    stack = without_own(list(services.values()), read_stack_settings(), root, home)
    return [state_of(home, service, is_elsewhere=service.is_elsewhere(stack.given)) for service in services.values()]


def state_of(home: Path, service: Description, *, is_elsewhere: bool) -> State:
    """One service as it is now."""
    remembered, alive = processes.remembered(home, service.name), processes.running(home, service.name)
    members = processes.family(home, service.name)
    ended = "elsewhere" if is_elsewhere else "stopped" if remembered is None else "dead"
    return State(
        name=service.name,
        state=ended if alive is None else "running",
        pid=None if alive is None else alive.pid,
        port=None if alive is None else alive.port,
        url="" if alive is None else alive.url,
        rss_mb=processes.resident_mb(members) if members else None,
        is_page=service.is_page,
    )
