"""The how-to of serving a model, done to the letter: the service as a process of its own, asked by `curl` and by the client."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline_assets.core.connections import online
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.local_stack.ports import free_port
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import feeds_of
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.model_rows import small_model
from pipeline_assets_tests.online_departures import PROJECT
from pipeline_assets_tests.served_models import promote, put_package
from pipeline_assets_tests.stack_env import write_stack_env
from pipeline_assets_tests.stream_records import until

ROOT = Path(__file__).resolve().parents[5]
PAGE = (ROOT / "docs" / "how-to" / "serve-a-model.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = Path(sys.executable).parent
UP = "pipeline up "


class Reader:
    """Somebody who follows the page: its blocks by language, with the port of their service, and their key once they have one."""

    def __init__(self, home: Path, port: int) -> None:
        self.port, self.key = port, ""
        path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {
            f"{PREFIX}HOME": str(home),
            f"{PREFIX}SERVE_PORT": str(port),
            f"{PREFIX}USE_CASES": "nyc_flights",
            "PATH": path,
        }

    def blocks(self, language: str) -> list[str]:
        """The page's blocks of a language."""
        return [text.replace("8700", str(self.port)) for kind, text in BLOCK.findall(PAGE) if kind == language]

    def shell(self, text: str) -> str:
        """What a block of commands prints."""
        environment = self.environment | {"KEY": self.key}
        return subprocess.run(["bash", "-ec", text], env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def reader(isolated: Settings, tmp_path: Path) -> Iterator[Reader]:
    """A reader whose stack has views online, and version 3 of the reference model live; `pipeline serve` runs in a process."""
    write_stack_env(isolated, tmp_path)
    with online(isolated) as connection:
        for feed in feeds_of(PROJECT, read_manifest(project_folder())):
            store.go_live(connection, store.begin(connection, feed))
    put_package(isolated, small_model(flight_delay.name), 3, 3)
    promote(isolated, flight_delay, 3)
    reader = Reader(tmp_path, free_port())
    with (tmp_path / "service.log").open("wb") as log:
        process = subprocess.Popen([PROGRAMS / "pipeline", "serve"], env=reader.environment, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or is_ready(reader.port), seconds=90)
        assert process.poll() is None, (tmp_path / "service.log").read_text()
        yield reader
    finally:
        process.terminate()
        assert process.wait(30) == 0


def is_ready(port: int) -> bool:
    """The service answers."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def test_the_page_works_to_the_letter(reader: Reader, tmp_path: Path) -> None:
    """Each command and each line of Python, in their order; all that is not there is `pipeline up`, in whose place the service runs."""
    up, keys, predict = reader.blocks("bash")
    ready = json.loads(reader.shell("\n".join(line for line in up.splitlines() if not line.startswith(UP))))
    reader.key = reader.shell(f"{keys}\necho $KEY").strip()
    found = json.loads(reader.shell(predict))["predictions"]
    asked = json.loads(predict[predict.index("{") : predict.rindex("}") + 1])
    space: dict[str, Any] = {"key": reader.key, "instance": asked["instances"][0]}
    exec(reader.blocks("python")[0], space)  # noqa: S102 - the page's own code
    shown = json.loads(reader.blocks("json")[0].replace("…", "00"))["predictions"][0]

    assert ready["ready"] is True
    assert shown.keys() == found[0].keys()
    assert (found[0]["model_version"], found[0]["features_from"]) == (3, "online")
    assert set(found[0]["feature_status"].values()) == {"unknown"}
    assert space["answer"].score == found[0]["score"]
    assert reader.key not in (tmp_path / "service.log").read_text()


def test_slow_and_silent_clients_hold_nobody_up(reader: Reader) -> None:
    """Two hundred that send a byte now and then, and eight hundred that say nothing: others are answered, and these are closed soon."""
    reader.key = reader.shell("pipeline serve-keys create slow --role read").strip()
    head = f"POST /v1/models/flight_delay:predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {reader.key}\r\nContent-Length: 500\r\n"
    address = "127.0.0.1", reader.port
    with ExitStack() as opened:
        slow = [opened.enter_context(socket.create_connection(address)) for _ in range(200)]
        silent = [opened.enter_context(socket.create_connection(address)) for _ in range(800)]
        for one in slow:
            one.sendall(head.encode())
        asked = [httpx.get(f"http://127.0.0.1:{reader.port}/v2/health/ready", timeout=5).status_code for _ in range(20)]
        closed = until(lambda: [one for one in (*slow, *silent) if is_over(one)], lambda found: len(found) == 1_000, seconds=30)

    assert asked == [200] * 20
    assert len(closed) == 1_000


def is_over(connection: socket.socket) -> bool:
    """The other side has ended the connection, maybe with an answer before."""
    connection.setblocking(False)
    try:
        return connection.recv(4_096, socket.MSG_PEEK) == b"" or connection.recv(4_096).startswith(b"HTTP/1.1 4")
    except BlockingIOError:
        return False
    except OSError:
        return True
