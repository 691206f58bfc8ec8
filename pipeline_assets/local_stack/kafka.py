"""Apache Kafka: one node that is broker and controller, on the Java runtime of a wheel. Records stay until they are deleted."""

import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

from pipeline_assets.core.brokers import AUTHORITY, PASSWORD, PROTOCOL, USER
from pipeline_assets.core.errors import ServiceFailed
from pipeline_assets.local_stack import java
from pipeline_assets.local_stack.plan import HOST, KAFKA, Description, Ending, Plan, Service, has, private_folder, setting, write_private
from pipeline_assets.local_stack.ports import is_listening, require_free
from pipeline_assets.local_stack.processes import TAIL_LINES, marked_environment

BOOTSTRAP = setting("kafka_bootstrap")
# The port by which the broker reaches itself as controller.
CONTROLLER = "kafka-controller"
MEMORY_MB = 256
JARS = (java.BROKER,)
ANSWER_SECONDS = 2.0
OWN, LOGGING = "server.properties", "log4j2.properties"
LOG4J = """status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS'Z'}{UTC} %-5level %logger{1} %msg%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""
SERVER = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "BROKER",
    # Topics are created where they are declared; a misspelt name is an error and not a new topic.
    "auto.create.topics.enable": "false",
    # Records carry the time of the event, which may be years ago: nothing goes by age. Nor do the offsets of a consumer that pauses.
    "log.retention.ms": "-1",
    "log.retention.bytes": "-1",
    "offsets.retention.minutes": "2147483647",
    # One node is all copies there are.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # A consumer that starts does not wait for others to join it.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "6000",
    # A row with a large column must fit.
    "message.max.bytes": "16777216",
    # The controller writes a record to its log so often where nothing happens; two a second are for clusters that measure its lag.
    "metadata.max.idle.interval.ms": "10000",
    # For two cores and a quarter of a GiB.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "log.cleaner.dedupe.buffer.size": "16777216",
}


def service(plan: Plan) -> Service:
    """The broker of the stack."""
    folder, port = plan.home / KAFKA, plan.ports[KAFKA]
    return Service(
        name=KAFKA,
        command=program(plan, MEMORY_MB, java.properties_text(configuration(plan)), "kafka.Kafka", OWN),
        folder=folder,
        environment=java.ENVIRONMENT,
        port=port,
        url=address(port),
        is_ready=partial(is_ready, port),
        prepare=partial(prepare, plan, folder),
    )


def address(port: int) -> str:
    """The bootstrap list of the broker."""
    return f"{HOST}:{port}"


def configuration(plan: Plan) -> dict[str, str]:
    """The properties of the broker."""
    broker, controller = address(plan.ports[KAFKA]), address(plan.ports[CONTROLLER])
    return {
        **SERVER,
        "listeners": f"BROKER://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"BROKER://{broker}",
        "controller.quorum.voters": f"{SERVER['node.id']}@{controller}",
        # Where the process works, so that its list of folders is not cut at a comma in the path to them.
        "log.dirs": "data",
    }


def program(
    plan: Plan,
    memory_mb: int,
    settings: str,
    *rest: str,
    jars: Sequence[str] = (),
    properties: Mapping[str, str] = MappingProxyType({}),
) -> tuple[str, ...]:
    """The command that runs a class of Kafka's jars, and of other sets, with arguments and system properties.

    It runs in the folder of its service, and finds its files by their names alone. Other settings make another command, so that `up`
    starts it again.
    """
    own = {"log4j2.configurationFile": LOGGING, "settings": sha256(settings.encode()).hexdigest()}
    return java.command(memory_mb, {**own, **properties}, "-cp", java.class_path(plan.jars, (java.BROKER, *jars)), *rest)


def prepare(plan: Plan, folder: Path) -> None:
    """Check the jars, write the configuration, and format the data folder, once."""
    private_folder(folder)
    require_free(CONTROLLER, plan.ports[CONTROLLER])
    java.check(plan, JARS)
    write_private(folder / LOGGING, LOG4J)
    write_private(folder / OWN, java.properties_text(configuration(plan)))
    if not (folder / "data" / "meta.properties").exists():
        format_storage(plan, folder)


def format_storage(plan: Plan, folder: Path) -> None:
    """Give the data folder the identity of a new cluster; what `meta.properties` marks as formatted is left alone."""
    cluster = urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")
    arguments = ("format", f"--cluster-id={cluster}", "--ignore-formatted", "--config", OWN)
    command = program(plan, MEMORY_MB, "", "kafka.tools.StorageTool", *arguments)
    result = subprocess.run(  # noqa: S603 - the runtime of the wheel, by path
        command, cwd=folder, env={**marked_environment(plan.home, KAFKA), **java.ENVIRONMENT},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        raise ServiceFailed(KAFKA, "could not format its data folder", "\n".join(result.stdout.splitlines()[-TAIL_LINES:]))


def is_ready(port: int, _since: float) -> bool:
    """The broker returns its metadata, and lists itself among the brokers."""
    if not is_listening(port):
        return False
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        # The client would write to standard error that the broker does not answer yet.
        return bool(AdminClient({"bootstrap.servers": address(port), "log_level": 0}).list_topics(timeout=ANSWER_SECONDS).brokers)
    except KafkaException:
        return False


DESCRIPTION = Description(
    name=KAFKA,
    build=service,
    ports={KAFKA: 9092, CONTROLLER: 9093},
    settings=lambda plan: {BOOTSTRAP: address(plan.ports[KAFKA])},
    is_elsewhere=has(BOOTSTRAP),
    together=((USER, PASSWORD, BOOTSTRAP), (PASSWORD, USER), (PROTOCOL, BOOTSTRAP), (AUTHORITY, BOOTSTRAP)),
    jars=JARS,
    # It has segments to close.
    ending=Ending(turn=2, seconds=20.0),
)
