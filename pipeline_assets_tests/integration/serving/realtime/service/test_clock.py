"""The wall clock is set back by an hour while the service runs: what is measured goes by another clock, and nothing else waits for it."""

import json
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from time import time_ns

import httpx
import pytest

from pipeline_assets.core.settings import Settings
from pipeline_assets.serving.realtime.access import audit, keys, sessions
from pipeline_assets.serving.realtime.access.callers import Limits, Role
from pipeline_assets.serving.realtime.access.key_file import create_key
from pipeline_assets.serving.realtime.log import writer
from pipeline_assets.serving.realtime.log.spool import Spool
from pipeline_assets.serving.realtime.service import live, predictor, status
from pipeline_assets.serving.realtime.service.features import FAILURES
from pipeline_assets_tests.served_models import INSTANCE, MODEL, ROWS, client_of, promote, put_live, service_of
from pipeline_assets_tests.stream_records import until

PREDICT, BACK = f"/v1/models/{MODEL.name}:predict", timedelta(hours=1)
KNOWN = {**INSTANCE, "decision_at": ROWS[-1]["recorded_at"].isoformat()}
NOWHERE = "127.0.0.1:9"


class SetBack(datetime):
    """The time, an hour ago."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        """What the wall clock shows once it was set back."""
        return datetime.now(tz) - BACK


def set_back(patch: pytest.MonkeyPatch) -> None:
    """Has all modules of the service that ask for the wall clock see another time."""
    for module in (audit, keys, live, predictor, status, writer):
        patch.setattr(module, "datetime", SetBack)
    patch.setattr(sessions, "utc_now", lambda: datetime.now(UTC) - BACK)
    patch.setattr(writer, "time_ns", lambda: time_ns() - int(BACK.total_seconds() * 1e9))


def ask(client: httpx.Client, instance: dict[str, object] = KNOWN, headers: dict[str, str] | None = None) -> httpx.Response:
    """A prediction."""
    return client.post(PREDICT, json={"instances": [instance]}, headers=headers)


def test_nothing_stops_when_the_clock_is_set_back(isolated: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions, a limit per key, a breaker that was open, a promotion, a session of the page and the log go on; ids stay apart."""
    put_live(isolated, versions=2)
    service = service_of(isolated.model_copy(update={"kafka_bootstrap": NOWHERE}), tmp_path, MODEL)
    with client_of(service, tmp_path, Role.PREDICT, Role.READ) as client:
        _, limited = create_key(tmp_path / "keys.json", "limited", [Role.PREDICT], limits=Limits(requests_per_second=1, burst=1))
        key = {"Authorization": f"Bearer {limited}"}
        own, origin = client.headers["Authorization"].split()[1], str(client.base_url).rstrip("/")
        login = client.post("/login", data={"key": own}, headers={"Origin": origin})
        before = [ask(client).json()["predictions"][0] for _ in range(5)]
        until(lambda: ask(client, headers=key).status_code, lambda code: code == 429)
        for _ in range(FAILURES):
            service.predictors[MODEL.name].features.breaker.failed("a test")
        set_back(monkeypatch)
        first = ask(client)
        again = until(lambda: ask(client), lambda one: one.json()["predictions"][0]["features_from"] == "online", seconds=10)
        unlimited = until(lambda: ask(client, headers=key).status_code, lambda code: code == 200, seconds=10)
        promote(isolated, MODEL, 2)
        after = until(lambda: ask(client).json()["predictions"][0], lambda one: one["model_version"] == 2, seconds=10)
        now = ask(client, INSTANCE)
        page = httpx.get(f"{origin}/", headers={"Cookie": login.headers["set-cookie"].partition(";")[0]})
        counts = until(service.log.counts, lambda found: found.spooled > 0 and not found.waiting)
    logged = spooled(tmp_path)

    assert (first.status_code, again.status_code, unlimited, now.status_code) == (200, 200, 200, 200)
    assert first.json()["predictions"][0]["features_from"] == "last_good"
    assert (before[0]["score"], after["model_version"]) == (again.json()["predictions"][0]["score"], 2)
    assert (login.status_code, page.status_code) == (303, 200)
    assert counts.lost == {}
    assert min(logged.values()) < datetime.now(UTC) - BACK + timedelta(minutes=5) < max(logged.values())
    assert {one["id"] for one in before} | {after["id"], now.json()["predictions"][0]["id"]} <= logged.keys()


def spooled(folder: Path) -> dict[str, datetime]:
    """When each prediction was asked, by what is on disk."""
    found: dict[str, datetime] = {}
    for path in sorted((folder / "spool").glob("*/*.spool")):
        spool = Spool(folder=folder, limit_bytes=1 << 30, segment_bytes=1 << 30)
        spool.adopt(path)
        values = [json.loads(record.value) for record, _ in spool.read(10_000)]
        assert len({one["prediction_id"] for one in values}) == len(values)
        found |= {one["prediction_id"]: datetime.fromisoformat(one["asked_at"]) for one in values}
    return found
