"""Kafka Connect: one distributed worker with Debezium for PostgreSQL and the Iceberg sink."""

from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError

from pipeline_assets.core.brokers import JAAS, java_config
from pipeline_assets.core.dsn import password_lines, read_address
from pipeline_assets.core.setting_problems import problem_of
from pipeline_assets.core.settings import CATALOG_DSN, PREFIX, BrokerSettings
from pipeline_assets.local_stack import java
from pipeline_assets.local_stack.http import answers
from pipeline_assets.local_stack.kafka import LOG4J, LOGGING, program
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
OWN, LOGIN, CALLERS, SASL = "worker.properties", "login.conf", "callers.properties", "sasl.properties"
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
# The worker's own clients, and those that it makes for connectors.
CLIENTS = ("", "producer.", "consumer.", "admin.")
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
            plan, MEMORY_MB, java.properties_text(open_part(plan)), main, OWN,
            jars=(java.CONNECT_LOGIN,), properties={"java.security.auth.login.config": LOGIN, **NO_PROVIDERS, **_sasl(plan)},
        ),
        folder=folder,
        environment={
            **java.ENVIRONMENT,
            # By it `up` knows that the login has changed; the command line has no trace of it.
            "KAFKA_LOGIN": sha256(java.properties_text(configuration(plan)).encode()).hexdigest(),
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
        **{f"{part}{name}": value for name, value in java_config(brokers(plan)).items() for part in CLIENTS},
        "listeners": url(plan.ports[CONNECT]),
        "rest.advertised.host.name": HOST,
        "rest.advertised.port": str(plan.ports[CONNECT]),
        "plugin.path": ",".join(str(folder) for folder in plugins),
    }


def open_part(plan: Plan) -> dict[str, str]:
    """Those of them that are no secret."""
    return {name: value for name, value in configuration(plan).items() if not name.endswith(JAAS)}


def _sasl(plan: Plan) -> dict[str, str]:
    """Has no client send the password to brokers as it is, unless that is how the worker logs in.

    Iceberg's sink gives its own clients the properties of the worker, and a connector may point them elsewhere (`iceberg.kafka.…`).
    """
    return {} if brokers(plan).kafka_mechanism == "PLAIN" else {"java.security.properties": SASL}


def brokers(plan: Plan) -> BrokerSettings:
    """The brokers that the worker uses, and how it logs in to them; raises SettingsMalformed."""
    known = {name: plan.settings[setting(name)] for name in BrokerSettings.model_fields if setting(name) in plan.settings}
    try:
        return BrokerSettings.model_validate({**known, "home": plan.home})
    except ValidationError as error:
        problem = problem_of(error, PREFIX)
    raise problem


def prepare(plan: Plan, folder: Path) -> None:
    """Check the jars, and write configuration, login and passwords."""
    private_folder(folder)
    java.check(plan, JARS)
    write_private(folder / LOGGING, LOG4J)
    write_private(folder / OWN, java.properties_text(configuration(plan)))
    write_private(folder / SASL, java.properties_text({"jdk.sasl.disabledMechanisms": "PLAIN"}))
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
