"""A prediction explained from its log: replayed to the bit, with what it was made of; and a skew is found and shown."""

import json
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from pyiceberg.catalog import Catalog

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.online_errors import PredictionNotLogged
from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.timed_ids import timed_id
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader, Share
from pipeline_assets.ingestion.streaming.landing.offsets import Seen
from pipeline_assets.ingestion.streaming.staged.events import stage_events
from pipeline_assets.ingestion.streaming.typed.table import Position, append_events, typed_events, typed_table
from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage
from pipeline_assets.model_lifecycle.feature_store.online.build import build
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.registry import ledger, trials
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import read_lineage
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets.processing.cleaning.raw_tables import load_raw_days
from pipeline_assets.processing.lake import tables
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.log import find
from pipeline_assets.serving.realtime.log.commands import lines_of
from pipeline_assets.serving.realtime.log.explain import (
    BROUGHT,
    DIFFERS,
    EQUAL,
    NOT_ONLINE,
    Explanation,
    explain_prediction,
    read_prediction,
)
from pipeline_assets.serving.realtime.log.spool import Spool
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Task
from pipeline_assets_tests.landings import Landed, table_of
from pipeline_assets_tests.model_rows import MULTICLASS, REGRESSION
from pipeline_assets_tests.online_departures import START, feed, observed, put_history, put_typed
from pipeline_assets_tests.online_departures import table_of as departures_table
from pipeline_assets_tests.served_models import (
    FEED,
    INSTANCE,
    MODEL,
    ROWS,
    candidate,
    client_of,
    model_of,
    project_of,
    promote,
    put_package,
    service_of,
)

DECIDED = ROWS[-1]["recorded_at"] + timedelta(minutes=1)


@dataclass
class Site:
    """A lake and an online store of departures, with a model that is live; what was answered is put into the lake by `log`."""

    settings: Settings
    folder: Path
    offset: int = 0
    model: Model = MODEL
    feeds: tuple[Feed, ...] = (FEED,)

    def ask(self, decided: datetime = DECIDED, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """A prediction of the service, which ends then: Kafka is away, and so what it logged is on disk."""
        service = service_of(self.settings, self.folder, self.model, feeds=self.feeds)
        asked = {"instances": [{**INSTANCE, "decision_at": decided.isoformat()}]}
        with client_of(service, self.folder, Role.PREDICT) as client:
            answer = client.post(f"/v1/models/{self.model.name}:predict", json=asked, headers=headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["predictions"][0]
        return found

    def infer(self, values: dict[str, list[float | None]]) -> dict[str, Any]:
        """The answer to vectors of the caller; as `ask`."""
        service = service_of(self.settings, self.folder, MODEL)
        inputs = [{"name": name, "shape": [len(own)], "datatype": "FP64", "data": own} for name, own in values.items()]
        with client_of(service, self.folder, Role.PREDICT) as client:
            answer = client.post("/v2/models/flight_delay/infer", json={"inputs": inputs})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def log(self, **changed: Any) -> None:
        """Puts what was logged into the typed table, as typing does, some of it changed."""
        (path,) = (self.folder / "spool").glob("*/*.spool")
        spool = Spool(folder=self.folder, limit_bytes=1 << 30, segment_bytes=1 << 30)
        spool.adopt(path)
        values = [json.dumps(json.loads(record.value) | changed).encode() for record, _ in spool.read(10)]
        landed = [
            Landed(offset=self.offset + place, payload=value, received_at=datetime.now(UTC), topic=prediction_log.topic)
            for place, value in enumerate(values)
        ]
        self.offset += len(landed)
        records = table_of(landed)
        checked = RecordReader(prediction_log, Share()).read(records).checked
        assert list(checked.broken) == []
        with catalog(self.settings) as lake:
            table = typed_table(lake, prediction_log.contract)
            rows = typed_events(prediction_log.contract, checked, records)
            append_events(table, rows, Position(seen=Seen(partitions={0: ((0, self.offset),)})), run_id="test")

    def explain(self, prediction_id: str) -> Explanation:
        """The explanation of a prediction."""
        project = project_of(self.model)
        lineage = ProjectLineage(project=project, dbt=read_lineage(project_folder()))
        return explain_prediction(self.settings, lineage, read_models(project).references, self.feeds, prediction_id)


NOWHERE = "127.0.0.1:9"


@pytest.fixture
def site(isolated: Settings, tmp_path: Path) -> Site:
    """Departures from before the topic and from it, built online, and the first version of the model."""
    half = len(ROWS) // 2
    put_history(isolated, departures_table(ROWS[:half]))
    put_typed(isolated, departures_table(ROWS[half:]), 0)
    build(isolated, FEED, lambda _: None)
    put_package(isolated, MODEL, 1, 1)
    promote(isolated, MODEL, 1)
    # What was logged is taken from the spool, so it must not be delivered.
    return Site(settings=isolated.model_copy(update={"kafka_bootstrap": NOWHERE}), folder=tmp_path)


def test_a_prediction_is_replayed_from_the_lake_to_the_bit(site: Site) -> None:
    """Its features come from the lake again, its score from the package; contributions add up, rows and fields behind it are named."""
    answer = site.ask()
    site.log()
    found = site.explain(answer["id"])
    total = sum(float(one.contribution) for one in found.features if isinstance(one.contribution, float)) + float(str(found.bias))
    counted = [row for row in ROWS if row["origin"] == INSTANCE["origin"]]
    (behind,) = [one for one in found.behind if one.view == "origin_departures"]
    text = "\n".join(lines_of(found))

    assert (found.replay.features, found.replay.is_score_equal, found.replay.differing) == (EQUAL, True, {})
    assert struct.pack("<d", found.prediction["scores"]["score"]) == struct.pack("<d", answer["score"])
    assert found.prediction["model_version"] == 1
    assert 1 / (1 + np.exp(-total)) == pytest.approx(answer["score"], abs=1e-5)
    assert len(found.features) == len(found.prediction["features"])
    assert any("flight_departures.delay_minutes" in leaf for one in found.features for leaf in one.computed_from)
    assert 0 < behind.rows <= len(counted)
    assert behind.newest[0]["event_at"] == max(row["event_at"] for row in behind.newest)
    assert {row["origin"] for row in behind.newest} == {INSTANCE["origin"]}
    assert "flight_delay version 1 (live) answered score" in text
    assert "score of the packaged model: equal to the bit" in text


def test_an_answer_of_a_canary_is_replayed_with_its_own_version(site: Site) -> None:
    """To the bit, by the package of the version that answered, not of the one that is live."""
    put_package(site.settings, MODEL, 2, 2)
    decision = ledger.Decision(version=2, actor="a test", reason="a try", live_from=DECIDED)
    with warehouse(site.settings) as connection:
        trials.start(connection, MODEL, decision, role="canary", share=0.9999, expected=None)
    answer = site.ask()
    site.log()
    found = site.explain(answer["id"])

    assert (answer["model_version"], found.prediction["model_version"], found.prediction["role"]) == (2, 2, "canary")
    assert (found.replay.features, found.replay.is_score_equal) == (EQUAL, True)
    assert "flight_delay version 2 (canary) answered score" in "\n".join(lines_of(found))


def test_a_value_that_the_lake_does_not_give_is_shown(site: Site) -> None:
    """One bit of a feature, and one of the score, are other than they would be: both are found; a score that was logged is what counts."""
    answer = site.ask()
    site.log()
    logged = dict(site.explain(answer["id"]).prediction)
    name = next(name for name, value in logged["features"].items() if isinstance(value, float) and value)
    features = logged["features"] | {name: float(np.nextafter(logged["features"][name], np.inf))}
    (path,) = site.folder.glob("*.spool")
    (site.folder / "spool" / "again").mkdir(parents=True)
    path.rename(site.folder / "spool" / "again" / path.name)
    site.log(features=json.dumps(features), scores=json.dumps({"score": float(np.nextafter(answer["score"], 1))}))
    found = site.explain(answer["id"])

    assert found.replay.features == DIFFERS
    assert found.replay.differing == {name: (features[name], logged["features"][name])}
    assert not found.replay.is_score_equal
    assert f"{name}: served {features[name]!r}, the lake gives {logged['features'][name]!r}" in "\n".join(lines_of(found))


def test_a_prediction_of_features_that_the_caller_brought_is_explained(site: Site) -> None:
    """Nulls, fractions of whole numbers and -0.0: the score of each row again to the bit, contributions, and who brought the features."""
    features = enumerate(candidate(MODEL, 1).contract.features)
    values = {one.name: [2.0 if one.is_categorical else -0.0 if place == 1 else 0.1 + place, None] for place, one in features}
    answer = site.infer(values)
    site.log()
    found = [site.explain(f"{answer['parameters']['prediction_id']}-{row}") for row in range(2)]
    text = "\n".join(lines_of(found[0]))

    assert [one.prediction["scores"]["score"] for one in found] == answer["outputs"][0]["data"]
    assert [(one.replay.features, one.replay.is_score_equal, one.behind) for one in found] == [(BROUGHT, True, ())] * 2
    assert [{one.name: one.value for one in each.features} for each in found] == [
        {name: own[row] for name, own in values.items()} for row in range(2)
    ]
    assert {one.computed_from for one in found[0].features} == {()}
    assert any(one.contribution for one in found[0].features)
    assert "features from: caller" in text
    assert "features: the caller brought the features" in text
    assert "Events" not in text


@pytest.mark.parametrize("task", [MULTICLASS, REGRESSION])
def test_classes_and_numbers_are_explained(site: Site, task: Task) -> None:
    """Replayed to the bit; contributions of each class, or in the unit of the number, add up to the margin of the answer."""
    site.model = replace(model_of(task), name="another")
    put_package(site.settings, site.model, 1, 1)
    promote(site.settings, site.model, 1)
    answer = site.ask()
    site.log()
    found = site.explain(answer["id"])
    names_of = list(found.prediction["scores"])
    parts = [one.contribution if isinstance(one.contribution, dict) else {names_of[0]: one.contribution} for one in found.features]
    bias = found.bias if isinstance(found.bias, dict) else {names_of[0]: found.bias}
    margins = np.array([sum(part[name] for part in parts) + bias[name] for name in names_of])
    scores = np.exp(margins) / np.exp(margins).sum() if task is MULTICLASS else margins

    assert (found.replay.features, found.replay.is_score_equal) == (EQUAL, True)
    assert list(found.prediction["scores"].values()) == pytest.approx(scores, rel=1e-4)
    assert found.prediction["predicted_class"] == answer.get("predicted")
    assert names_of[0] in "\n".join(lines_of(found))


def test_features_of_a_fallback_are_explained(site: Site) -> None:
    """The store is away: nothing was read of any view, so nothing is computed again; the score of the defaults is, to the bit."""
    away = site.settings.model_copy(update={"online_dsn": SecretStr(f"postgresql://nobody:x@{NOWHERE}/nothing")})
    answer = Site(settings=away, folder=site.folder).ask()
    site.log()
    found = site.explain(answer["id"])

    assert (answer["features_from"], found.prediction["tier"]) == ("default", "default")
    assert (found.replay.features, found.replay.is_score_equal) == (NOT_ONLINE, True)
    assert {one.problem for one in found.behind} == {"nothing was read of it"}
    assert "features from: default" in "\n".join(lines_of(found))


def test_features_of_a_table_are_replayed_from_the_snapshot_that_was_followed(site: Site) -> None:
    """After a commit that takes rows back and changes one: equal to the bit, with the rows as they were when it was asked."""
    weather = feed("weather_observations_history")
    hours = [START + timedelta(hours=hour) for hour in range(int((DECIDED - START) / timedelta(hours=1)))]
    table, days = names.cleaned(weather.table.name), (START.date(), hours[-1].date())
    tables.replace_days(site.settings, table, observed(weather, hours, {}), "observed_at", *days)
    build(site.settings, weather, lambda _: None)
    site.model, site.feeds = replace(MODEL, name="by_weather", views=(*FEED.views, *weather.views)), (FEED, weather)
    put_package(site.settings, site.model, 1, 1)
    promote(site.settings, site.model, 1)
    answer = site.ask()
    site.log()
    tables.replace_days(site.settings, table, observed(weather, hours[:-3], {hours[-4].isoformat(): 1e9}), "observed_at", *days)
    found = site.explain(answer["id"])
    (behind,) = [one for one in found.behind if one.view == "origin_weather"]

    assert answer["features_from"] == "online"
    assert (found.replay.features, found.replay.is_score_equal, found.replay.differing) == (EQUAL, True, {})
    assert [row["observed_at"] for row in behind.newest] == hours[:-6:-1]
    assert {one.name for one in found.features if one.name.startswith("origin_weather__") and one.value is not None}


def test_a_prediction_is_found_by_its_time_in_the_warehouse_or_among_all(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time of the service, or of a client's key; with a key without time in all typed rows, or in the warehouse once it is there."""
    key = timed_id(int(datetime.now(UTC).timestamp() * 1000), 7)
    asked: dict[str, dict[str, str]] = {
        "service": {}, "timed key": {"Idempotency-Key": key}, "key": {"Idempotency-Key": "order-7"}
    }  # fmt: skip
    ids = {}
    for case, headers in asked.items():
        ids[case] = site.ask(headers=headers)["id"]
        site.log()
        for path in site.folder.glob("*.spool"):
            path.unlink()
    times, real = list[datetime | None](), find.typed_rows

    def noted(lake: Catalog, number: str, at: datetime | None) -> list[dict[str, Any]]:
        times.append(at)
        return real(lake, number, at)

    monkeypatch.setattr(find, "typed_rows", noted)
    before = {case: read_prediction(site.settings, number)["prediction_id"] for case, number in ids.items()}
    now = datetime.now(UTC).date()
    stage_events(site.settings, prediction_log, now, now, run_id="test")
    tables.publish_days(site.settings, versioned(prediction_log.contract), now, now)
    load_raw_days(site.settings, versioned(prediction_log.contract), now, now)
    typed, stored = (read_prediction(site.settings, ids[case]) for case in ("service", "key"))

    assert before == ids
    assert [at is None for at in times] == [False, False, True, False]
    assert {name: type(value) for name, value in stored.items()} == {name: type(value) for name, value in typed.items()}
    assert stored["prediction_id"] == ids["key"]


def test_a_prediction_that_is_not_in_the_lake_is_named(isolated: Settings, tmp_path: Path) -> None:
    """Before anything was logged at all, too."""
    with pytest.raises(PredictionNotLogged, match="no prediction 'p-1'"):
        Site(settings=isolated, folder=tmp_path).explain("p-1")
