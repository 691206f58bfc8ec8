"""Certificates, and servers that speak TLS before services of the local stack, which do not; shared by the tests of encrypted connections.

Before PostgreSQL, which is built without TLS, stands what a proxy of a cloud is: it answers a request for TLS, shows its certificate, and
passes the session on. Before what speaks HTTP stands the same without the request.
"""

import asyncio
import ssl
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"
# What a client of PostgreSQL sends first (docs: "SSL Session Encryption"): eight bytes, and the code of what it asks for.
REQUEST_BYTES, TLS_REQUEST = 8, (80877103).to_bytes(4, "big")
CHUNK_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Authority:
    """An authority that signs certificates; `certificate` is the file by which it is trusted."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    certificate: Path


def make_authority(folder: Path, name: str) -> Authority:
    """An authority of its own."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    key = ec.generate_private_key(ec.SECP256R1())
    built = _builder(subject, subject, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    path = folder / f"{name}.pem"
    path.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    path.chmod(0o644)
    return Authority(name=subject, key=key, certificate=path)


def server_context(folder: Path, authority: Authority, host: str) -> ssl.SSLContext:
    """What a server with a certificate for `host`, an address, signed by the authority, needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(folder, authority, host))
    return context


def make_certificate(folder: Path, authority: Authority, host: str) -> Path:
    """A certificate for an address, signed by the authority, in one file with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    built = _builder(subject, authority.name, key).add_extension(names, critical=False)
    path = folder / f"{host}.pem"
    own = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(own + built.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )


@contextmanager
def tls_before(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """The port of a server that takes TLS alone and passes what it decrypts to the PostgreSQL at `port`."""
    with _listening(asyncio.start_server(partial(_serve, port, context), HOST, 0)) as own:
        yield own


@contextmanager
def https_before(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """The port of a server that takes HTTPS alone and passes what it decrypts to what speaks HTTP at `port`."""
    with _listening(asyncio.start_server(partial(_pass_session, port), HOST, 0, ssl=context)) as own:
        yield own


@contextmanager
def _listening(starting: Coroutine[None, None, asyncio.Server]) -> Iterator[int]:
    """The port of a server that runs in a thread of its own until the block ends."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(starting)
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(_close(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(server: asyncio.Server) -> None:
    server.close()
    sessions = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in sessions:
        task.cancel()
    await asyncio.gather(*sessions, return_exceptions=True)
    # The transports that were aborted are closed at the next turn of the loop.
    await asyncio.sleep(0)


async def _serve(port: int, context: ssl.SSLContext, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    """One session. A client that asks for something else than TLS, or refuses the certificate, is hung up on."""
    with suppress(OSError, asyncio.IncompleteReadError), _aborted(to_client):
        if (await client.readexactly(REQUEST_BYTES))[4:] != TLS_REQUEST:
            return
        to_client.write(b"S")
        await to_client.start_tls(context)
        await _pass_session(port, client, to_client)


async def _pass_session(port: int, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    """Everything between a client and what listens at a port, until one of both ends."""
    with suppress(OSError), _aborted(to_client):
        server, to_server = await asyncio.open_connection(HOST, port)
        with _aborted(to_server):
            both = [asyncio.create_task(_pass_on(client, to_server)), asyncio.create_task(_pass_on(server, to_client))]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for one in both:
                one.cancel()


@contextmanager
def _aborted(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    finally:
        writer.transport.abort()


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Everything that comes, until one side ends."""
    with suppress(OSError):
        while data := await source.read(CHUNK_BYTES):
            target.write(data)
            await target.drain()
