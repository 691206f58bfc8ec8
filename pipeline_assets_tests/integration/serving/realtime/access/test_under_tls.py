"""Access under the server and the transport that the service has: granian, with TLS."""

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.client import Client
from pipeline_assets.serving.realtime.client_errors import ServiceAway
from pipeline_assets_tests.guarded_apps import add_key
from pipeline_assets_tests.stream_records import until
from pipeline_assets_tests.tls import Authority, make_authority, make_certificate

HOST = "127.0.0.1"
SERVER = """
import sys
from pathlib import Path
from granian.constants import Interfaces
from granian.server import Server
from pipeline_assets_tests.prediction_pages import Stand, page_app

def app():
    return page_app(Stand(), Path(sys.argv[1]))

if __name__ == "__main__":
    ssl = {"ssl_cert": Path(sys.argv[3]), "ssl_key": Path(sys.argv[4])}
    Server(f"{Path(__file__).stem}:app", address="127.0.0.1", port=int(sys.argv[2]), interface=Interfaces.ASGI, factory=True, **ssl).serve()
"""


@dataclass(frozen=True)
class Served:
    """A service that runs: where it is, who signed its certificate, and a key that may all."""

    port: int
    authority: Authority
    key: str

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://{HOST}:{self.port}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page and a small service behind the guard, in a process of its own."""
    folder = tmp_path_factory.mktemp("tls")
    authority = make_authority(folder, "ca")
    key_text, certificate_text = _halves(make_certificate(folder, authority, HOST))
    certificate, certificate_key, script = folder / "certificate.pem", folder / "key.pem", folder / "served_page.py"
    certificate.write_text(certificate_text)
    certificate_key.write_text(key_text)
    script.write_text(SERVER)
    key = add_key(folder / "serve-keys.json", "ada", Role.ADMIN)
    with socket.create_server((HOST, 0)) as free:
        port = int(free.getsockname()[1])
    command = list(map(str, [sys.executable, script, folder / "serve-keys.json", port, certificate, certificate_key]))
    root = Path(__file__).resolve().parents[5]
    process = subprocess.Popen(command, cwd=root, env={"PYTHONPATH": f"{root}:{folder}"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        until(lambda: _answers(port) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        yield Served(port, authority, key)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _halves(both: Path) -> tuple[str, str]:
    key, begin, certificate = both.read_text().partition("-----BEGIN CERTIFICATE-----")
    return key, begin + certificate


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def trusting(service: Served) -> ssl.SSLContext:
    """What a client needs that trusts the service's authority."""
    return ssl.create_default_context(cafile=str(service.authority.certificate))


def test_the_session_is_secure_and_strict(service: Served) -> None:
    """Logging in gives a cookie that is never sent in plain; the page then knows who it is."""
    with httpx.Client(base_url=service.url, verify=trusting(service)) as client:
        answer = client.post("/login", data={"key": service.key}, headers={"origin": service.url})
        page = client.get("/")
        foreign = client.post("/logout", headers={"origin": f"https://{HOST}:1"})
        plain = client.post("/logout", headers={"origin": service.url.replace("https", "http")})

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert {"HttpOnly", "Secure", "SameSite=Strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert (page.status_code, "ada" in page.text) == (200, True)
    assert (foreign.status_code, plain.status_code) == (403, 403)


@pytest.mark.parametrize("header", ["", "x-api-key: guess\r\n"])
def test_a_large_body_of_somebody_unknown_is_not_taken(service: Served, header: str) -> None:
    """Who waits for a word before sending gets the refusal, and not the word."""
    request = (
        f"POST /v1/models/delay:predict HTTP/1.1\r\nhost: {HOST}\r\n{header}content-type: application/json\r\n"
        "content-length: 900000000\r\nexpect: 100-continue\r\n\r\n"
    )
    plain = socket.create_connection((HOST, service.port), timeout=20)
    with plain, trusting(service).wrap_socket(plain, server_hostname=HOST) as connection:
        connection.sendall(request.encode())
        first = connection.recv(4096)

    assert first.startswith(b"HTTP/1.1 401 ")


def test_the_client_verifies_who_answers(service: Served) -> None:
    """With the authority of the service it predicts; without, no key is sent to whoever answers."""
    with Client(service.url, service.key, authority=str(service.authority.certificate)) as client:
        [prediction] = client.predict("delay", [{"origin": "EWR"}])
    with Client(service.url, service.key, retry_seconds=0.5) as client, pytest.raises(ServiceAway, match="CERTIFICATE_VERIFY_FAILED"):
        client.models()

    assert prediction.model_version == 12
