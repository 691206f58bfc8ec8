"""A broker that talks TLS alone and asks for a login, as those of other people do; shared by the tests of clients."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from pipeline_assets.core.settings import ROOT, BrokerSettings, read_stack_settings
from pipeline_assets.local_stack import java, kafka
from pipeline_assets.local_stack.plan import Plan
from pipeline_assets.local_stack.ports import free_port, is_listening
from pipeline_assets_tests.stream_records import until
from pipeline_assets_tests.tls import HOST, make_authority, make_certificate

USER, PASSWORD = "analyst", "correct-horse-battery-staple"
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
LOGIN_MODULES = "org.apache.kafka.common.security"


@dataclass(frozen=True, kw_only=True)
class TlsBroker:
    """Where the broker is, and the file of the authority that signed its certificate."""

    port: int
    authority: Path

    def settings(self, mechanism: str, **more: object) -> BrokerSettings:
        """The settings of a client that may log in, with what is to be other."""
        given: dict[str, object] = {
            "kafka_bootstrap": f"{HOST}:{self.port}",
            "kafka_security_protocol": "SASL_SSL",
            "kafka_mechanism": mechanism,
            "kafka_user": USER,
            "kafka_password": SecretStr(PASSWORD),
            "kafka_authority": self.authority,
        }
        return BrokerSettings.model_validate({**given, **more})


@contextmanager
def tls_broker(folder: Path) -> Iterator[TlsBroker]:
    """The broker as a process of its own in an empty folder, ended with the block."""
    port, controller, authority = free_port(), free_port(), make_authority(folder, "brokers")
    plan = Plan(root=ROOT, home=folder, ports={}, secrets={}, given={}, settings={}, maven_url=read_stack_settings().maven_url)
    certificate = make_certificate(folder, authority, HOST)
    (folder / kafka.LOGGING).write_text(kafka.LOG4J)
    (folder / kafka.OWN).write_text(java.properties_text(_properties(port, controller, certificate, authority.certificate)))
    users = "".join(f"--add-scram\n{mechanism}=[name={USER},password={PASSWORD}]\n" for mechanism in SCRAM)
    (folder / "users").write_text(users)
    java.check(plan, kafka.JARS)
    format_command = ("kafka.tools.StorageTool", "format", "--cluster-id=4L6g3nShT-eMCtK--X86sw", "--config", kafka.OWN, "@users")
    subprocess.run(kafka.program(plan, 256, "", *format_command), cwd=folder, check=True, capture_output=True)
    with (folder / "broker.log").open("wb") as log:
        process = subprocess.Popen(kafka.program(plan, 256, "", "kafka.Kafka", kafka.OWN), cwd=folder, stdout=log, stderr=log)
        try:
            until(lambda: is_listening(port) or process.poll() is not None)
            assert process.poll() is None, (folder / "broker.log").read_text()[-2000:]
            yield TlsBroker(port=port, authority=authority.certificate)
        finally:
            process.kill()
            process.wait()


def _properties(port: int, controller: int, certificate: Path, authority: Path) -> dict[str, str]:
    login = f'username="inner" password="inner" user_inner="inner" user_{USER}="{PASSWORD}";'
    return {
        **kafka.SERVER,
        "listeners": f"BROKER://{HOST}:{port},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"BROKER://{HOST}:{port}",
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "log.dirs": "data",
        "listener.security.protocol.map": "BROKER:SASL_SSL,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": ",".join(("PLAIN", *SCRAM)),
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.broker.plain.sasl.jaas.config": f"{LOGIN_MODULES}.plain.PlainLoginModule required {login}",
        **{f"listener.name.broker.{each.lower()}.sasl.jaas.config": f"{LOGIN_MODULES}.scram.ScramLoginModule required;" for each in SCRAM},
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificate),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority),
    }
