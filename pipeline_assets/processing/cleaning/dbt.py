"""What dbt needs beside its project: the address of the warehouse, passed by environment variables alone, and a folder for each run.

Nothing of the warehouse stands in a file or in the list of processes: `profiles.yml` reads it from the environment.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeVar

from pipeline_assets.core.connections import limits_of
from pipeline_assets.core.dsn import libpq_environment, read_address, with_settings
from pipeline_assets.core.settings import (
    SHIPPED,
    WAREHOUSE_DSN,
    WarehouseSettings,
    environment_of_children,
    home_folder,
    read_code_settings,
    read_part,
)

T = TypeVar("T")
PROGRAM = Path(sys.executable).with_name("dbt")
# dbt for a run, with which it ends: `dbt_process.py`.
PROGRAM_OF_RUNS = Path(sys.executable).with_name("pipeline-dbt")
LIBRARY = "dbt"
PARSED = "partial_parse.msgpack"
# What dbt reads of a project, and the folders that it makes there.
READ, MADE = frozenset({".sql", ".yml", ".yaml", ".md", ".csv", ".py"}), frozenset({"target", "logs", "dbt_packages"})
# The parts of a DSN that a profile of dbt has, with what libpq takes for those left out.
PARTS = {"host": "", "port": "5432", "user": "", "dbname": "", "sslmode": "prefer", "sslcert": "", "sslkey": "", "sslrootcert": ""}
# Enough to read the project with, which connects to nothing.
NOWHERE = {f"PIPELINE_DBT_{part.upper()}": "0" for part in PARTS} | {"DBT_ENV_SECRET_PASSWORD": ""}
# Settings of a session on which casts of times and texts depend: those of dbt and of whoever else derives rows are the same.
SESSION = {"timezone": "UTC", "datestyle": "ISO,MDY", "intervalstyle": "postgres", "extra_float_digits": "1", "bytea_output": "hex"}
KEPT = timedelta(days=7)


def project_folder() -> Path:
    """The dbt project of this code location."""
    return read_code_settings().dbt_project


def target_folder(project: Path) -> Path:
    """Where the manifest of a dbt project is kept: its own `target`; of one that was installed or is read-only, below `PIPELINE_HOME`."""
    own = project / "target"
    is_ours = not project.is_relative_to(SHIPPED) and os.access(own if own.exists() else project, os.W_OK)
    return own if is_ours else home_folder() / "dbt" / "target"


def variables(settings: WarehouseSettings) -> dict[str, str]:
    """What `profiles.yml` reads from the environment, the parts of the warehouse's DSN, and what else it says for libpq, with `SESSION`.

    dbt keeps the value of a variable that begins with `DBT_ENV_SECRET_` out of all that it prints and writes. Raises SettingNotSupported.
    """
    address = read_address(WAREHOUSE_DSN, settings.warehouse_dsn)
    ports = {port for _, port in address.hosts}
    if len(ports) > 1:
        raise address.refused("port", LIBRARY, "It takes one port for all hosts: let them listen at the same one.")
    place = {"host": ",".join(host for host, _ in address.hosts), "port": ports.pop(), "user": address.user, "dbname": address.database}
    parts = {**PARTS, **{name: value for name, value in address.parameters.items() if name in PARTS}, **place}
    profile = {f"PIPELINE_DBT_{part.upper()}": value for part, value in parts.items()}
    password = {"DBT_ENV_SECRET_PASSWORD": address.parameters.get("password", "")}
    others = libpq_environment(address, frozenset(PARTS), LIBRARY)
    options = with_settings(others.get("PGOPTIONS", ""), limits_of(settings).values)
    options = " ".join([options, *(f"-c {name}={value}" for name, value in SESSION.items())])
    return others | {"PGOPTIONS": options} | profile | password


def between(first: date, last: date) -> list[str]:
    """The arguments that bound a run of dbt to the UTC days from `first` to `last`, both inclusive; dbt's own end is exclusive."""
    return ["--event-time-start", first.isoformat(), "--event-time-end", (last + timedelta(days=1)).isoformat()]


@contextmanager
def run_folder(folder: Path, project: Path) -> Iterator[Path]:
    """A folder for one run, with what was parsed of the same project; removed afterwards, unless the run failed: log and SQL explain why.

    The same by its contents: dbt takes a file for unchanged whose time of change it has seen before, as where an older copy was put back.
    The parse at set-up does not serve here: dbt parses anew (1.3 s) where the connection is another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("run-*"):
        if old.stat().st_mtime < time.time() - KEPT.total_seconds():
            shutil.rmtree(old, ignore_errors=True)
    target = Path(mkdtemp(prefix="run-", dir=folder))
    kept = folder / f"{project_digest(project)}-{PARSED}"
    with suppress(FileNotFoundError):
        shutil.copy(kept, target / PARSED)
    yield target
    (target / PARSED).replace(kept)
    for other in set(folder.glob(f"*{PARSED}")) - {kept}:
        other.unlink(missing_ok=True)
    shutil.rmtree(target)


def project_digest(project: Path) -> str:
    """A digest of the files of a project, by their names and contents; what dbt makes of them is none of them."""
    found = sha256()
    for file in sorted(project.rglob("*")):
        if file.is_file() and file.suffix in READ and file.relative_to(project).parts[0] not in MADE:
            found.update(f"{file.relative_to(project)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def read_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The items in their order, read by a thread, so that who makes them does not wait for who takes them; an error comes after them.

    Nobody waits for the thread if the items are not taken to their end: it ends with them.
    """
    from concurrent.futures import ThreadPoolExecutor
    from queue import SimpleQueue

    queue: SimpleQueue[T | _End] = SimpleQueue()

    def read() -> None:
        try:
            for item in items:
                queue.put(item)
        finally:
            queue.put(_End())

    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read_ahead")
    reading = reader.submit(read)
    reader.shutdown(wait=False)
    while not isinstance(item := queue.get(), _End):
        yield item
    reading.result()


class _End:
    """What follows the last item."""


@contextmanager
def ending(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """The process has ended when this is left, however it is left."""
    with process:
        try:
            yield
        finally:
            process.terminate()


if __name__ == "__main__":
    # dbt by hand against the warehouse of the settings: `python -m pipeline_assets.processing.cleaning.dbt source freshness`.
    by_hand = environment_of_children(variables(read_part(WarehouseSettings, home_folder())))
    sys.exit(subprocess.run([PROGRAM, *sys.argv[1:]], cwd=project_folder(), env=by_hand, check=False).returncode)  # noqa: S603 - what was typed
