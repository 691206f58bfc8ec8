"""Canaries on a real service with real packages: who is answered by which version, how a bad one returns, how a good one goes live."""

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from threading import Event
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store, warehouse
from pipeline_assets.core.settings import PredictionSettings, Settings
from pipeline_assets.model_lifecycle.registry import ledger, trials
from pipeline_assets.model_lifecycle.registry.ledger import Decision, Trial
from pipeline_assets.model_lifecycle.training.judged import Scores
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.log.spool import Spool
from pipeline_assets.serving.realtime.package import MODEL_FILE
from pipeline_assets.serving.realtime.service import predictor
from pipeline_assets.serving.realtime.service.app import Service
from pipeline_assets.serving.realtime.service.challenger import Challenger
from pipeline_assets.serving.realtime.service.shadow import MOST_ROWS
from pipeline_assets.spec.models import Canary
from pipeline_assets_tests.model_rows import START
from pipeline_assets_tests.served_models import INSTANCE, MODEL, ROWS, client_of, put_live, service_of
from pipeline_assets_tests.stream_records import until

PREDICT = "/v1/models/flight_delay:predict"
NOW = (ROWS[-1]["recorded_at"] + timedelta(minutes=1)).isoformat()
# Small enough for a test; times of machines of tests say little, so their margin is wide.
CANARY = Canary(
    steps=(0.2, 0.6), step_time=timedelta(seconds=1), least_answers=300, most_latency_ratio=10.0, most_score_shift=0.5,
    patience=timedelta(seconds=0.4),
)  # fmt: skip
TRIED = replace(MODEL, canary=CANARY)
HELD = replace(MODEL, canary=replace(CANARY, steps=(), most_score_shift=1.0))
FLEET = 200


@pytest.fixture
def store(isolated: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An online store of departures, and two packages of the model of which the first is live.

    A turn may come late, as service, database and those who ask share a machine with other tests: what a canary breaks is asked here.
    """
    monkeypatch.setattr(predictor, "DEADLINE_SECONDS", 30.0)
    return put_live(isolated, versions=2)


@dataclass(frozen=True, kw_only=True)
class Faulty(Scorer):
    """A version that has passed its self-test, and whose calls fail, or take longer, or come out otherwise."""

    seconds: float = 0.0
    works_seconds: float = 0.0
    moved: float = 0.0
    is_broken: bool = False

    def score_values(self, matrix: npt.NDArray[np.float32]) -> Scores:
        """Its scores."""
        time.sleep(self.seconds)
        began = time.thread_time()
        while time.thread_time() - began < self.works_seconds:
            pass
        if self.is_broken:
            raise ValueError("this version is broken")
        return np.clip(super().score_values(matrix) + self.moved, 0, 1)


def canary(settings: Settings, share: float, expected: Trial | None = None) -> Trial:
    """Has the second version answer a share of entities."""
    decision = Decision(version=2, actor="a test", reason="a try", live_from=START)
    with warehouse(settings) as connection:
        trials.start(connection, MODEL, decision, role="canary", share=share, expected=expected)
    found = ledger.trial(ledger.history(settings, MODEL))
    assert found is not None
    return found


def running(service: Service) -> Challenger:
    """What is tried in a service, once it is."""
    return until(lambda: service.live.challengers.running.get(MODEL.name), lambda one: one is not None, seconds=30)  # type: ignore[return-value]


def instances(first: int = 0, count: int = 50) -> list[dict[str, Any]]:
    """Aircraft of a fleet, one after the other."""
    return [{**INSTANCE, "tailnum": f"N{(first + number) % FLEET}", "decision_at": NOW} for number in range(count)]


def asked(client: httpx.Client, rows: list[dict[str, Any]]) -> httpx.Response:
    """The answer to some instances."""
    return client.post(PREDICT, json={"instances": rows})


def versions_of(client: httpx.Client) -> dict[str, int]:
    """Which version answers each aircraft of the fleet."""
    rows = instances(0, FLEET)
    found = asked(client, rows).json()["predictions"]
    return {row["tailnum"]: one["model_version"] for row, one in zip(rows, found, strict=True)}


def scores_of(service: Service, rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[float]:
    """What the version that each answer names says of its features."""
    schema = service.predictors[MODEL.name].schema
    questions = schema.questions(schema.read(json.dumps({"instances": rows}).encode()), ROWS[-1]["recorded_at"])
    features = service.readers.read(MODEL, questions).features
    scores = {one.version: one.scorer.score(features) for one in (service.live.serving[MODEL.name].loaded, running(service).loaded)}
    return [float(scores[one["model_version"]][row]) for row, one in enumerate(found)]


def settings_of(settings: Settings) -> PredictionSettings:
    """Those of a service."""
    return PredictionSettings.model_construct(**{name: getattr(settings, name) for name in PredictionSettings.model_fields})


def counted(text: str, name: str, **labels: str) -> float:
    """What a counter of the metrics says, over all processes."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def logged_in(folder: Path) -> list[dict[str, Any]]:
    """What a service has logged that has ended, while Kafka was away."""
    spool = Spool(folder=folder, limit_bytes=1 << 30, segment_bytes=1 << 30)
    for path in (folder / "spool").glob("*/*.spool"):
        spool.adopt(path)
    return [json.loads(record.value) for piece in iter(lambda: spool.read(1_000), []) for record, _ in piece]


class Load:
    """Requests by some threads until it ends; which version gave each answer is kept, and what was refused."""

    def __init__(self, *clients: httpx.Client) -> None:
        self.refused, self.versions, self._stopped = list[str](), list[int](), Event()
        self._clients = clients

    def ask(self, number: int) -> None:
        """Asks one request after the other."""
        first, client = 17 * number, self._clients[number % len(self._clients)]
        while not self._stopped.is_set():
            answer = asked(client, instances(first, 20))
            if answer.status_code == 200:
                self.versions += [one["model_version"] for one in answer.json()["predictions"]]
            else:
                self.refused.append(answer.text)
            first += 20

    def stop(self) -> None:
        """Ends it."""
        self._stopped.set()


@contextmanager
def under_load(*clients: httpx.Client) -> Iterator[Load]:
    """Four threads that ask; each of their requests was answered."""
    load = Load(*clients)
    with ThreadPoolExecutor(4) as threads:
        asking: list[Future[None]] = [threads.submit(load.ask, number) for number in range(4)]
        try:
            yield load
        finally:
            load.stop()
    assert [one.exception() for one in asking] == [None] * 4
    assert load.refused == []
    assert load.versions


def test_each_entity_is_answered_by_its_version_on_every_process_and_after_a_restart(store: Settings, tmp_path: Path) -> None:
    """Two services agree row by row, a third that starts in the middle, too; a larger share only adds; answers are those of the version."""
    with ExitStack() as stack:
        services = [service_of(store, tmp_path / name, HELD) for name in ("a", "b")]
        clients = [stack.enter_context(client_of(one, one.folder, Role.PREDICT, Role.READ)) for one in services]
        first = canary(store, 0.3)
        for one in services:
            running(one)
        small = [versions_of(client) for client in clients]
        restarted = service_of(store, tmp_path / "a2", HELD)
        with client_of(restarted, restarted.folder, Role.PREDICT) as client:
            running(restarted)
            again = versions_of(client)
        canary(store, 0.6, first)
        for one in services:
            until(lambda: running(one).trial.share, lambda share: share == 0.6, seconds=30)  # noqa: B023 - waited for at once
        large = versions_of(clients[0])
        found = asked(clients[0], instances(0, FLEET)).json()["predictions"]
        expected = scores_of(services[0], instances(0, FLEET), found)
        shown = clients[0].get("/v1/models/flight_delay").json()
        text = clients[0].get("/metrics").text
        page = clients[0].get("/").text
    tried = {name: {tail for tail, version in by.items() if version == 2} for name, by in (("small", small[0]), ("large", large))}

    assert [one["score"] for one in found] == expected
    assert small[0] == small[1] == again
    assert 0 < len(tried["small"]) < len(tried["large"]) < FLEET
    assert tried["small"] < tried["large"]
    assert {one["model_version"] for one in found} == {1, 2}
    assert (shown["version"], shown["challenger"]["version"], shown["challenger"]["share"]) == (1, 2, 0.6)
    assert counted(text, "predictions_total", version="2", role="canary", features_from="online") > 0
    assert "version 2 answers 60 % of entities" in page


FAULTS: Mapping[str, Mapping[str, Any]] = {"fails": {"is_broken": True}, "hangs": {"seconds": 1.5}, "is slow": {"works_seconds": 0.03}}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_canary_returns_by_itself(store: Settings, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """Under load no request fails, and within a minute the ledger says, once, that it returned and what was measured."""
    service = service_of(store, tmp_path, TRIED)
    with client_of(service, tmp_path, Role.PREDICT, Role.READ) as client, under_load(client) as load:
        until(lambda: load.versions)
        canary(store, 0.5)
        one = running(service)
        scorer = one.loaded.scorer
        one.loaded = replace(one.loaded, scorer=Faulty(booster=scorer.booster, contract=scorer.contract, **FAULTS[fault]))
        until(lambda: ledger.trial(ledger.history(store, MODEL)), lambda trial: trial is None, seconds=60)
        until(lambda: service.live.challengers.running, lambda found: not found)
        before = len(load.versions)
        until(lambda: len(load.versions), lambda count: count > before + 500)
    entries = ledger.history(store, MODEL)
    last = entries[-1]
    measures = {rule["name"]: rule for rule in last.rules}

    assert [entry.action for entry in entries] == ["promote", "canary", "return"]
    assert "Beyond its margin" in last.reason
    assert not measures["latency ratio" if fault == "is slow" else "share of failed calls"]["passed"]
    assert set(load.versions[before + 200 :]) == {1}
    assert ledger.live(entries) == 1
    assert [record for record in caplog.records if "left alone" in record.getMessage()]


def test_a_canary_whose_scores_are_others_returns_by_itself(store: Settings, tmp_path: Path) -> None:
    """All of them are larger by 0.2: found by their distribution, on whatever scores the fleet has."""
    model = replace(TRIED, canary=replace(CANARY, most_score_shift=0.05, steps=()))
    service = service_of(store, tmp_path, model)
    with client_of(service, tmp_path, Role.PREDICT) as client, under_load(client) as load:
        until(lambda: load.versions)
        canary(store, 0.5)
        one = running(service)
        scorer = one.loaded.scorer
        one.loaded = replace(one.loaded, scorer=Faulty(booster=scorer.booster, contract=scorer.contract, moved=0.2))
        until(lambda: ledger.trial(ledger.history(store, MODEL)), lambda trial: trial is None, seconds=60)
    last = ledger.history(store, MODEL)[-1]
    (shift,) = [rule for rule in last.rules if rule["name"] == "score shift"]

    assert (last.action, shift["passed"]) == ("return", False)
    assert shift["value"] > 0.15
    assert 2 in load.versions


def test_a_good_canary_goes_live_by_its_steps(store: Settings, tmp_path: Path) -> None:
    """Two services under load: each step is one entry of the ledger, the last is a promotion, and both serve the new version."""
    services = [service_of(store, tmp_path / name, TRIED) for name in ("a", "b")]
    with ExitStack() as stack:
        clients = [stack.enter_context(client_of(one, one.folder, Role.PREDICT)) for one in services]
        with under_load(*clients) as load:
            until(lambda: load.versions)
            canary(store, 0.2)
            until(lambda: ledger.live_version(store, MODEL), lambda version: version == 2, seconds=90)
            for one in services:
                until(lambda: one.live.serving[MODEL.name].loaded.version, lambda version: version == 2, seconds=10)  # noqa: B023 - at once
                until(lambda: one.live.challengers.running, lambda found: not found)  # noqa: B023 - waited for at once
        after = versions_of(clients[0])
    entries = ledger.history(store, MODEL)

    assert [(entry.action, entry.share) for entry in entries] == [
        ("promote", None), ("canary", 0.2), ("canary", 0.6), ("promote", None),
    ]  # fmt: skip
    assert entries[-1].actor.startswith("prediction service on ")
    assert [rule["passed"] for rule in entries[-1].rules] == [True] * 3
    assert set(after.values()) == {2}
    assert set(load.versions) == {1, 2}


def test_a_bad_canary_is_left_alone_while_the_ledger_is_away(store: Settings, tmp_path: Path) -> None:
    """At once, by what was seen here; a restart without the ledger does not take it up; once the ledger is back it says so."""
    nowhere = store.model_copy(update={"warehouse_dsn": type(store.warehouse_dsn)("postgresql://nobody:x@127.0.0.1:9/nothing")})
    service = service_of(store, tmp_path, TRIED)
    with client_of(service, tmp_path, Role.PREDICT, Role.READ) as client, under_load(client) as load:
        canary(store, 0.5)
        one = running(service)
        until(lambda: 2 in load.versions)
        service.live.settings = settings_of(nowhere)
        with warehouse(store) as connection:
            others = "pid <> pg_backend_pid() and datname = current_database()"
            connection.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {others}")  # noqa: S608 - no value in it
        until(lambda: service.live.ledger_answers, lambda answers: not answers, seconds=30)
        scorer = one.loaded.scorer
        one.loaded = replace(one.loaded, scorer=Faulty(booster=scorer.booster, contract=scorer.contract, is_broken=True))
        until(lambda: service.live.challengers.running, lambda found: not found, seconds=30)
        problem = client.get("/v1/models/flight_delay").json()["challenger"]["problem"]
        before = ledger.history(store, MODEL)
        restarted = service_of(nowhere, tmp_path, TRIED)
        with client_of(restarted, tmp_path, Role.PREDICT) as again:
            alone = versions_of(again)
        service.live.settings = settings_of(store)
        until(lambda: ledger.trial(ledger.history(store, MODEL)), lambda trial: trial is None, seconds=30)

    assert "this version is broken" in problem
    assert [entry.action for entry in before] == ["promote", "canary"]
    assert set(alone.values()) == {1}
    assert [entry.action for entry in ledger.history(store, MODEL)] == ["promote", "canary", "return"]


@pytest.mark.parametrize("rights", ["select", "select, insert"])
def test_the_role_of_the_service_may_read_alone(
    store: Settings, cluster: psycopg.Connection, tmp_path: Path, rights: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Then it leaves a bad canary alone with an alarm, and the ledger stays; with the right to add entries it writes the return."""
    role, password = f"service_{token_hex(4)}", token_hex(8)
    canary(store, 0.5)
    cluster.execute(sql.SQL("create role {role} login password {password}").format(role=sql.Identifier(role), password=password))
    with warehouse(store) as connection:
        grants = "grant usage on schema ledger to {role}; grant {rights} on ledger.promotions to {role}"
        connection.execute(sql.SQL(grants).format(role=sql.Identifier(role), rights=sql.SQL(rights)))
    dsn = make_conninfo(store.warehouse_dsn.get_secret_value(), user=role, password=password)
    service = service_of(store.model_copy(update={"warehouse_dsn": type(store.warehouse_dsn)(dsn)}), tmp_path, TRIED)
    with client_of(service, tmp_path, Role.PREDICT) as client:
        one = running(service)
        scorer = one.loaded.scorer
        one.loaded = replace(one.loaded, scorer=Faulty(booster=scorer.booster, contract=scorer.contract, is_broken=True))
        before = [versions_of(client) for _ in range(6)]
        until(lambda: service.live.challengers.running, lambda found: not found, seconds=30)
        if "insert" in rights:
            until(lambda: ledger.trial(ledger.history(store, MODEL)), lambda trial: trial is None, seconds=30)
        else:
            until(lambda: [record for record in caplog.records if "cannot be written into the ledger" in record.getMessage()], seconds=30)
        after = versions_of(client)

    assert {version for found in (*before, after) for version in found.values()} == {1}
    assert (ledger.trial(ledger.history(store, MODEL)) is None) == ("insert" in rights)


def test_a_damaged_package_is_not_tried(store: Settings, tmp_path: Path) -> None:
    """The live version answers alone and the model says why; once the package is whole, it is tried."""
    place = f"{'/'.join(names.package(MODEL.name))}/2/{MODEL_FILE}"
    whole: bytes = object_store(store).get_object(Bucket=store.s3_bucket, Key=place)["Body"].read()
    object_store(store).put_object(Bucket=store.s3_bucket, Key=place, Body=whole[:-1] + bytes([whole[-1] ^ 1]))
    canary(store, 0.5)
    service = service_of(store, tmp_path, HELD)
    with client_of(service, tmp_path, Role.PREDICT, Role.READ) as client:
        problem = until(lambda: client.get("/v1/models/flight_delay").json()["challenger"])["problem"]
        meanwhile = versions_of(client)
        object_store(store).put_object(Bucket=store.s3_bucket, Key=place, Body=whole)
        running(service)
        after = versions_of(client)

    assert "sha256" in problem
    assert set(meanwhile.values()) == {1}
    assert set(after.values()) == {1, 2}


def test_a_shadow_is_logged_and_never_seen(store: Settings, tmp_path: Path) -> None:
    """All answers are those of the live version; the log has each question twice, the second time as the shadow scored it."""
    away = store.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})
    decision = Decision(version=2, actor="a test", reason="a try", live_from=START)
    with warehouse(store) as connection:
        trials.start(connection, MODEL, decision, role="shadow", share=None, expected=None)
    service = service_of(away, tmp_path, TRIED)
    with client_of(service, tmp_path, Role.PREDICT, Role.READ) as client:
        running(service)
        answers = [asked(client, instances(first, 20)).json()["predictions"] for first in range(0, FLEET, 20)]
        until(lambda: service.log.counts().spooled, lambda count: count == 2 * FLEET)
        shown = client.get("/v1/models/flight_delay").json()["challenger"]
        text = client.get("/metrics").text
    logged = logged_in(tmp_path)
    live, unseen = ([each for each in logged if each["role"] == role] for role in ("live", "shadow"))
    scores = [each["score"] for answer in answers for each in answer]
    seen = [(each["keys"], each["request_id"], each["features"], each["decision_at"]) for each in live]
    again = [(each["keys"], each["request_id"], each["features"], each["decision_at"]) for each in unseen]

    assert {each["model_version"] for answer in answers for each in answer} == {1}
    assert len(scores) == FLEET
    assert sorted(seen, key=str) == sorted(again, key=str)
    assert {each["model_version"] for each in unseen} == {2}
    assert len({each["prediction_id"] for each in logged}) == 2 * FLEET
    assert {json.loads(each["scores"])["score"] for each in live} == set(scores)
    assert {json.loads(each["scores"])["score"] for each in unseen}.isdisjoint(scores)
    assert (shown["role"], shown["answers"], shown["last_error"]) == ("shadow", FLEET, None)
    assert counted(text, "predict_tried_rows_total", version="2", role="shadow", outcome="answered") == FLEET
    assert [entry.action for entry in ledger.history(store, MODEL)] == ["promote", "shadow"]


def test_a_shadow_that_is_too_slow_is_dropped_and_counted(store: Settings, tmp_path: Path) -> None:
    """While it works on one call, more rows come than may wait; answers do not wait for it."""
    service = service_of(store, tmp_path, TRIED)
    decision = Decision(version=2, actor="a test", reason="a try", live_from=START)
    with warehouse(store) as connection:
        trials.start(connection, MODEL, decision, role="shadow", share=None, expected=None)
    with client_of(service, tmp_path, Role.PREDICT, Role.READ) as client:
        one = running(service)
        scorer = one.loaded.scorer
        one.loaded = replace(one.loaded, scorer=Faulty(booster=scorer.booster, contract=scorer.contract, seconds=3.0))
        answers = [asked(client, instances(0, FLEET)) for _ in range(2 * MOST_ROWS // FLEET)]
        text = client.get("/metrics").text

    assert {answer.status_code for answer in answers} == {200}
    assert max(answer.elapsed.total_seconds() for answer in answers) < 3.0
    assert counted(text, "predict_tried_rows_total", version="2", role="shadow", outcome="dropped") > 0


def test_a_canary_is_logged_as_what_it_answered(store: Settings, tmp_path: Path) -> None:
    """Each row of a request with the version, the role and the scores of its answer; an explanation is that of the same version."""
    canary(store, 0.5)
    service = service_of(store.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"}), tmp_path, HELD)
    with client_of(service, tmp_path, Role.PREDICT) as client:
        running(service)
        answer = asked(client, instances(0, 40)).json()["predictions"]
        why = client.post("/v1/models/flight_delay:explain", json={"instances": instances(0, 40)}).json()["explanations"]
    found = {each["prediction_id"]: each for each in logged_in(tmp_path)}
    given = [(one["model_version"], one["score"]) for one in why]
    margins = [sum(one["contributions"].values()) + one["bias"] for one in why]

    assert {one["model_version"] for one in answer} == {1, 2}
    assert [found[one["id"]]["model_version"] for one in answer] == [one["model_version"] for one in answer]
    assert [found[one["id"]]["role"] for one in answer] == [{1: "live", 2: "canary"}[one["model_version"]] for one in answer]
    assert [json.loads(found[one["id"]]["scores"])["score"] for one in answer] == [one["score"] for one in answer]
    assert given == [(one["model_version"], one["score"]) for one in answer]
    assert 1 / (1 + np.exp(-np.array(margins))) == pytest.approx([one["score"] for one in answer], abs=1e-5)
