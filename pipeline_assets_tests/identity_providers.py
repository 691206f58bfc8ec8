"""A small OpenID Connect identity provider on loopback for the tests: it publishes keys, signs tokens, and can go wrong in several ways."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"
AUDIENCE = "predictions"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class IdentityProvider:
    """The provider: `keys` by their id, of which all are published; `asked` counts the requests for each path."""

    def __init__(self, port: int) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        self.keys: dict[str, Private] = {}
        self.asked: dict[str, int] = {}
        # What is answered instead, by path.
        self.instead: dict[str, bytes] = {}
        self.is_down = False

    def add_rsa(self, kid: str) -> Private:
        """Publishes a key of RS256."""
        self.keys[kid] = rsa_key(kid)
        return self.keys[kid]

    def add_ec(self, kid: str) -> Private:
        """Publishes a key of ES256."""
        self.keys[kid] = ec.generate_private_key(ec.SECP256R1())
        return self.keys[kid]

    def token(
        self, kid: str, *, key: Any = None, algorithm: str | None = None, header: Mapping[str, object] | None = None, **claims: Any
    ) -> str:
        """A token that is good but for what is given; a claim of None is left out."""
        signing = self.keys[kid] if key is None else key
        now = int(time.time())
        good = {"iss": self.issuer, "aud": AUDIENCE, "sub": "somebody", "iat": now, "exp": now + 300, "roles": ["predict"]}
        kept = {name: value for name, value in {**good, **claims}.items() if value is not None}
        fitting = "RS256" if isinstance(signing, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(kept, signing, algorithm=algorithm or fitting, headers={"kid": kid, **(header or {})})

    def answer(self, path: str) -> bytes | None:
        """The body for a path; None where there is none, or while it is down."""
        self.asked[path] = self.asked.get(path, 0) + 1
        if self.is_down:
            return None
        if path in self.instead:
            return self.instead[path]
        if path == DISCOVERY:
            return json.dumps({"issuer": self.issuer, "jwks_uri": self.issuer + KEYS}).encode()
        return json.dumps({"keys": [public(kid, key) for kid, key in self.keys.items()]}).encode() if path == KEYS else None


@lru_cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """A key of RS256, the same for a name, as making one takes a while."""
    assert name
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public(kid: str, key: Private) -> dict[str, Any]:
    """The published half of a key."""
    made = (
        RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        if isinstance(key, rsa.RSAPrivateKey)
        else ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    )
    return {**made, "kid": kid, "use": "sig"}


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    """A provider that answers until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = provider.answer(self.path)
            self.send_response(200 if body is not None else 503)
            self.send_header("content-length", str(len(body or b"")))
            self.end_headers()
            # Who does not wait for an answer that is late has hung up.
            with suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            """Writes nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = IdentityProvider(server.server_address[1])
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
