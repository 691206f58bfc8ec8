"""The declaration of a topic of JSON records, from the newest of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline_assets.core.brokers import strict_config
from pipeline_assets.core.errors import ProposalRefused, SourceUnavailable, UnknownName
from pipeline_assets.core.settings import BrokerSettings
from pipeline_assets.ingestion.sources.proposals.code import text
from pipeline_assets.ingestion.sources.proposals.module import module_text
from pipeline_assets.ingestion.sources.proposals.proposal import Proposal, name_of, proposed
from pipeline_assets.ingestion.sources.proposals.samples import SAMPLE_BYTES, SAMPLE_SECONDS, Column, Sample, json_columns
from pipeline_assets.ingestion.sources.proposals.times import has_known_name
from pipeline_assets.ingestion.streaming.capture.topics import topic_names, watermarks

RECEIVED = "When the record was written to the topic, and so could be known."


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record with its time in the topic."""

    value: bytes
    received_at: datetime


def propose_topic(settings: BrokerSettings, topic: str, name: str | None, rows: int) -> tuple[Proposal, str]:
    """The proposal of a topic, and its module; at most so many records are read, the newest of each partition.

    An event is known at a field whose name says so, else at the record's time in the topic. Raises UnknownName where there is no such
    topic, ProposalRefused where it has no records of JSON, SourceUnavailable where the broker does not answer.
    """
    wanted = name or name_of(topic)
    known = topic_names(settings)
    if topic not in known:
        raise UnknownName("topic", topic, known)
    records = list(_newest(settings, topic, rows))
    read = json_columns([record.value for record in records])
    if not read.kept:
        raise ProposalRefused(wanted, f"none of {len(records):,} records of the topic is a JSON object")
    sample = Sample(
        columns=read.columns,
        rows=len(read.kept),
        unreadable=len(records) - len(read.kept),
        looked_at=f"the newest {len(records):,} records of topic {text(topic)}",
        remarks=read.remarks,
    )
    return _declared(wanted, topic, sample, [records[place].received_at for place in read.kept])


def _declared(name: str, topic: str, sample: Sample, received_at: Sequence[datetime]) -> tuple[Proposal, str]:
    others: list[tuple[str, Any]] = [("topic", topic)]
    if any(column.type == "timestamp" and not column.nulls and has_known_name(column.name) for column in sample.columns):
        proposal = proposed(name, sample)
        return proposal, module_text(proposal, "EventStream", others)
    taken = {column.name for column in sample.columns}
    added = next(each for each in ("received_at", *(f"received_at_{n}" for n in range(len(taken)))) if each not in taken)
    column = Column(name=added, type="timestamp", values=received_at, required=True, is_added=True, description=RECEIVED)
    proposal = proposed(name, replace(sample, columns=[*sample.columns, column]), known_at=added)
    return proposal, module_text(proposal, "EventStream", [*others, ("known_at_record_time", True)])


def _newest(settings: BrokerSettings, topic: str, rows: int) -> Iterator[Record]:
    """The newest records of each partition, as many of each, up to the bounds of a sample; those without a value are left out."""
    ends = {number: span for (_, number), span in watermarks(settings, [topic]).items() if span[0] < span[1]}
    share = -(-rows // max(len(ends), 1))
    starts = {number: max(begin, end - share) for number, (begin, end) in ends.items()}
    # It commits no offset, so the group is shared with nobody.
    config = {**strict_config(settings), "group.id": "pipeline-propose", "enable.auto.commit": False, "log_level": 3}
    consumer = Consumer({**config, "isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    try:
        consumer.assign([TopicPartition(topic, number, start) for number, start in starts.items()])
        yield from _records(consumer, {number: end for number, (_, end) in ends.items()}, rows)
    except KafkaException as error:
        raise SourceUnavailable("Kafka", f"did not answer: {error.args[0]}") from error
    finally:
        consumer.close()


def _records(consumer: Consumer, ends: Mapping[int, int], rows: int) -> Iterator[Record]:
    left, deadline, count, size = set(ends), monotonic() + SAMPLE_SECONDS, 0, 0
    while left and count < rows and size < SAMPLE_BYTES:
        record = consumer.poll(max(0.0, deadline - monotonic()))
        if record is None:
            return
        number, offset, problem, value = record.partition(), record.offset(), record.error(), record.value()
        if problem is not None and problem.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the name that the library documents
            raise KafkaException(problem)
        if number is None or offset is None or problem is not None or offset >= ends.get(number, 0):
            left.discard(number if number is not None else -1)
        elif value is not None:
            kind, at = record.timestamp()
            yield Record(value=value, received_at=datetime.fromtimestamp(at / 1000 if kind else 0, UTC))
            count, size = count + 1, size + len(value)
