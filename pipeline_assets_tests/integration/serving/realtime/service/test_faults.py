"""The service as a process of its own, asked all the time while what it needs breaks, one after the other, and while it is killed.

MLflow runs in none of these tests: the service does not know of it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from operator import ne
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import httpx
import psutil
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from pipeline_assets.core.connections import online
from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.ingestion.streaming.capture.connectors import EVENT_PARTITIONS
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.local_stack.ports import free_port
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import feeds_of
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.key_file import create_key
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.faulty_connections import Proxy
from pipeline_assets_tests.model_rows import small_model
from pipeline_assets_tests.online_departures import PROJECT
from pipeline_assets_tests.served_models import FLIGHT, promote, put_package
from pipeline_assets_tests.silent_broker import silent
from pipeline_assets_tests.stack_env import environment_of
from pipeline_assets_tests.stream_records import consume, until

PREDICT, ASKING, PAUSE_SECONDS = f"/v1/models/{flight_delay.name}:predict", 3, 0.02
INSTANCE = {"origin": "EWR", "carrier": "AA", "dest": "LAX", "tailnum": "N1", **FLIGHT}
LATE = 0.5


@dataclass
class Load:
    """Clients that ask all the time: what was answered since `begin`, and when nobody listened."""

    url: str
    key: str
    answers: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    unheard: list[float] = field(default_factory=list)
    _stopped: Event = field(default_factory=Event)

    def ask(self) -> None:
        """Asks until `stop`; whoever finds nobody that listens, or is cut off, asks again."""
        with httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=30) as client:
            while not self._stopped.wait(PAUSE_SECONDS):
                try:
                    answer = client.post(PREDICT, json={"instances": [INSTANCE]})
                except httpx.TransportError:
                    self.unheard.append(monotonic())
                else:
                    self.answers.append((monotonic(), answer.status_code, answer.json()))

    def stop(self) -> None:
        """Has all end."""
        self._stopped.set()

    def since(self, began: float) -> list[dict[str, Any]]:
        """The predictions of requests that were answered after a moment."""
        return [body["predictions"][0] for at, status, body in tuple(self.answers) if at > began and status == httpx.codes.OK]

    def tiers(self, began: float) -> set[str]:
        """Where features of answers after a moment came from."""
        return {one["features_from"] for one in self.since(began)}


@dataclass
class Site:
    """A service in a process of its own, with the connections that it has; `settings` lead to the same past these."""

    settings: Settings
    home: Path
    postgres: Proxy
    objects: Proxy
    port: int
    key: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, and returns once it is ready."""
        own = self.settings.model_copy(
            update={
                "warehouse_dsn": past(self.settings.warehouse_dsn, self.postgres.port),
                "online_dsn": past(self.settings.online_dsn, self.postgres.port),
                "s3_endpoint": f"http://127.0.0.1:{self.objects.port}",
            }
        )
        variables = {f"{PREFIX}HOME": str(self.home), f"{PREFIX}SERVE_PORT": str(self.port), f"{PREFIX}USE_CASES": "nyc_flights"}
        with (self.home / "service.log").open("ab") as log:
            command = [str(Path(sys.executable).with_name("pipeline")), "serve"]
            self.process = subprocess.Popen(command, env=os.environ | environment_of(own) | variables, stdout=log, stderr=log)
        until(self.is_ready, seconds=90)

    def stop(self) -> None:
        """Ends it as an operator does."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(30) == 0

    def is_ready(self) -> bool:
        """It answers that it is ready; fails where the process has ended."""
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "service.log").read_text()
        try:
            return httpx.get(f"{self.url}/v2/health/ready", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def says(self) -> dict[str, Any]:
        """What it says of itself."""
        found: dict[str, Any] = httpx.get(f"{self.url}/v1/service", headers={"Authorization": f"Bearer {self.key}"}, timeout=30).json()
        return found

    def version(self) -> int | None:
        """The version that answers."""
        found: int | None = self.says()["workers"][0]["versions"][flight_delay.name]
        return found


def past(dsn: SecretStr, port: int) -> SecretStr:
    """The same database by another port on loopback."""
    return SecretStr(make_conninfo(dsn.get_secret_value(), host="127.0.0.1", port=port))


@pytest.fixture
def site(isolated: Settings, streams: Settings, tmp_path: Path) -> Iterator[Site]:
    """Views online, three versions of the reference model of which the first is live, and the service that runs."""
    settings = isolated.model_copy(update={"kafka_bootstrap": streams.kafka_bootstrap, "home": streams.home})
    ensure_topics(streams, [Topic(name=prediction_log.topic, partitions=EVENT_PARTITIONS)])
    with online(settings) as connection:
        for feed in feeds_of(PROJECT, read_manifest(project_folder())):
            store.go_live(connection, store.begin(connection, feed))
    for version in (1, 2, 3):
        put_package(settings, small_model(flight_delay.name), version, version)
    promote(settings, flight_delay, 1)
    database = int(str(conninfo_to_dict(settings.warehouse_dsn.get_secret_value())["port"]))
    _, key = create_key(tmp_path / "serve-keys.json", "load", [Role.PREDICT, Role.READ], lives=timedelta(days=1))
    postgres, objects = Proxy(database), Proxy(int(settings.s3_endpoint.rpartition(":")[2]))
    found = Site(settings=settings, home=tmp_path, postgres=postgres, objects=objects, port=free_port(), key=key)
    try:
        found.start()
        yield found
    finally:
        if found.process is not None and found.process.poll() is None:
            found.stop()
        postgres.close()
        objects.close()


@contextmanager
def load(site: Site) -> Iterator[Load]:
    """Clients that ask until the end of the block; any that failed otherwise than by the answer fails it."""
    found = Load(url=site.url, key=site.key)
    with ThreadPoolExecutor(ASKING) as threads:
        running = [threads.submit(found.ask) for _ in range(ASKING)]
        try:
            yield found
        finally:
            found.stop()
    assert [one.exception() for one in running] == [None] * ASKING


def lose_postgres(site: Site, asking: Load) -> None:
    """Down, then slow: features are stood in for, the ledger is missed, and both come back."""
    for fault in (site.postgres.down(), site.postgres.slow(LATE)):
        seen, began = (site.postgres.refused, site.postgres.delayed), monotonic()
        with fault:
            until(partial(asking.tiers, began), lambda tiers: bool(tiers - {"online"}), seconds=30)
            until(lambda: (site.postgres.refused, site.postgres.delayed), partial(ne, seen), seconds=30)
        until(lambda: asking.tiers(monotonic() - 0.5), lambda tiers: tiers == {"online"}, seconds=30)
        until(lambda: not site.says()["workers"][0]["problems"], seconds=30)


def lose_objects(site: Site, asking: Load) -> None:
    """Down as version 2 goes live: version 1 answers until its package can be had; slow as version 3 does: it comes later."""
    with site.objects.down():
        promote(site.settings, flight_delay, 2)
        until(lambda: site.says()["workers"][0]["model_problems"], seconds=60)
        assert site.version() == 1
        assert site.objects.refused > 0
    until(site.version, lambda version: version == 2, seconds=60)
    with site.objects.slow(LATE):
        promote(site.settings, flight_delay, 3)
        until(site.version, lambda version: version == 3, seconds=60)
        assert site.objects.delayed > 0
    assert {one["model_version"] for one in asking.since(0.0)} >= {1, 2}


def lose_kafka(site: Site) -> None:
    """It stands still for some seconds, then for half a second again and again: what is answered is on disk, and sent later, all of it."""
    with silent(site.settings):
        until(lambda: site.says()["log"], lambda log: log["away_since"] is not None and log["spooled"] > 0, seconds=30)
    until(lambda: site.says()["log"], lambda log: log["away_since"] is None, seconds=30)
    before = site.says()["log"]["delivered"]
    for _ in range(4):
        with silent(site.settings):
            Event().wait(LATE)
        Event().wait(LATE / 2)
    log = until(lambda: site.says()["log"], lambda log: log["delivered"] > before and log["spooled"] == 0, seconds=30)
    assert log["lost"] == {}


def test_predictions_go_on_whatever_is_down_or_slow(site: Site) -> None:
    """Database, object store and broker, down and slow, one by one, and all of them while it restarts: each request is answered by 200."""
    with load(site) as asking:
        until(lambda: asking.since(0.0))
        assert asking.tiers(0.0) == {"online"}
        lose_postgres(site, asking)
        lose_objects(site, asking)
        lose_kafka(site)
        assert asking.unheard == []
        with site.postgres.down(), site.objects.down(), silent(site.settings):
            began = monotonic()
            site.stop()
            site.start()
            ready, version = monotonic(), site.version()
            until(lambda: asking.since(ready))
            assert asking.tiers(ready) == {"default"}
        until(lambda: asking.tiers(monotonic() - 0.5), lambda tiers: tiers == {"online"}, seconds=30)
    statuses = [(status, body) for _, status, body in asking.answers if status != httpx.codes.OK]

    assert version == 3
    assert statuses == []
    assert len(asking.answers) > 100
    assert [at for at in asking.unheard if not began < at < ready] == []


def test_a_killed_process_is_followed_by_another(site: Site) -> None:
    """Its worker is killed (-9) under load: the next one answers, and all that was answered until just before is in the topic."""
    with load(site) as asking:
        until(lambda: len(asking.since(0.0)) > 50)
        assert site.process is not None
        (worker,) = [one for one in psutil.Process(site.process.pid).children() if "resource_tracker" not in " ".join(one.cmdline())]
        worker.send_signal(signal.SIGKILL)
        killed = monotonic()
        until(lambda: asking.since(killed + 0.5), seconds=60)
        until(lambda: site.says()["log"], lambda log: log["spooled"] == 0 and log["delivered"] > 0, seconds=60)
    site.stop()
    sent = {json.loads(one.value() or b"{}")["prediction_id"] for one in consume(site.settings, prediction_log.topic)}
    due = [body["predictions"][0]["id"] for at, status, body in asking.answers if status == httpx.codes.OK and abs(at - killed) > 1]

    assert not psutil.pid_exists(worker.pid)
    assert asking.unheard
    assert {status for _, status, _ in asking.answers} == {httpx.codes.OK}
    assert len(due) > 50
    assert [one for one in due if one not in sent] == []
