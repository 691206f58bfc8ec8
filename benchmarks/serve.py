"""How many predictions a second the service gives, and how long they take, beside MLflow's own server with the same model.

    python -m benchmarks.serve [--no-peers]

On a stack of its own the online store has four weeks of events for the seven views of the reference model, and a model of its size is live.
One worker of the service is asked over HTTP by a process of its own: as fast as it answers, at half of that, at ten times that, and with a
hundred rows a request; then two workers as fast as they answer. Then MLflow's server, which reads no features, gets the vectors themselves
for the same booster. Everything shares two cores.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks import online as store_bench
from benchmarks.shared.online_rows import declared, questions
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import PREFIX, Settings, StackSettings
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.plan import KAFKA, POSTGRES, S3
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.model_lifecycle.training.candidate import Candidate, train_candidate
from pipeline_assets.model_lifecycle.training.dataset import build_training_set
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.serving.realtime.package import files_of, write_package
from pipeline_assets.serving.realtime.selftest import golden_rows
from pipeline_assets.spec.models import Model
from pipeline_assets_tests.model_rows import AS_OF, START, labels, record_of, vectors

MODEL, PORT, BODIES, SECONDS, CONNECTIONS = "flight_delay", 18_700, 2_000, 10.0, 32
PATIENCE_SECONDS, MANY = 60.0, 100


def learned(model: Model) -> tuple[Candidate, Scorer]:
    """A model with as many trees as the reference model has, learned from generated vectors."""
    quick = replace(
        model, split=replace(model.split, train=timedelta(days=21), validation=timedelta(days=3.5), holdout=timedelta(days=3.5))
    )
    asked = vectors(quick, 6_000)
    rows = build_training_set(quick, asked, labels(quick, asked), AS_OF)
    found = train_candidate(quick, record_of(quick, rows), rows, lambda _: None)
    contract = replace(found.contract, model=model.name)
    return found, Scorer.load(found.fitted.artifact, contract)


def publish(settings: Settings, model: Model) -> tuple[Candidate, Scorer]:
    """Puts the package of version 1, and makes it live."""
    found, scorer = learned(model)
    rows = golden_rows(model, vectors(model, 200), [one.name for one in scorer.contract.features])
    write_package(settings, model.name, 1, files_of(scorer, found.fitted.artifact, rows))
    ledger.promote(settings, model, ledger.Decision(version=1, actor="bench", reason="bench", live_from=START), expected_version=None)
    return found, scorer


def bodies(rows: int, count: int) -> list[dict[str, Any]]:
    """Requests about random entities."""
    random, found = np.random.default_rng(rows), []
    for _ in range(count):
        asked = questions(random, rows).to_pylist()
        fields = {"scheduled_departure_at": "2013-06-01T21:30:00Z", "distance_miles": 2454, "planned_minutes": 360.5}
        found.append({"instances": [{**one, **fields} for one in asked]})
    return found


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks, with a key, from bodies in a file of a folder."""

    folder: Path
    key: str

    def load(
        self, url: str, asked: Sequence[dict[str, Any]], *, rate: float = 0.0, seconds: float = SECONDS, connections: int = CONNECTIONS
    ) -> dict[str, Any]:
        """Asks in a process of its own; what `benchmarks.http_load` prints."""
        file = self.folder / "bodies.jsonl"
        file.write_text("".join(f"{json.dumps(one)}\n" for one in asked), encoding="utf-8")
        how = [f"--rate={rate}", f"--seconds={seconds}", f"--connections={connections}", f"--header=Authorization: Bearer {self.key}"]
        command = [sys.executable, "-m", "benchmarks.http_load", url, str(file), *how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@contextmanager
def serving(home: Path, ready: str, command: Sequence[str], **environment: str) -> Iterator[tuple[psutil.Process, float]]:
    """A server, once it answers; with how long it took."""
    began = time.monotonic()
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while not answers(ready):
            if process.poll() is not None or time.monotonic() - began > PATIENCE_SECONDS:
                raise SystemExit((home / "server.log").read_text(encoding="utf-8")[-4000:])
            time.sleep(0.02)
        yield psutil.Process(process.pid), time.monotonic() - began
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def answers(url: str) -> bool:
    """Whether a page says 200."""
    try:
        return httpx.get(url, timeout=1).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def memory_mb(process: psutil.Process) -> list[float]:
    """Resident memory of a process and each of its children."""
    return [one.memory_info().rss / 1e6 for one in (process, *process.children(recursive=True))]


def measure(folder: Path, settings: Settings) -> dict[str, Any]:
    """Prints the figures of the service; gives those at its peak."""
    url = f"http://127.0.0.1:{PORT}"
    environment = {f"{PREFIX}HOME": str(settings.home), f"{PREFIX}SERVE_PORT": str(PORT), f"{PREFIX}USE_CASES": "nyc_flights"}
    program = str(Path(sys.executable).with_name("pipeline"))
    make = (program, "serve-keys", "create", "bench", "--role", "predict")
    key = subprocess.run(make, env=os.environ | environment, capture_output=True, text=True, check=True).stdout.strip()
    load = Caller(folder=folder, key=key).load
    predict, ones, many = f"{url}/v1/models/{MODEL}:predict", bodies(1, BODIES), bodies(MANY, 100)
    with serving(folder, f"{url}/v2/health/ready", (program, "serve"), **environment) as (process, took):
        print(f"  ready after {took:.2f} s (3 wanted); memory {' + '.join(f'{one:.0f}' for one in memory_mb(process))} MB")
        load(predict, ones, seconds=3)
        peak = load(predict, ones)
        print(f"  peak: {peak}")
        rate = peak["answers_per_second"]
        print(f"  at half: {load(predict, ones, rate=rate / 2)} (p50 3 ms and p99 10 ms wanted)")
        for asked in (100, 300):
            print(f"  at {asked} a second: {load(predict, ones, rate=asked)}")
        print(f"  at ten times: {load(predict, ones, rate=rate * 10, connections=256)}")
        print(f"  {MANY} rows: {load(predict, many, rate=10)} (p99 20 ms wanted)")
        print(f"  memory {' + '.join(f'{one:.0f}' for one in memory_mb(process))} MB (300 a worker wanted)")
    with serving(folder, f"{url}/v2/health/ready", (program, "serve"), **environment, **{f"{PREFIX}SERVE_WORKERS": "2"}):
        load(predict, ones, seconds=3)
        both = load(predict, ones, connections=2 * CONNECTIONS)
        print(f"  two workers: {both['answers_per_second'] / rate:.2f} times as many answers (1.6 wanted): {both}")
    return peak


def measure_mlflow(folder: Path, scorer: Scorer, peak: dict[str, Any]) -> None:
    """Prints the figures of MLflow's server with the same booster, which gets vectors, at the best of three numbers of connections."""
    import mlflow

    names = [one.name for one in scorer.contract.features]
    mlflow.xgboost.save_model(scorer.booster, folder / "mlflow")
    url, rows = f"http://127.0.0.1:{PORT}", np.random.default_rng(3).random((BODIES, len(names))).round(6)
    asked = [{"dataframe_split": {"columns": names, "data": [row]}} for row in rows.tolist()]
    serve = ("models", "serve", "-m", str(folder / "mlflow"), "-p", str(PORT), "-w", "1", "--env-manager", "local")
    with serving(folder, f"{url}/ping", (str(Path(sys.executable).with_name("mlflow")), *serve)):
        load = Caller(folder=folder, key="none").load
        load(f"{url}/invocations", asked, seconds=3)
        found = [load(f"{url}/invocations", asked, connections=connections) for connections in (8, 16, CONNECTIONS)]
    best = max(found, key=lambda one: float(one["answers_per_second"]))
    print(f"  MLflow's server: {best}")
    ratio, slower = (peak["answers_per_second"] / best["answers_per_second"], best["answered"]["p99_ms"] / peak["answered"]["p99_ms"])
    print(f"  {ratio:.1f} times as many answers as MLflow's server (6 wanted), whose p99 is {slower:.1f} times as long")


def main() -> None:
    """Starts a stack, fills it, and measures."""
    project, feeds = declared()
    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            settings = stack.up(
                folder / "stack", only=(POSTGRES, S3, KAFKA), with_history=False, stack=StackSettings(ports=stack.free_ports(), given={})
            )
            scorer = prepare(settings, project, feeds)
            peak = measure(folder, settings)
            if "--no-peers" not in sys.argv:
                measure_mlflow(folder, scorer, peak)
        finally:
            stack.down(folder / "stack", purge=True)


def prepare(settings: Settings, project: Project, feeds: Sequence[Feed]) -> Scorer:
    """Puts four weeks of events into the store, and makes a model live."""
    now = datetime.now(UTC)
    store_bench.fill(settings, feeds, now - store_bench.SPAN, now)
    return publish(settings, project.model(MODEL))[1]


if __name__ == "__main__":
    main()
