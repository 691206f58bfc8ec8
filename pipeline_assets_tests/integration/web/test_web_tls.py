"""Dagster's web server with a certificate: what speaks TLS and trusts its authority gets in, and nothing else."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from pipeline_assets.core.errors import SettingsMalformed, SettingsMissing
from pipeline_assets.core.settings import WebSettings
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.web.webserver import check_certificate
from pipeline_assets_tests.guarded_apps import add_key
from pipeline_assets_tests.tls import HOST, Authority, make_authority, make_certificate
from pipeline_assets_tests.web_servers import WebServer, web_server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server, its keys and its certificate are."""
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """Who signed the certificate."""
    return make_authority(folder, "authority")


@pytest.fixture(scope="module")
def key(folder: Path) -> str:
    """A key of the role operator."""
    return add_key(folder / "keys.json", "otto", Role.OPERATOR)


@pytest.fixture(scope="module")
def server(folder: Path, authority: Authority, key: str) -> Iterator[WebServer]:
    """A server with a login, a certificate, and its key in a file of its own."""
    assert key
    whole = make_certificate(folder, authority, HOST).read_text()
    secret, begin, certificate = whole.partition("-----BEGIN CERTIFICATE-----")
    (folder / "key.pem").write_text(secret)
    (folder / "certificate.pem").write_text(begin + certificate)
    own = {
        "PIPELINE_WEB_CERTIFICATE": str(folder / "certificate.pem"), "PIPELINE_WEB_CERTIFICATE_KEY": str(folder / "key.pem"),
        "PIPELINE_WEB_LOGIN": "true", "PIPELINE_SERVE_KEYS": str(folder / "keys.json"),
    }  # fmt: skip
    with web_server(folder, authority=str(authority.certificate), **own) as started:
        yield started


def test_runs_are_started_over_tls(server: WebServer, key: str) -> None:
    """By a program, and by the server's own pages, whose origin is that of https; messages come over a websocket."""
    mine = {"authorization": f"Bearer {key}"}
    server.launch(mine)
    own = server.ask("{ version }", {**mine, "origin": server.url})
    plain = server.ask("{ version }", {**mine, "origin": server.url.replace("https", "http")})
    address = f"{server.url.replace('https', 'wss')}/graphql"
    assert isinstance(server.trust, ssl.SSLContext)
    own_page: dict[str, Any] = {"subprotocols": [Subprotocol("graphql-ws")], "origin": Origin(server.url), "additional_headers": mine}
    with connect(address, ssl=server.trust, **own_page) as socket:
        socket.send('{"type": "connection_init"}')
        acknowledged = socket.recv(timeout=20)

    assert (own.status_code, plain.status_code) == (200, 403)
    assert "connection_ack" in str(acknowledged)


def test_the_session_of_a_person_is_never_sent_in_plain(server: WebServer, key: str) -> None:
    """The cookie is secure."""
    answer = httpx.post(f"{server.url}/_access/login", data={"key": key}, headers={"origin": server.url}, verify=server.trust)

    assert answer.status_code == 303
    assert {"HttpOnly", "Secure", "SameSite=Strict"} <= set(answer.headers["set-cookie"].split("; "))


def test_nothing_is_answered_without_tls_nor_to_who_trusts_another(server: WebServer, folder: Path) -> None:
    """Plain HTTP ends without an answer, and a client that knows another authority refuses."""
    stranger = ssl.create_default_context(cafile=make_authority(folder, "stranger").certificate)

    with pytest.raises(httpx.TransportError):
        httpx.get(server.url.replace("https", "http"))
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(server.url, verify=stranger)


def test_a_certificate_that_cannot_be_used_is_named_at_the_start(folder: Path, authority: Authority) -> None:
    """One that is not there, has no key or that of another; a key alone lacks its certificate. One file may have both."""
    whole, other = make_certificate(folder, authority, HOST), make_certificate(folder, authority, "127.0.0.9")
    alone = folder / "alone.pem"
    alone.write_text("".join(whole.read_text().partition("-----BEGIN CERTIFICATE-----")[1:]))
    for certificate, secret in ((folder / "nowhere.pem", None), (alone, None), (alone, other)):
        with pytest.raises(SettingsMalformed, match=r"PIPELINE_WEB_CERTIFICATE cannot be used"):
            check_certificate(WebSettings(web_certificate=certificate, web_certificate_key=secret))
    with pytest.raises(SettingsMissing, match="PIPELINE_WEB_CERTIFICATE"):
        check_certificate(WebSettings(web_certificate_key=other))

    for fine in (WebSettings(), WebSettings(web_certificate=whole), WebSettings(web_certificate=alone, web_certificate_key=whole)):
        check_certificate(fine)
