"""Folders and users that a stack has to live with: a path of any characters, a home that was moved, a user who is not root."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.settings import Settings
from pipeline_assets.local_stack import processes, stack
from pipeline_assets.local_stack.plan import KAFKA, POSTGRES, S3
from pipeline_assets.local_stack.settings import port_setting
from pipeline_assets_tests.stack_services import FREE, start

# All that a path may have and a shell, a properties file, a class path, a list, or a URL reads as something else.
ODD = "größe ünï 数据 😀, a:b=c #d %41 ${HOME} \\u0041 'e' \"f\""
SERVICES, OF_USER = (POSTGRES, S3, KAFKA), (POSTGRES, S3)
AS_USER = (
    ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"],
    # For machines that allow no user namespaces; here the user must be able to reach the checkout.
    ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"],
)


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Where a stack lives, and where it is moved to; stopped at the end wherever it is."""
    before, after = tmp_path / ODD, tmp_path / "moved 家 ünï"
    yield before, after
    for home in (before, after):
        stack.down(home, purge=True)


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A folder for a stack that every user may write to."""
    with tempfile.TemporaryDirectory(prefix="pipeline-home-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)
        stack.down(Path(folder), purge=True)


def put(settings: Settings) -> None:
    """Something in each service."""
    with psycopg.connect(settings.warehouse_dsn.get_secret_value()) as warehouse:
        warehouse.execute("create table kept (number int)")
    object_store(settings).put_object(Bucket=settings.s3_bucket, Key="kept ünï", Body=b"whole")
    topics = AdminClient(client_config(settings))
    for created in topics.create_topics([NewTopic("kept", 1, 1)]).values():
        created.result(timeout=30)


def found(settings: Settings) -> tuple[int | None, bytes, bool]:
    """What is there of it: rows' number, bytes, whether the topic exists."""
    with psycopg.connect(settings.warehouse_dsn.get_secret_value()) as warehouse:
        rows = warehouse.execute("select 0 from kept").rowcount
    body = object_store(settings).get_object(Bucket=settings.s3_bucket, Key="kept ünï")["Body"].read()
    topics = AdminClient(client_config(settings)).list_topics(timeout=30).topics
    return rows, body, "kept" in topics


def test_a_home_of_any_characters_works_and_keeps_its_data_when_it_is_moved(
    homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: Java read paths beyond ASCII as others; the object store did not start, and Kafka wrote to a folder beside the home.

    The starter's locale is plain C, as of a service manager; all that was written is below the home, and is there after a move.
    """
    before, after = homes
    monkeypatch.setenv("LC_ALL", "C")
    put(start(before, *SERVICES))
    siblings = {path.name for path in before.parent.iterdir()}
    stack.down(before)
    before.rename(after)

    assert siblings == {before.name}
    assert found(start(after, *SERVICES)) == (0, b"whole", True)
    assert not before.exists()


def as_ordinary_user() -> list[str]:
    """The beginning of a command that runs as somebody else than root; nothing where the tests do already."""
    if os.geteuid() != 0:
        return []
    probe = [sys.executable, "-c", "import os, pipeline_assets; assert os.geteuid() != 0"]
    for prefix in AS_USER:
        if subprocess.run([*prefix, *probe], check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return prefix
    pytest.fail("Root can run nothing as another user here: allow user namespaces, or put the checkout where uid 65534 can read it.")


def test_the_stack_runs_as_an_ordinary_user(open_home: Path) -> None:
    """PostgreSQL and the object store start, work and stop for a user who is not root and owns the home alone."""
    ports = {port_setting(name): "0" for name in FREE}
    environment = {**os.environ, **ports, "PIPELINE_HOME": str(open_home)}
    command = [*as_ordinary_user(), sys.executable, "-m", "pipeline_assets.local_stack"]
    services = [part for name in OF_USER for part in ("--service", name)]

    up = subprocess.run([*command, "up", *services], env=environment, capture_output=True, text=True, check=False)
    users = {name: {process.uids().effective for process in processes.family(open_home, name)} for name in OF_USER}
    down = subprocess.run([*command, "down", "--purge"], env=environment, capture_output=True, text=True, check=False)

    assert (up.returncode, down.returncode) == (0, 0), up.stdout + up.stderr + down.stdout + down.stderr
    assert all(len(each) == 1 for each in users.values()), users
    assert len(set.union(*users.values())) == 1, users
    assert not (open_home / POSTGRES).exists()
