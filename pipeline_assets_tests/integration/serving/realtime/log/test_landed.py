"""What is logged takes the way of every stream: topic, Kafka Connect, typed rows, staged day, lake, warehouse."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from pipeline_assets.core import names
from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.iceberg import open_table
from pipeline_assets.core.prediction_streams import prediction_log
from pipeline_assets.core.prediction_streams import use_case as platform
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import apply, connectors_of
from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
from pipeline_assets.ingestion.streaming.staged.events import stage_events
from pipeline_assets.ingestion.streaming.streams import record_streams
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets.ingestion.streaming.typed.table import rows_of
from pipeline_assets.processing.cleaning.raw_tables import load_raw_days
from pipeline_assets.processing.lake.tables import publish_days, read_all
from pipeline_assets.serving.realtime.log.writer import PredictionLog
from pipeline_assets_tests.logged_predictions import logged
from pipeline_assets_tests.stream_records import consume, until

PROJECT = Project(use_cases=(), platform=platform)
CONTRACT, *_ = (contract for contract, _ in PROJECT.lake_contracts)


@pytest.fixture
def connected(streams: Settings) -> Iterator[Settings]:
    """The connectors of the platform's topics run; of what other tests have logged before nothing is left."""
    connectors = connectors_of(PROJECT)
    forget_topic(streams, prediction_log.topic)
    assert [error for _, error in apply(streams, connectors) if error is not None] == []
    yield streams
    with open_connect(streams) as connect:
        for connector in connectors:
            connect.delete(connector.name)


def forget_topic(settings: Settings, topic: str) -> None:
    """Deletes a topic, if it is there."""
    client = AdminClient(client_config(settings))
    if topic in client.list_topics(timeout=30).topics:
        client.delete_topics([topic])[topic].result(30)
    until(lambda: topic not in client.list_topics(timeout=30).topics)


def landed(settings: Settings) -> int:
    """How many records of predictions have landed."""
    with catalog(settings) as lake:
        table = open_table(lake, names.landed(prediction_log.topic))
        return 0 if table is None else rows_of(table)


def produce_again(settings: Settings, count: int) -> None:
    """The first records of each partition once more, as they were."""
    producer = Producer({**client_config(settings), "acks": "all"})
    for message in consume(settings, prediction_log.topic)[:count]:
        producer.produce(prediction_log.topic, message.value(), message.key(), timestamp=message.timestamp()[1])
    assert producer.flush(30) == 0


def test_a_prediction_is_in_the_warehouse_by_the_way_of_every_stream(connected: Settings, tmp_path: Path) -> None:
    """Each answer is a row, bit for bit; records that a killed process had sent, and the next sent again, are there once."""
    now = datetime.now(UTC)
    records = [logged(number, asked_at=now) for number in range(500)]
    log = PredictionLog(connected, tmp_path, prediction_log.topic)
    log.put(records)
    log.close(30)
    produce_again(connected, 100)
    until(lambda: landed(connected), lambda found: found == 600)
    done = type_landed(connected, prediction_log, run_id="test", streams=record_streams(PROJECT), refetch=refetch_from(connected))
    (day,) = stage_events(connected, prediction_log, now.date(), now.date(), run_id="test").days
    published = publish_days(connected, CONTRACT, now.date(), now.date())
    loaded = load_raw_days(connected, CONTRACT, now.date(), now.date())
    with warehouse(connected) as connection:
        rows = connection.execute(
            "select prediction_id, features, scores, model_version, asked_at from raw.prediction_log order by prediction_id, logged_at"
        ).fetchall()
    typed = read_all(connected, names.typed(prediction_log.contract.name), ["prediction_id"]).read_all()

    assert log.counts().lost == {}
    assert (done.rows, done.broken, typed.num_rows) == (600, {}, 600)
    assert day.manifest.partition == now.date().isoformat()
    assert published.rows == loaded.rows == len(rows) == 500
    first = {row[0]: row for row in rows}
    for one in records:
        _, features, scores, version, asked_at = first[one.prediction_id]
        assert json.loads(features) == one.features
        assert json.loads(scores) == one.scores
        assert (version, asked_at) == (one.model_version, now)
