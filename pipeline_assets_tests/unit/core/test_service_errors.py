"""Commands whose services are away, or cannot do what they are asked: one sentence, whatever library asked them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import boto3
import httpx
import pyarrow.fs as pafs
import pytest
import requests
from adbc_driver_postgresql import dbapi
from confluent_kafka import KafkaError, KafkaException
from mlflow.exceptions import MlflowException
from psycopg import connect, errors
from sqlalchemy import create_engine

from pipeline_assets.core import connections
from pipeline_assets.core.service_errors import ServiceUnusable, errors_of_services
from pipeline_assets.core.settings import PREFIX, STACK_ENV, read_settings
from pipeline_assets.local_stack.ports import free_port

PATIENCE_SECONDS = 60.0
DAY = "2013-05-01"
COMMANDS = [
    "models list", "models history flight_delay", "models promote flight_delay 1 --reason trial", "models alias-drift flight_delay",
    "models training-set flight_delay --version 1 --out {folder}/set.parquet", "quarantine list", "quarantine show 1",
    "quarantine replay --source weather", "audit parts", "audit lake", "audit sources", "lake rebuild lake.trips",
    f"features stale --model flight_delay --first {DAY} --last {DAY}", "features parity --model flight_delay", "features forgotten",
    "features forget carrier UA --yes", "features online status", "explain 01a23145-f784-7b40-bb5b-8d62fdb0298a",
]  # fmt: skip
DSN = "postgresql://somebody:hidden-password@127.0.0.1:{port}/nowhere"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stack whose services do not run: nobody listens at their port."""
    folder, port = tmp_path_factory.mktemp("home"), free_port()
    url, dsn = f"http://127.0.0.1:{port}", DSN.format(port=port)
    databases = {f"{kind}__{name}": dsn for kind in ("DATABASES", "OWNERS", "REPLICATION") for name in ("AIRLINE_OPS", "LEAGUE")}
    values = {
        **{f"{name}_DSN": dsn for name in ("WAREHOUSE", "ONLINE", "CATALOG", "DAGSTER", "MLFLOW")},
        **databases,
        **{f"{name}_URL": url for name in ("CONNECT", "MLFLOW", "DAGSTER", "SERVE")},
        "SERVICES__WEATHER__URL": url,
        "SERVICES__WEATHER__API_KEY": "key",
        "S3_ENDPOINT": url,
        "S3_REGION": "us-east-1",
        "S3_BUCKET": "pipeline",
        "S3_ACCESS_KEY": "key",
        "S3_SECRET_KEY": "secret",
        "KAFKA_BOOTSTRAP": f"127.0.0.1:{port}",
    }
    (folder / STACK_ENV).write_text("".join(f"{PREFIX}{name}={value}\n" for name, value in values.items()))
    return folder


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(words.split()[:3]) for words in COMMANDS])
def test_a_command_whose_services_do_not_run_ends_with_a_sentence(home: Path, tmp_path: Path, words: str) -> None:
    """Regression: most ended in a trace of the library that had asked; the audit of topics waited for each by itself, for five minutes."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    code = "import sys; from pipeline_assets.cli import main; sys.argv[0] = 'pipeline'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words.format(folder=tmp_path).split()],
        env={**own, f"{PREFIX}HOME": str(home)}, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert ("Traceback" in done.stderr, "hidden-password" in done.stderr) == (False, False)
    assert list(tmp_path.iterdir()) == []


def fail(error: Exception) -> None:
    """Raises what a library makes of an answer."""
    raise error


def boto(url: str) -> None:
    """Asks by boto3."""
    session = boto3.Session("key", "secret", region_name="us-east-1")
    session.client("s3", endpoint_url=url).list_buckets()


def arrow(url: str) -> None:
    """Asks by Arrow."""
    store = pafs.S3FileSystem(endpoint_override=url.removeprefix("http://"), scheme="http", access_key="key", secret_key="secret")  # noqa: S106
    store.get_file_info("bucket/key")


# By the library: the service that it asks, and how, by an address or a DSN where nobody listens.
LIBRARIES: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "psycopg": ("PostgreSQL", lambda _, dsn: connect(dsn)),
    "full disk": ("PostgreSQL", lambda *_: fail(errors.DiskFull("could not extend file\nHINT:  Check free disk space."))),
    "adbc": ("PostgreSQL", lambda _, dsn: dbapi.connect(dsn)),
    "sqlalchemy": ("PostgreSQL", lambda _, dsn: create_engine(dsn.replace("postgresql", "postgresql+psycopg")).connect()),
    "boto3": ("The object store", lambda url, _: boto(url)),
    "arrow": ("The object store", lambda url, _: arrow(url)),
    "kafka": ("Kafka", lambda *_: fail(KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN)))),  # noqa: SLF001 - as the library names it
    "mlflow": ("MLflow", lambda *_: fail(MlflowException("No space left"))),
    "httpx": ("A service", lambda url, _: httpx.get(url)),
    "requests": ("A service", lambda url, _: requests.get(url, timeout=1)),
}


@pytest.mark.parametrize(("service", "asked"), LIBRARIES.values(), ids=LIBRARIES)
def test_what_a_library_says_of_a_service_is_a_sentence_with_the_service(service: str, asked: Callable[[str, str], object]) -> None:
    """In one line that says what to do, without a password."""
    port = free_port()
    with pytest.raises(ServiceUnusable) as refused, errors_of_services():
        asked(f"http://127.0.0.1:{port}", DSN.format(port=port))

    said = str(refused.value)
    assert said.startswith(f"{service} cannot do what it is asked: ")
    assert ("`pipeline up`" in said, "\n" in said, "hidden-password" in said) == (True, False, False)


def test_mlflow_is_waited_for_less_than_a_minute(home: Path) -> None:
    """Regression: its client tried for more than four minutes, without a word."""
    began = monotonic()
    with pytest.raises(ServiceUnusable, match="MLflow"), errors_of_services():
        connections.tracking(read_settings(home)).search_experiments()

    assert monotonic() - began < PATIENCE_SECONDS


def test_a_fault_of_the_platform_itself_keeps_its_trace() -> None:
    """A statement that no server could run, and a wrong type, are bugs."""
    with pytest.raises(errors.SyntaxError), errors_of_services():
        raise errors.SyntaxError("at or near")
    with pytest.raises(TypeError), errors_of_services():
        fail(TypeError("no text"))


@contextmanager
def hanging() -> Iterator[int]:
    """A port at which somebody takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("service", ["The object store", "MLflow"])
def test_a_service_that_hangs_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """Regression: after three minutes in the one, after sixteen in the other; here each try takes a second."""
    for name, value in {"TRACKING_RETRIES": 1, "TRACKING_SECONDS": 1, "STORE_TRIES": 2, "STORE_SECONDS": 1}.items():
        monkeypatch.setattr(connections, name, value)
    began = monotonic()
    with hanging() as port:
        url = f"http://127.0.0.1:{port}"
        settings = read_settings(home).model_copy(update={"mlflow_url": url, "s3_endpoint": url})
        asked = (
            connections.tracking(settings).search_experiments if service == "MLflow" else connections.object_store(settings).list_buckets
        )
        with pytest.raises(ServiceUnusable, match=service), errors_of_services():
            asked()

    assert 1 < monotonic() - began < PATIENCE_SECONDS
