"""What dbt needs beside its project: the warehouse's place, told by its environment alone, and a folder for each run.

Nothing of the warehouse stands in a file or in the list of processes: `profiles.yml` reads it from the environment.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from tempfile import mkdtemp

from pipeline_assets.core.settings import WarehouseSettings, environment_of_children, home_folder, read_code_settings, read_part

PROJECT = read_code_settings().dbt_project
PROGRAM = Path(sys.executable).with_name("dbt")
# dbt for a run, with which it ends: `dbt_process.py`.
PROGRAM_OF_RUNS = Path(sys.executable).with_name("pipeline-dbt")
PARSED = "partial_parse.msgpack"
# The parts of a DSN, with what libpq takes for those left out.
PARTS = {"host": "", "port": "5432", "user": "", "dbname": "", "sslmode": "prefer", "sslcert": "", "sslkey": "", "sslrootcert": ""}
# Enough to read the project with, which connects to nothing.
NOWHERE = {f"PIPELINE_DBT_{part.upper()}": "0" for part in PARTS} | {"DBT_ENV_SECRET_PASSWORD": ""}
KEPT = timedelta(days=7)


def variables(settings: WarehouseSettings) -> dict[str, str]:
    """What `profiles.yml` reads from the environment: the parts of the warehouse's DSN.

    dbt keeps the value of a variable that begins with `DBT_ENV_SECRET_` out of all that it prints and writes.
    """
    from psycopg.conninfo import conninfo_to_dict

    told = {name: str(value) for name, value in conninfo_to_dict(settings.warehouse_dsn.get_secret_value()).items()}
    parts = {f"PIPELINE_DBT_{part.upper()}": told.get(part, default) for part, default in PARTS.items()}
    return parts | {"DBT_ENV_SECRET_PASSWORD": told.get("password", "")}


def between(first: date, last: date) -> list[str]:
    """The arguments that bound a run of dbt to the UTC days from `first` to `last`, both inclusive; dbt's own end is exclusive."""
    return ["--event-time-start", first.isoformat(), "--event-time-end", (last + timedelta(days=1)).isoformat()]


@contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """A folder for one run, with what the last run parsed; removed afterwards, unless the run failed, for its log and SQL tell why.

    The parse at set-up does not serve here: dbt parses anew (1.3 s) where the connection is another.
    """
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
    sys.exit(subprocess.run([PROGRAM, *sys.argv[1:]], cwd=PROJECT, env=by_hand, check=False).returncode)  # noqa: S603 - what was typed
