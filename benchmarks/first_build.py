"""What the first build of features and vectors takes: five months of flights, all views and models, in a stack of its own.

    python -m benchmarks.first_build [FOLDER …]

Of this checkout, and of others whose folders are given, in turn: three rounds, each in a process of its own, with the tables of the one
before removed. Says the processor time of the process, its imports among it, and of the object store, and the memory that the process took
at most. The clock is shown, but says little where other work runs. Other checkouts read the cleaned tables that this one has written, and
take its environment.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

ROUNDS, FIRST, LAST, VECTORS = 3, date(2013, 1, 1), date(2013, 5, 31), 137_823
HERE = Path(__file__).parents[1]
Figures = dict[str, float]


def build(home: Path) -> Figures:
    """Makes all features and vectors; seconds of the clock and of the processor, and megabytes at most."""
    began = time.perf_counter()
    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.core.settings import read_settings
    from pipeline_assets.model_lifecycle.feature_store.offline import materialize_vectors
    from pipeline_assets.processing.features.materialize import materialize_view

    settings, project = read_settings(home), load_project()
    models = [project.model(name) for name in ("flight_delay", "arrival_delay")]
    for view in models[0].views:
        materialize_view(settings, view, models, FIRST, LAST)
    made = [materialize_vectors(settings, model, FIRST, LAST).observations for model in models]
    if made != [VECTORS] * len(models):
        raise SystemExit(f"{made} vectors were made, not {VECTORS} for each model.")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"clock": time.perf_counter() - began, "process": time.process_time(), "megabytes": most}


@contextmanager
def cleaned_tables(home: Path) -> Iterator[int]:
    """A stack whose lake has the cleaned tables of the flights until the last day, as dbt would make them; the process of its store."""
    from pipeline_assets.core.settings import StackSettings
    from pipeline_assets.local_stack import stack
    from pipeline_assets.local_stack.plan import POSTGRES, S3
    from pipeline_assets_tests import january
    from pipeline_assets_tests.stack_env import write_stack_env

    try:
        settings = stack.up(home, only=(POSTGRES, S3), with_history=False, stack=StackSettings(ports=stack.free_ports(), given={}))
        with patch.object(january, "UNTIL", date(2013, 6, 1)):
            january.store(settings, january.cleaned_tables())
        write_stack_env(settings, home)
        yield int(json.loads((home / "run" / f"{S3}.json").read_text())["pid"])
    finally:
        stack.down(home, purge=True)


def remove_made(home: Path) -> None:
    """Removes the tables of features and vectors."""
    from pipeline_assets.core import connections, names
    from pipeline_assets.core.iceberg import tables_of
    from pipeline_assets.core.settings import read_settings

    with connections.catalog(read_settings(home)) as catalog:
        for table in (*tables_of(catalog, names.FEATURES), *tables_of(catalog, names.FEATURE_STORE)):
            catalog.drop_table(table.name())


def processor_seconds(process: int) -> float:
    """What a running process has taken of the processor."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(checkout: Path, home: Path, store: int) -> Figures:
    """One round of a checkout."""
    remove_made(home)
    before = processor_seconds(store)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, str(Path(__file__)), "--build", str(home)]
    # A setting that older checkouts need, and that nothing here uses.
    environment |= {"PYTHONPATH": str(checkout), "PIPELINE_CONNECT_SECRETS": "unused"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found | {"store": processor_seconds(store) - before}


def main() -> None:
    """Measures, and prints the medians of each checkout."""
    checkouts = [HERE, *(Path(given).resolve() for given in sys.argv[1:])]
    found: dict[Path, list[Figures]] = {checkout: [] for checkout in checkouts}
    with TemporaryDirectory() as folder, cleaned_tables(Path(folder) / "stack") as store:
        for _ in range(ROUNDS):
            for checkout, own in found.items():
                own.append(measured(checkout, Path(folder) / "stack", store))
    print(f"{VECTORS:,} vectors of two models and their seven views, made the first time, medians of {ROUNDS}:")
    for checkout, own in found.items():
        middle = {name: median(one[name] for one in own) for name in own[0]}
        total = middle["process"] + middle["store"]
        parts = f"{middle['process']:.1f} s of the process, {middle['store']:.1f} s of the store"
        print(f"  {checkout.name}: {total:.1f} s ({parts}), {middle['megabytes']:.0f} MB, {middle['clock']:.1f} s of the clock")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--build"]:
        print(json.dumps(build(Path(sys.argv[2]))))
    else:
        main()
