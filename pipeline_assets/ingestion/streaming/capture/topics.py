"""Topics of the broker: made as declared, and how far they reach."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from pipeline_assets.core.brokers import strict_config
from pipeline_assets.core.errors import SourceRefused, SourceUnavailable
from pipeline_assets.core.settings import BrokerSettings, Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, OffsetSpec

ANSWER_SECONDS, HEAR_SECONDS = 30.0, 5.0


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A topic as it should be. `configs` are the settings of the topic that differ from the broker's."""

    name: str
    partitions: int
    configs: Mapping[str, str] = field(default_factory=dict)


def ensure_topics(settings: Settings, topics: Sequence[Topic]) -> None:
    """Have the topics: missing ones are made, missing partitions and other configs are set; what exists beyond that stays.

    Raises SourceRefused for a topic that has more partitions than declared, which Kafka cannot take back; SourceUnavailable if the broker
    does not answer.
    """
    from confluent_kafka.admin import NewPartitions, NewTopic

    client = _admin(settings)
    known = _partitions(client)
    for topic in topics:
        if known.get(topic.name, 0) > topic.partitions:
            problem = (
                f"topic '{topic.name}' has {known[topic.name]} partitions, declared are {topic.partitions}, and none can be taken away"
            )
            raise SourceRefused("Kafka", problem)
    new = [topic for topic in topics if topic.name not in known]
    grown = [topic for topic in topics if topic.name in known and known[topic.name] < topic.partitions]
    if new:
        _wait(client.create_topics([NewTopic(each.name, each.partitions, -1, config=dict(each.configs)) for each in new]))
    if grown:
        _wait(client.create_partitions([NewPartitions(each.name, each.partitions) for each in grown]))
    _set_configs(client, [topic for topic in topics if topic.configs and topic not in new])


def end_offsets(settings: Settings, topics: Sequence[str]) -> dict[tuple[str, int], int]:
    """The offset that the next record of each partition will get; topics that are not there are left out."""
    from confluent_kafka.admin import OffsetSpec

    return _offsets(_admin(settings), topics, OffsetSpec.latest())


def watermarks(settings: BrokerSettings, topics: Sequence[str]) -> dict[tuple[str, int], tuple[int, int]]:
    """Of each partition the first offset that it still keeps and the one that its next record will get; as `end_offsets`."""
    from confluent_kafka.admin import OffsetSpec

    client = _admin(settings)
    # The last first: what is let go meanwhile shows as an empty partition, and never as one that ends before it begins.
    ends, begins = (_offsets(client, topics, spec) for spec in (OffsetSpec.latest(), OffsetSpec.earliest()))
    return {place: (min(begins.get(place, end), end), end) for place, end in ends.items()}


def topic_names(settings: BrokerSettings) -> list[str]:
    """The topics of the broker that are not its own."""
    return sorted(name for name in _partitions(_admin(settings)) if not name.startswith("__"))


def _offsets(client: "AdminClient", topics: Sequence[str], spec: "OffsetSpec") -> dict[tuple[str, int], int]:
    from confluent_kafka import TopicPartition

    known = _partitions(client)
    asked = {TopicPartition(name, number): spec for name in topics for number in range(known.get(name, 0))}
    found = client.list_offsets(asked, request_timeout=ANSWER_SECONDS) if asked else {}
    return {(partition.topic, partition.partition): _result(future).offset for partition, future in found.items()}


def _admin(settings: BrokerSettings) -> "AdminClient":
    from confluent_kafka.admin import AdminClient

    # What goes wrong is raised; the library would print every connection that ends as well, and every login that is refused.
    return AdminClient({**strict_config(settings), "log_level": 0})


def _partitions(client: "AdminClient") -> dict[str, int]:
    """How many partitions each topic of the broker has; asked in pieces, as only between them one hears that the login is refused."""
    from confluent_kafka import KafkaException

    deadline = monotonic() + ANSWER_SECONDS
    while True:
        try:
            found = client.list_topics(timeout=min(HEAR_SECONDS, ANSWER_SECONDS)).topics
        except KafkaException as error:
            client.poll(0)
            if monotonic() >= deadline:
                raise _source_error(error) from error
        else:
            return {name: len(topic.partitions) for name, topic in found.items()}


def _set_configs(client: "AdminClient", topics: Sequence[Topic]) -> None:
    """Set the declared configs; what else a topic was given stays."""
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    resources = []
    for topic in topics:
        entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in topic.configs.items()]
        resources.append(ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries))
    if resources:
        _wait(client.incremental_alter_configs(resources))


def _wait(futures: "Mapping[Any, Future[Any]]") -> None:
    """Return once all is done; what another process did meanwhile counts as done."""
    from confluent_kafka import KafkaError, KafkaException

    for future in futures.values():
        try:
            future.result(ANSWER_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise _source_error(error) from error


def _result(future: "Future[Any]") -> Any:
    from confluent_kafka import KafkaException

    try:
        return future.result(ANSWER_SECONDS)
    except KafkaException as error:
        raise _source_error(error) from error


def _source_error(error: "KafkaException") -> SourceUnavailable | SourceRefused:
    """The error as one of the product's: the broker does not answer, or it refuses."""
    reason = error.args[0]
    return SourceUnavailable("Kafka", f"did not answer: {reason}") if _is_passing(reason) else SourceRefused("Kafka", str(reason))


def _is_passing(reason: "KafkaError") -> bool:
    return bool(reason.retriable()) or reason.code() < 0
