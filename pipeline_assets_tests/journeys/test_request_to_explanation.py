"""From a request over the network to a prediction in the warehouse, explained and replayed from the lake."""

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from pipeline_assets.core import names
from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.iceberg import open_table
from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.core.prediction_streams import use_case as platform
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import apply, connectors_of
from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
from pipeline_assets.ingestion.streaming.staged.events import stage_events
from pipeline_assets.ingestion.streaming.streams import record_streams
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets.ingestion.streaming.typed.table import rows_of
from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage
from pipeline_assets.model_lifecycle.feature_store.online.build import build
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import read_lineage
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets.processing.cleaning.raw_tables import load_raw_days
from pipeline_assets.processing.lake.tables import publish_days
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.client import Client, Prediction
from pipeline_assets.serving.realtime.log.explain import EQUAL, explain_prediction
from pipeline_assets_tests.online_departures import put_history, put_typed, table_of
from pipeline_assets_tests.served_models import FEED, INSTANCE, MODEL, ROWS, client_of, project_of, promote, put_package, service_of
from pipeline_assets_tests.stream_records import until

RECORDED = Project(use_cases=(), platform=platform)
DECIDED = ROWS[-1]["recorded_at"] + timedelta(minutes=1)
ASKED = [{**INSTANCE, "decision_at": DECIDED}, {**INSTANCE, "origin": "JFK", "decision_at": DECIDED}]


@pytest.fixture
def settings(isolated: Settings, streams: Settings) -> Iterator[Settings]:
    """Departures in the lake and online, a model that is live, and the connectors that land what is answered."""
    of_streams = {name: value for name, value in streams if name.startswith(("kafka_", "connect_"))}
    own, half, connectors = isolated.model_copy(update=of_streams), len(ROWS) // 2, connectors_of(RECORDED)
    put_history(own, table_of(ROWS[:half]))
    put_typed(own, table_of(ROWS[half:]), 0)
    build(own, FEED, lambda _: None)
    put_package(own, MODEL, 1, 1)
    promote(own, MODEL, 1)
    forget(own, prediction_log.topic)
    assert [error for _, error in apply(own, connectors) if error is not None] == []
    yield own
    with open_connect(own) as connect:
        for connector in connectors:
            connect.delete(connector.name)


def forget(settings: Settings, topic: str) -> None:
    """Deletes a topic that another test has left."""
    client = AdminClient(client_config(settings))
    if topic in client.list_topics(timeout=30).topics:
        client.delete_topics([topic])[topic].result(30)
    until(lambda: topic not in client.list_topics(timeout=30).topics)


def predicted(settings: Settings, folder: Path) -> list[Prediction]:
    """What the service answers a client over the network; the client asks for the same once more, as after a lost answer."""
    with client_of(service_of(settings, folder, MODEL), folder, Role.PREDICT) as opened:
        url, key = str(opened.base_url), opened.headers["Authorization"].removeprefix("Bearer ")
        with Client(url, key) as client:
            first, again = (client.predict(MODEL.name, ASKED, idempotency_key="order 7") for _ in range(2))
    assert first == again
    return first


def landed(settings: Settings) -> int:
    """How many records of predictions Kafka Connect has landed."""
    with catalog(settings) as lake:
        table = open_table(lake, names.landed(prediction_log.topic))
        return 0 if table is None else rows_of(table)


def to_the_warehouse(settings: Settings) -> None:
    """The way of every stream, as the assets go it: typed, staged, lake, raw."""
    today = datetime.now(UTC).date()
    done = type_landed(settings, prediction_log, run_id="walk", streams=record_streams(RECORDED), refetch=refetch_from(settings))
    assert (done.rows, done.broken) == (2 * len(ASKED), {})
    # A walk may cross midnight.
    days = today - timedelta(days=1), today
    stage_events(settings, prediction_log, *days, run_id="walk")
    publish_days(settings, versioned(prediction_log.contract), *days)
    load_raw_days(settings, versioned(prediction_log.contract), *days)


def test_a_request_becomes_a_prediction_that_can_be_explained(settings: Settings, tmp_path: Path) -> None:
    """Each answer is in the warehouse with its score, to the bit, and by its id alone comes out again from the lake and the package."""
    answers = predicted(settings, tmp_path)
    until(lambda: landed(settings), lambda rows: rows == 2 * len(ASKED))
    to_the_warehouse(settings)
    with warehouse(settings) as connection:
        query = "select distinct prediction_id, (scores::json ->> 'score')::float8, model_version from raw.prediction_log"
        rows = {number: (bits(score), version) for number, score, version in connection.execute(query)}
    lineage = ProjectLineage(project=project_of(MODEL), dbt=read_lineage(project_folder()))
    references = read_models(lineage.project).references
    explained = [explain_prediction(settings, lineage, references, [FEED], one.id) for one in answers]

    assert rows == {one.id: (bits(one.score), one.model_version) for one in answers}
    assert [(one.replay.features, one.replay.is_score_equal, one.replay.differing) for one in explained] == [(EQUAL, True, {})] * 2
    assert [one.prediction["keys"]["origin"] for one in explained] == [one["origin"] for one in ASKED]
    assert all("flight_departures.delay_minutes" in str([each.computed_from for each in one.features]) for one in explained)
    assert all(one.behind for one in explained)


def bits(number: float | None) -> bytes:
    """A float as its bytes."""
    assert number is not None
    return struct.pack("<d", number)
