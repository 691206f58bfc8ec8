"""Clients of Kafka log in to brokers that ask for it, over TLS, and say what is wrong where they are refused."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from pydantic import SecretStr

from pipeline_assets.core.errors import PipelineError, SourceUnavailable
from pipeline_assets.core.settings import BrokerSettings, Settings
from pipeline_assets.ingestion.streaming.capture.topics import ANSWER_SECONDS, Topic, ensure_topics, topic_names, watermarks
from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
from pipeline_assets.model_lifecycle.feature_store.online.consumer import open_consumer
from pipeline_assets.serving.realtime.log.acked import Acked, AckedProducer, Outgoing
from pipeline_assets.serving.realtime.log.sender import Sender
from pipeline_assets.serving.realtime.log.spool import Record
from pipeline_assets_tests.stream_records import until
from pipeline_assets_tests.tls import make_authority
from pipeline_assets_tests.tls_broker import PASSWORD, TlsBroker, tls_broker

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
WRONG = "guessed-password"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    """A broker with SASL_SSL alone."""
    with tls_broker(tmp_path_factory.mktemp("broker")) as found:
        yield found


def all_settings(settings: BrokerSettings) -> Settings:
    """The same for what asks for the settings of all parts."""
    return Settings.model_construct(**dict(settings))


def polled(sender: Sender) -> bool:
    """Takes what has come; always true."""
    sender.poll(0.1)
    return True


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_each_client_works_with_a_broker_that_asks_for_a_login_over_tls(broker: TlsBroker, mechanism: str) -> None:
    """Topics are made, records written and acknowledged, found, and read, by each mechanism."""
    settings, topic = broker.settings(mechanism), f"orders-{mechanism}"
    ensure_topics(all_settings(settings), [Topic(name=topic, partitions=1)])
    producer = AckedProducer(settings)
    outcomes = asyncio.run(producer.send([Outgoing(topic=topic, key=b"1", value=b"first")]))
    producer.close()
    settled: list[str | None] = []
    sender = Sender(settings, topic, lambda _, problem: settled.append(problem))
    sender.send(Record(b"2", b"second", 0), None)
    until(lambda: polled(sender) and settled)
    sender.close()

    assert outcomes == [Acked(partition=0, offset=0)]
    assert settled == [None]
    assert watermarks(settings, [topic]) == {(topic, 0): (0, 2)}
    assert [one.payload for one in refetch_from(all_settings(settings))(topic, 0, 0, 1)] == [b"first", b"second"]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_wrong_password_is_said_at_once(broker: TlsBroker, mechanism: str) -> None:
    """The error names the setting and what the broker says, and no password; it does not come as a broker that never answers."""
    begun = monotonic()
    with pytest.raises(SourceUnavailable, match=r"PIPELINE_KAFKA_USER .*[Aa]uthentication") as failure:
        topic_names(broker.settings(mechanism, kafka_password=SecretStr(WRONG)))

    assert monotonic() - begun < ANSWER_SECONDS
    assert WRONG not in str(failure.value)
    assert PASSWORD not in str(failure.value)


def test_a_consumer_with_a_wrong_password_ends(broker: TlsBroker) -> None:
    """What polls it raises the reason: a worker would wait for ever for partitions."""
    consumer = open_consumer(all_settings(broker.settings("SCRAM-SHA-512", kafka_password=SecretStr(WRONG))))
    consumer.subscribe(["anything"])

    with pytest.raises(SourceUnavailable, match="PIPELINE_KAFKA_USER"):
        until(lambda: consumer.poll(0.5))
    consumer.close()


def test_a_log_keeps_its_records_and_notes_that_the_login_is_refused(broker: TlsBroker) -> None:
    """Records wait as where Kafka is away, and the reason is known."""
    sender = Sender(broker.settings("PLAIN", kafka_password=SecretStr(WRONG)), "anything", lambda *_: None)
    sender.send(Record(b"1", b"kept", 0), None)
    until(lambda: polled(sender) and sender.failed)

    assert "PIPELINE_KAFKA_USER" in str(sender.failed)
    assert sender.in_memory == 1
    sender.close()


def test_a_broker_of_another_authority_gets_no_password(broker: TlsBroker, tmp_path: Path) -> None:
    """Whose certificate nobody known has signed is refused, by name of the settings of TLS."""
    other = make_authority(tmp_path, "others").certificate
    with pytest.raises(SourceUnavailable, match="PIPELINE_KAFKA_AUTHORITY"):
        topic_names(broker.settings("PLAIN", kafka_authority=other))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"kafka_password": None}, "PIPELINE_KAFKA_PASSWORD"),
        ({"kafka_security_protocol": "SSL"}, "PIPELINE_KAFKA_SECURITY_PROTOCOL"),
        ({"kafka_authority": Path("/nowhere.pem")}, "PIPELINE_KAFKA_AUTHORITY"),
    ],
)
def test_settings_that_do_not_fit_are_named_before_anything_is_sent(broker: TlsBroker, more: dict[str, object], named: str) -> None:
    """A login without a password, a login that would not be used, an authority that is no file."""
    with pytest.raises(PipelineError, match=named):
        topic_names(broker.settings("PLAIN", **more))
