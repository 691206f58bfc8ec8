"""Kafka Connect: one distributed worker with Debezium for PostgreSQL and the Iceberg sink."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pipeline_assets.core.dsn import password_lines, read_address
from pipeline_assets.core.settings import CATALOG_DSN, PREFIX
from pipeline_assets.local_stack import java
from pipeline_assets.local_stack.http import answers
from pipeline_assets.local_stack.kafka import BOOTSTRAP, LOG4J, LOGGING, program
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

URL, USER, PASSWORD = setting("connect_url"), setting("connect_user"), setting("connect_password")
# Whoever uses the REST interface, as the worker knows them, and the secret that is their password.
CALLER, SECRET = "pipeline", "connect_password"
OWN, LOGIN, CALLERS = "worker.properties", "login.conf", "callers.properties"
MEMORY_MB = 512
JARS = (java.BROKER, java.CONNECT_LOGIN, java.DEBEZIUM, java.ICEBERG)
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
    # What a connector may say of the clients of its records; not which brokers they use, nor with what they log in. Clients of its
    # own it can point elsewhere (`iceberg.kafka.…`, `signal.…`): these know no secret.
    "connector.client.config.override.policy": "Allowlist",
    "connector.client.config.override.allowlist": "session.timeout.ms,auto.offset.reset,isolation.level",
    # Each request needs a name and a password, that for the health as well.
    "rest.extension.classes": "org.apache.kafka.connect.rest.basic.auth.extension.BasicAuthSecurityRestExtension",
    # Sinks commit this often; what is landed is seen so much later.
    "offset.flush.interval.ms": "1000",
    # A worker that was killed and restarted resumes its tasks at once: there is no other to wait for.
    "scheduled.rebalance.max.delay.ms": "0",
    "session.timeout.ms": "10000",
    "heartbeat.interval.ms": "3000",
    # Consumers ask again so often where nothing comes; what comes is sent at once.
    "fetch.max.wait.ms": "2000",
    "consumer.fetch.max.wait.ms": "2000",
    # As the broker's message.max.bytes.
    "producer.max.request.size": "16777216",
    # There are no `config.providers`: a configuration that could name a secret could also say where to send it.
}
# Else a configuration brings providers of its own, for itself or a client below a prefix, and has them read files and the environment
# (CVE-2024-31141).
NO_PROVIDERS = {"org.apache.kafka.automatic.config.providers": "none"}


def service(plan: Plan) -> Service:
    """The worker of the stack; secrets are in its environment and in files, not on its command line nor in configurations of connectors."""
    folder, port = plan.home / CONNECT, plan.ports[CONNECT]
    main = "org.apache.kafka.connect.cli.ConnectDistributed"
    return Service(
        name=CONNECT,
        command=program(
            plan, MEMORY_MB, java.properties_text(configuration(plan)), main, OWN,
            jars=(java.CONNECT_LOGIN,), properties={"java.security.auth.login.config": LOGIN, **NO_PROVIDERS},
        ),
        folder=folder,
        environment={
            **java.ENVIRONMENT,
            # A password goes to the server, and for the role, that its line names, wherever a connector is pointed to.
            "PGPASSFILE": str(password_file(plan.home)),
            # The object store's secret signs requests and is never sent.
            "AWS_ACCESS_KEY_ID": plan.settings[f"{PREFIX}S3_ACCESS_KEY"],
            "AWS_SECRET_ACCESS_KEY": plan.settings[f"{PREFIX}S3_SECRET_KEY"],
        },
        port=port,
        url=url(port),
        is_ready=partial(answers, f"{url(port)}/health", login=(CALLER, plan.secrets[SECRET])),
        prepare=partial(prepare, plan, folder),
        finish=partial(write_passwords, plan),
    )  # fmt: skip


def url(port: int) -> str:
    """The address of the REST interface."""
    return f"http://{HOST}:{port}"


def password_file(home: Path) -> Path:
    """Where connectors find the passwords of databases."""
    return home / CONNECT / "pgpass"


def configuration(plan: Plan) -> dict[str, str]:
    """The properties of the worker. The connectors that it can run are those of `plugin.path`, and no others."""
    plugins = [java.folder(plan.jars, name).parent for name in (java.DEBEZIUM, java.ICEBERG)]
    return {
        **WORKER,
        "bootstrap.servers": plan.settings[BOOTSTRAP],
        "listeners": url(plan.ports[CONNECT]),
        "rest.advertised.host.name": HOST,
        "rest.advertised.port": str(plan.ports[CONNECT]),
        "plugin.path": ",".join(str(folder) for folder in plugins),
    }


def prepare(plan: Plan, folder: Path) -> None:
    """Check the jars, and write configuration, login and passwords."""
    private_folder(folder)
    java.check(plan, JARS)
    write_private(folder / LOGGING, LOG4J)
    write_private(folder / OWN, java.properties_text(configuration(plan)))
    write_login(plan, folder)
    write_passwords(plan)


def write_login(plan: Plan, folder: Path) -> None:
    """Who may use the REST interface, and with what password."""
    login = "org.apache.kafka.connect.rest.basic.auth.extension.PropertyFileLoginModule"
    write_private(folder / LOGIN, f'KafkaConnect {{ {login} required file="{CALLERS}"; }};\n')
    write_private(folder / CALLERS, java.properties_text({CALLER: plan.secrets[SECRET]}))


def write_passwords(plan: Plan) -> None:
    """The passwords of databases, as PostgreSQL's clients look them up."""
    write_private(password_file(plan.home), "".join(f"{line}\n" for line in passwords(plan.settings)))


def passwords(settings: Mapping[str, str]) -> list[str]:
    """A line for each server and role that connectors log in to: the catalog's, and those that read changes.

    There is none where a certificate says who connects. Raises SettingNotSupported for a file of passwords.
    """
    wanted = [CATALOG_DSN, *(name for name in settings if name.startswith(f"{PREFIX}REPLICATION__"))]
    return list(dict.fromkeys(line for name in wanted for line in password_lines(read_address(name, settings[name]), "Kafka Connect")))


def _settings(plan: Plan) -> dict[str, str]:
    """Its address and the login; that is not for a worker elsewhere, which should not get it."""
    login = {} if URL in plan.given else {USER: CALLER, PASSWORD: plan.secrets[SECRET]}
    return {URL: url(plan.ports[CONNECT]), **login}


DESCRIPTION = Description(
    name=CONNECT,
    build=service,
    ports={CONNECT: 8083},
    secrets=(SECRET,),
    settings=_settings,
    is_elsewhere=has(URL),
    together=((USER, PASSWORD), (PASSWORD, USER)),
    needs=(KAFKA,),
    jars=JARS,
    # It waits for its tasks.
    ending=Ending(seconds=15.0),
)
