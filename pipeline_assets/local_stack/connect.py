"""Kafka Connect: one distributed worker with Debezium for PostgreSQL and the Iceberg sink."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pipeline_assets.core import names
from pipeline_assets.core.dsn import read_address
from pipeline_assets.core.settings import CATALOG_DSN, PREFIX
from pipeline_assets.local_stack import java
from pipeline_assets.local_stack.http import answers
from pipeline_assets.local_stack.kafka import BOOTSTRAP, LOG4J, program, text
from pipeline_assets.local_stack.plan import (
    CONNECT,
    HOST,
    KAFKA,
    Description,
    Ending,
    Plan,
    Service,
    has,
    private_folder,
    setting,
    write_private,
)

URL, SECRETS = setting("connect_url"), setting("connect_secrets")
MEMORY_MB = 512
JARS = (java.BROKER, java.DEBEZIUM, java.ICEBERG)
WORKER = {
    "group.id": "pipeline-connect",
    "config.storage.topic": "connect-configs",
    "offset.storage.topic": "connect-offsets",
    "status.storage.topic": "connect-status",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "offset.storage.partitions": "4",
    "status.storage.partitions": "2",
    "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
    "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
    "plugin.discovery": "service_load",
    "exactly.once.source.support": "enabled",
    "connector.client.config.override.policy": "All",
    # Sinks commit this often; what is landed is seen so much later.
    "offset.flush.interval.ms": "1000",
    # A worker that was killed and restarted resumes its tasks at once: there is no other to wait for.
    "scheduled.rebalance.max.delay.ms": "0",
    "session.timeout.ms": "10000",
    "heartbeat.interval.ms": "3000",
    # As the broker's message.max.bytes.
    "producer.max.request.size": "16777216",
    # Secrets stand in a file and not in the configuration of connectors, which the REST interface shows.
    "config.providers": "file",
    "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
}


def service(plan: Plan) -> Service:
    """The worker of the stack."""
    folder, port = plan.home / CONNECT, plan.ports[CONNECT]
    main = "org.apache.kafka.connect.cli.ConnectDistributed"
    return Service(
        name=CONNECT,
        command=program(plan, folder, MEMORY_MB, text(configuration(plan)), main, str(folder / "worker.properties")),
        folder=folder,
        port=port,
        url=url(port),
        is_ready=partial(answers, f"{url(port)}/health"),
        prepare=partial(prepare, plan, folder),
        finish=partial(write_secrets, plan),
    )


def url(port: int) -> str:
    """The address of the REST interface."""
    return f"http://{HOST}:{port}"


def secrets_file(home: Path) -> Path:
    """Where connectors take their secrets from."""
    return home / CONNECT / "secrets.properties"


def configuration(plan: Plan) -> dict[str, str]:
    """The properties of the worker."""
    plugins = [java.folder(plan.jars, name).parent for name in (java.DEBEZIUM, java.ICEBERG)]
    return {
        **WORKER,
        "bootstrap.servers": plan.settings[BOOTSTRAP],
        "listeners": url(plan.ports[CONNECT]),
        "rest.advertised.host.name": HOST,
        "rest.advertised.port": str(plan.ports[CONNECT]),
        "plugin.path": ",".join(str(folder) for folder in plugins),
        "config.providers.file.param.allowed.paths": str(secrets_file(plan.home).parent),
    }


def prepare(plan: Plan, folder: Path) -> None:
    """Check the jars, and write configuration and secrets."""
    private_folder(folder)
    java.check(plan, JARS)
    write_private(folder / "log4j2.properties", LOG4J)
    write_private(folder / "worker.properties", text(configuration(plan)))
    write_secrets(plan)


def write_secrets(plan: Plan) -> None:
    """The secrets of connectors, by the names that their configuration has for them."""
    write_private(secrets_file(plan.home), text(secrets(plan.settings)))


def secrets(settings: Mapping[str, str]) -> dict[str, str]:
    """The secrets among the settings that connectors need."""
    replication = f"{PREFIX}REPLICATION__"
    return {
        names.CONNECTOR_S3_ACCESS_KEY: settings[f"{PREFIX}S3_ACCESS_KEY"],
        names.CONNECTOR_S3_KEY: settings[f"{PREFIX}S3_SECRET_KEY"],
        names.CONNECTOR_CATALOG: _password(CATALOG_DSN, settings[CATALOG_DSN]),
        **{
            names.connector_replication(name.removeprefix(replication).lower()): _password(name, dsn)
            for name, dsn in settings.items()
            if name.startswith(replication)
        },
    }


def _password(name: str, dsn: str) -> str:
    """The password of a DSN; there is none where a certificate says who connects. Raises SettingNotSupported for a file of passwords."""
    address = read_address(name, dsn)
    password = address.parameters.get("password", "")
    if "passfile" in address.parameters and not password:
        raise address.refused(
            "passfile", "Kafka Connect", "Write the password into the DSN: it is kept in a file that only its owner reads."
        )
    return password


DESCRIPTION = Description(
    name=CONNECT,
    build=service,
    ports={CONNECT: 8083},
    settings=lambda plan: {URL: url(plan.ports[CONNECT]), SECRETS: str(secrets_file(plan.home))},
    is_elsewhere=has(URL),
    # A path made up here would lead nowhere on another machine.
    together=((URL, SECRETS),),
    needs=(KAFKA,),
    jars=JARS,
    # It waits for its tasks.
    ending=Ending(seconds=15.0),
)
