"""The audit of a real topic: complete after typing, and every kind of loss that is made by hand is found."""

from collections.abc import Callable
from secrets import token_hex

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from pipeline_assets.core import names
from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import catalog
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.audit import audit as integrity
from pipeline_assets.ingestion.streaming.audit.audit import verify_topic
from pipeline_assets.ingestion.streaming.capture.topics import Topic, end_offsets, ensure_topics
from pipeline_assets.ingestion.streaming.typed.rows import type_landed
from pipeline_assets.spec.sources import EventStream
from pipeline_assets_tests.landings import Landed, land, plain, stream_of
from pipeline_assets_tests.stream_records import produce, until

RECORDS, PARTITIONS = 1_200, 2


@pytest.fixture
def settings(isolated: Settings, streams: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty lake and warehouse beside a real broker; nobody waits long for what does not come."""
    monkeypatch.setattr(integrity, "PATIENCE_SECONDS", 0.0)
    return isolated.model_copy(update={"kafka_bootstrap": streams.kafka_bootstrap})


@pytest.fixture
def stream(settings: Settings) -> EventStream:
    """A stream whose topic has 1,200 records, 40 of them broken, all of them landed and typed."""
    stream = stream_of("audited", topic=f"test-{token_hex(6)}")
    ensure_topics(settings, [Topic(name=stream.topic, partitions=PARTITIONS)])
    send(settings, stream, [b"{" if number % 30 == 0 else plain(number) for number in range(RECORDS)])
    assert type_landed(settings, stream, run_id="test").rows == RECORDS - 40
    return stream


def send(settings: Settings, stream: EventStream, values: list[bytes]) -> None:
    """Puts values on the topic, and lands them as Kafka Connect would."""
    begin = {number: end for (_, number), end in end_offsets(settings, [stream.topic]).items()}
    produce(settings, stream.topic, values, partitions=PARTITIONS)
    places = [(number % PARTITIONS, begin[number % PARTITIONS] + number // PARTITIONS) for number in range(len(values))]
    with catalog(settings) as lake:
        landed = [
            Landed(offset=offset, payload=value, partition=number, topic=stream.topic)
            for (number, offset), value in zip(places, values, strict=True)
        ]
        land(lake, landed, stream.topic)


def test_a_typed_topic_is_complete(settings: Settings, stream: EventStream) -> None:
    """Rows and quarantine together hold each record once."""
    verdict = verify_topic(settings, [stream], stream.topic)

    assert (verdict.compared, verdict.problems) == (RECORDS, [])


def test_what_a_producer_took_back_is_not_waited_for(settings: Settings, stream: EventStream) -> None:
    """A topic that ends with more aborted records than are asked for one by one is complete."""
    producer = Producer({**client_config(settings), "transactional.id": stream.topic})
    producer.init_transactions(60)
    producer.begin_transaction()
    for number in range(RECORDS):
        producer.produce(stream.topic, plain(number), partition=number % PARTITIONS)
    producer.flush(60)
    producer.abort_transaction(60)
    verdict = verify_topic(settings, [stream], stream.topic)

    assert sum(end_offsets(settings, [stream.topic]).values()) > 2 * RECORDS
    assert (verdict.compared, verdict.problems) == (RECORDS, [])


def test_records_that_are_not_typed_yet_wait_and_are_not_lost(
    settings: Settings, stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted as waiting; once they are typed while the audit waits for them, all is well."""
    send(settings, stream, [plain(number) for number in range(6)])
    early = verify_topic(settings, [stream], stream.topic)
    monkeypatch.setattr(integrity, "PATIENCE_SECONDS", 30.0)
    late = verify_topic(settings, [stream], stream.topic, meanwhile=lambda: type_landed(settings, stream, run_id="test"))

    assert early.problems == ["6 records are not typed yet"]
    assert (late.compared, late.problems) == (RECORDS + 6, [])


def lose_rows(settings: Settings, stream: EventStream) -> None:
    """Takes three rows out of the typed table."""
    with catalog(settings) as lake:
        lake.load_table(names.typed(stream.contract.name)).delete("_partition = 1 and _offset >= 101 and _offset < 104")


def lose_quarantine(settings: Settings, stream: EventStream) -> None:
    """Takes a broken record out of quarantine."""
    import psycopg

    with psycopg.connect(settings.warehouse_dsn.get_secret_value()) as connection:
        connection.execute("delete from quarantine.rows where topic = %s and topic_offset = 15", [stream.topic])


def double_rows(settings: Settings, stream: EventStream) -> None:
    """Writes the typed rows of one record once more."""
    with catalog(settings) as lake:
        table = lake.load_table(names.typed(stream.contract.name))
        table.append(table.scan("_partition = 0 and _offset = 7").to_arrow())


def make_topic_anew(settings: Settings, stream: EventStream) -> None:
    """Deletes the topic and makes it again, with fewer records than it had."""
    client = AdminClient(client_config(settings))
    client.delete_topics([stream.topic])[stream.topic].result(30)
    until(lambda: end_offsets(settings, [stream.topic]), lambda found: found == {})
    ensure_topics(settings, [Topic(name=stream.topic, partitions=PARTITIONS)])
    produce(settings, stream.topic, [plain(1), plain(2)], partitions=PARTITIONS)


@pytest.mark.parametrize(
    ("harm", "problems"),
    [
        (lose_rows, ["3 records of partition 1 are lost: offsets 101 to 103"]),
        (lose_quarantine, ["1 records of partition 0 are lost: offsets 15 to 15"]),
        (double_rows, ["1 records of partition 0 are duplicated: offsets 7 to 7"]),
        (
            make_topic_anew,
            [
                f"599 records of partition {number} are read and no longer in the topic, which was created again: offsets 1 to 599"
                for number in range(PARTITIONS)
            ],
        ),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_every_harm_is_found(
    settings: Settings, stream: EventStream, harm: Callable[[Settings, EventStream], None], problems: list[str]
) -> None:
    """A lost row, a lost quarantined record, a duplicated row, a topic created again: each is reported with its offsets."""
    harm(settings, stream)

    assert verify_topic(settings, [stream], stream.topic).problems == problems
