"""How clients of Kafka reach its brokers and log in to them, as the settings say, and what is wrong where brokers refuse that."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_assets.core.errors import SettingsMalformed, SettingsMissing, SourceUnavailable
from pipeline_assets.core.problems import MalformedSetting
from pipeline_assets.core.settings import PREFIX, BrokerSettings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

JAAS = "sasl.jaas.config"
PROTOCOL, USER, PASSWORD, AUTHORITY = (f"{PREFIX}KAFKA_{name}" for name in ("SECURITY_PROTOCOL", "USER", "PASSWORD", "AUTHORITY"))


def client_config(settings: BrokerSettings) -> dict[str, Any]:
    """What each client is made with, in the terms of librdkafka.

    Raises SettingsMissing where the protocol needs a login and there is none, SettingsMalformed for a login that it would not use, and for
    an authority that is no file.
    """
    protocol = settings.kafka_security_protocol
    config = {"bootstrap.servers": settings.kafka_bootstrap, "security.protocol": protocol}
    if protocol.startswith("SASL_"):
        config |= _login(settings)
    elif settings.kafka_user is not None:
        raise SettingsMalformed(
            [MalformedSetting(PROTOCOL, f"uses no login, though there is {USER}", "SASL_SSL or SASL_PLAINTEXT", protocol)]
        )
    if settings.kafka_authority is not None and protocol.endswith("SSL"):
        if not settings.kafka_authority.is_file():
            shown = str(settings.kafka_authority)
            raise SettingsMalformed([MalformedSetting(AUTHORITY, "is no file", "a PEM file with certificates of authorities", shown)])
        config["ssl.ca.location"] = str(settings.kafka_authority)
    return config


def _login(settings: BrokerSettings) -> dict[str, str]:
    user, password = settings.kafka_user, settings.kafka_password
    if user is None or password is None:
        raise SettingsMissing([name for name, value in ((USER, user), (PASSWORD, password)) if value is None])
    return {"sasl.mechanism": settings.kafka_mechanism, "sasl.username": user, "sasl.password": password.get_secret_value()}


def java_config(settings: BrokerSettings) -> dict[str, str]:
    """The same in the terms of Kafka's own clients in Java, with what they trust as a file; the password is in `JAAS` alone."""
    config = client_config(settings)
    java = {name: config[name] for name in ("bootstrap.servers", "security.protocol", "sasl.mechanism") if name in config}
    if "sasl.mechanism" in config:
        module = "plain.PlainLoginModule" if config["sasl.mechanism"] == "PLAIN" else "scram.ScramLoginModule"
        user, password = (re.sub(r'(["\\])', r"\\\1", config[f"sasl.{name}"]) for name in ("username", "password"))
        java[JAAS] = f'org.apache.kafka.common.security.{module} required username="{user}" password="{password}";'
    if "ssl.ca.location" in config:
        java |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(Path(config["ssl.ca.location"]).resolve())}
    return java


def strict_config(settings: BrokerSettings) -> dict[str, Any]:
    """The same for a client that ends at once where brokers refuse it: what polls it raises SourceUnavailable.

    Not SourceRefused: a broker that is restarted ends connections in the middle of their login. The library itself would try again until
    time is up, and then say that no broker answers.
    """
    return {**client_config(settings), "error_cb": refuse}


def refuse(error: "KafkaError") -> None:
    """Raises SourceUnavailable for an error of the login, or of the certificate; others pass."""
    problem = refusal(error)
    if problem is not None:
        raise SourceUnavailable("Kafka", f"refused {problem}")


def refusal(error: "KafkaError") -> str | None:
    """Why brokers refuse a client, or it refuses them; None for other errors."""
    from confluent_kafka import KafkaError

    # So the library names its own errors.
    if error.code() == KafkaError._AUTHENTICATION:  # noqa: SLF001
        return f"the login of {USER} ({error.str()})"
    if error.code() == KafkaError._SSL:  # noqa: SLF001
        return f"TLS, by {PROTOCOL} and {AUTHORITY} ({error.str()})"
    return None
