"""Records that a topic let go before they landed: said by their topic alone, and passed over once their loss is accepted."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from secrets import token_hex

import psycopg
import psycopg.sql
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.core.brokers import client_config
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.errors import UnknownName, UserInputError
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.stream_errors import OffsetsMissing
from pipeline_assets.ingestion.streaming.audit.audit import verify
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.ingestion.streaming.landing.losses import Claim, accept, accepted_of
from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
from pipeline_assets.ingestion.streaming.streams import record_streams
from pipeline_assets.ingestion.streaming.typed.rows import Typed, type_landed
from pipeline_assets.spec.sources import EventStream
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.landings import land, plain, records, stream_of

SENT, LANDED, KEPT_FROM = 30, 10, 20


@pytest.fixture
def settings(isolated: Settings, streams: Settings) -> Settings:
    """Services with an empty warehouse and bucket, and the broker of the session."""
    return isolated.model_copy(update={"kafka_bootstrap": streams.kafka_bootstrap})


@pytest.fixture
def project(settings: Settings) -> Iterator[Project]:
    """Two streams; of the topic of the first the records 10 to 19 neither landed nor are they kept, of the other all landed."""
    streams = tuple(replace(stream_of(f"{name}_{token_hex(4)}", f"{name}-{token_hex(6)}"), history=None) for name in ("gone", "whole"))
    topics = [stream.topic for stream in streams]
    ensure_topics(settings, [Topic(name=topic, partitions=1) for topic in topics])
    producer = Producer(client_config(settings))
    for topic in topics:
        for number in range(SENT):
            producer.produce(topic, value=plain(number))
    assert producer.flush(30) == 0
    with catalog(settings) as lake:
        for topic, spans in zip(topics, (((0, LANDED), (KEPT_FROM, SENT)), ((0, SENT),)), strict=True):
            for first, end in spans:
                land(lake, [replace(one, topic=topic) for one in records(first, end)], topic)
    admin = AdminClient(client_config(settings))
    (done,) = admin.delete_records([TopicPartition(topics[0], 0, KEPT_FROM)]).values()
    assert done.result(30).low_watermark == KEPT_FROM
    yield Project(use_cases=(replace(flights, sources=(), streams=streams),))
    for future in admin.delete_topics(topics).values():
        future.result(30)


def typed(settings: Settings, project: Project, stream: EventStream) -> Typed:
    """Types what has landed of a stream."""
    return type_landed(settings, stream, run_id="test", streams=record_streams(project), refetch=refetch_from(settings))


def claim(stream: EventStream, first: int, last: int, partition: int = 0) -> Claim:
    """That some offsets of a stream's topic are lost."""
    return Claim(topic=stream.topic, partition=partition, first_offset=first, last_offset=last, reason="kept too short", actor="a test")


def test_a_loss_stops_its_own_stream_until_it_is_accepted(settings: Settings, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each topic has a verdict before and after; the error names the command, and what was accepted is in the audit from then on."""
    monkeypatch.setattr("pipeline_assets.ingestion.streaming.audit.audit.PATIENCE_SECONDS", 0.0)
    gone, whole = project.streams
    assert typed(settings, project, whole).rows == SENT
    with pytest.raises(OffsetsMissing, match=f"`pipeline streams accept-loss {gone.topic} 0 10 19 --reason …`"):
        typed(settings, project, gone)
    before = {found.subject: found for found in verify(settings, project, meanwhile=lambda: None)}

    loss = accept(settings, record_streams(project), claim(gone, 10, 19))
    done = typed(settings, project, gone)
    after = {found.subject: found for found in verify(settings, project, meanwhile=lambda: None)}

    assert [bool(before[f"topic {stream.topic}"].problems) for stream in (gone, whole)] == [True, False]
    assert "offsets 0 to 29 have not landed" in before[f"topic {gone.topic}"].problems[0]
    assert (done.rows, done.offsets) == (SENT - 10, {0: (0, SENT)})
    assert [found.problems for found in after.values()] == [[], []]
    assert after[f"topic {gone.topic}"].accepted == [str(loss)]
    assert "10 offsets of partition 0, 10 to 19, accepted as lost by a test" in str(loss)
    assert after[f"topic {whole.topic}"].accepted == []


def test_what_is_not_lost_cannot_be_accepted(settings: Settings, project: Project) -> None:
    """Records that the topic keeps or that are typed, unknown topics and partitions: each is refused, and nothing is written."""
    gone, whole = project.streams
    typed(settings, project, whole)
    streams = record_streams(project)
    with pytest.raises(UserInputError, match="still keeps its records from offset 20 on"):
        accept(settings, streams, claim(gone, 15, 20))
    with pytest.raises(UserInputError, match=r"Offsets 40 to 50 .* are after its end, 30"):
        accept(settings, streams, claim(gone, 40, 50))
    with pytest.raises(UserInputError, match=r"Offsets 5 to 9 .* are not lost: they have landed"):
        accept(settings, streams, claim(gone, 5, 12))
    with pytest.raises(UnknownName, match="partition of topic"):
        accept(settings, streams, claim(gone, 10, 19, partition=7))
    with pytest.raises(UnknownName, match="topic"):
        accept(settings, streams, replace(claim(gone, 10, 19), topic="another"))
    admin = AdminClient(client_config(settings))
    next(iter(admin.delete_records([TopicPartition(whole.topic, 0, 5)]).values())).result(30)
    with pytest.raises(UserInputError, match=r"Offsets 0 to 4 of partition 0 .* are not lost: they have landed"):
        accept(settings, streams, claim(whole, 0, 4))

    assert (accepted_of(settings, gone.topic), accepted_of(settings, whole.topic)) == ((), ())


def test_an_accepted_loss_stays_for_ever(settings: Settings, project: Project) -> None:
    """The database itself refuses to change, delete or truncate what was accepted."""
    gone, _ = project.streams
    loss = accept(settings, record_streams(project), claim(gone, 10, 19))
    for statement in ("delete from {}", "update {} set reason = 'other'", "truncate {}"):
        with closing(warehouse(settings)) as connection, pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            connection.execute(psycopg.sql.SQL(statement).format(psycopg.sql.Identifier("quarantine", "accepted_losses")))

    assert accepted_of(settings, gone.topic) == (loss,)


def test_the_command_needs_a_reason() -> None:
    """Without one it says so and does nothing; so it does with an empty one."""
    without = CliRunner().invoke(app, ["streams", "accept-loss", "a-topic", "0", "1", "2"])
    empty = CliRunner().invoke(app, ["streams", "accept-loss", "a-topic", "0", "1", "2", "--reason", " "])

    assert (without.exit_code, empty.exit_code) == (2, 2)
    assert "--reason" in without.output
    assert "--reason" in empty.output
