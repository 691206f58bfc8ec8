"""Bearer tokens of an OpenID Connect identity provider: who they say asks, once signature and claims were checked.

The provider's keys are found by discovery (`<issuer>/.well-known/openid-configuration`, whose `issuer` must be the same text) and kept.
They are asked for again in the background once an hour, and at once for a key that is not known, at most every 30 seconds, so that forged
key ids cause no traffic. While the provider is down, the keys that are known go on, for a day. An answer has a limit of time and of size,
and is not followed elsewhere.

Signatures are RS256 or ES256, and the key must be of that kind: `none` and HS256 (a public key taken for a shared secret) are refused.
`exp`, `iss`, `aud` and `sub` must be there; `nbf` and `iat` count where they are. Clocks may differ by half a minute.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt

from pipeline_assets.serving.realtime.access.callers import Caller, roles_of
from pipeline_assets.serving.realtime.access.errors import IssuerAway, IssuerRefused, TokenRefused

LOG = logging.getLogger(__name__)
ALGORITHMS = ("RS256", "ES256")
REQUIRED = ("exp", "iss", "aud", "sub")
LEEWAY_SECONDS = 30
FETCH_SECONDS, MOST_BYTES, MOST_KEYS = 5.0, 262_144, 100
KEEP_SECONDS, LEAST_SECONDS, LOST_SECONDS = 3600.0, 30.0, 86_400.0
LONGEST_TOKEN, LONGEST_NAME = 8192, 255


@dataclass(frozen=True, kw_only=True)
class Oidc:
    """Whose tokens are taken: `issuer` and `audience` as they stand in a token; `role_claim` names the claim that has the roles.

    A claim is found by its whole name, or by the path of names with dots between (`realm_access.roles`), and is a list or a text of
    words; those among them that are roles of this service count.
    """

    issuer: str
    audience: str
    role_claim: str = "roles"


class Issuer:
    """The keys of an identity provider, and the check of a token. For one event loop."""

    def __init__(self, oidc: Oidc, *, clock: Callable[[], float] = monotonic, least_seconds: float = LEAST_SECONDS) -> None:
        _refuse_plain(oidc.issuer, oidc.issuer, "has no https URL")
        self.oidc, self.problem = oidc, ""
        self._clock, self._least_seconds = clock, least_seconds
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_at, self._tried_at = float("-inf"), float("-inf")
        self._one = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None

    async def caller(self, token: str) -> Caller:
        """Who a token says asks; raises TokenRefused, or IssuerAway where no key is known to check it with."""
        key = await self._key(_key_id(token))
        claims = self._claims(token, key)
        subject = str(claims["sub"])
        name = str(claims.get("preferred_username") or claims.get("client_id") or claims.get("azp") or subject)
        roles = roles_of(_listed(claims, self.oidc.role_claim))
        return Caller(id=f"{self.oidc.issuer}#{subject[:LONGEST_NAME]}", name=name[:LONGEST_NAME], roles=roles, by="token")

    def _claims(self, token: str, key: jwt.PyJWK) -> Mapping[str, Any]:
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self.oidc.audience,
                issuer=self.oidc.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": list(REQUIRED)},
            )
        except jwt.PyJWTError as error:
            raise TokenRefused(f"The bearer token is not valid: {_reason(error)}.") from None
        return claims

    async def _key(self, key_id: str) -> jwt.PyJWK:
        age = self._clock() - self._fetched_at
        if age > LOST_SECONDS:
            self._keys = {}
        found = self._keys.get(key_id)
        if found is None:
            await self._fetch_one()
            found = self._keys.get(key_id)
        elif age > KEEP_SECONDS and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._fetch_one())
        if found is not None:
            return found
        if not self._keys:
            raise IssuerAway
        raise TokenRefused("The bearer token is signed with a key that its issuer does not publish.")

    async def _fetch_one(self) -> None:
        """Asks for the keys unless that was done, or tried, right before; one request at a time, whoever waits shares its outcome."""
        async with self._one:
            if self._clock() - self._tried_at < self._least_seconds:
                return
            self._tried_at = self._clock()
            try:
                async with asyncio.timeout(FETCH_SECONDS):
                    self._keys = await self._fetched()
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, IssuerRefused) as error:
                self.problem = f"{type(error).__name__}: {error}"
                LOG.error("Keys of the identity provider could not be read: %s", self.problem)  # noqa: TRY400 - the sentence says it all
                return
            self._fetched_at, self.problem = self._clock(), ""

    async def _fetched(self) -> Mapping[str, jwt.PyJWK]:
        async with httpx.AsyncClient(timeout=FETCH_SECONDS) as client:
            found = await _document(client, f"{self.oidc.issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != self.oidc.issuer:
                raise IssuerRefused(self.oidc.issuer, "names itself otherwise", "Set PIPELINE_SERVE_OIDC_ISSUER to the `issuer` it names.")
            address = str(found.get("jwks_uri", ""))
            _refuse_plain(self.oidc.issuer, address, "names no https URL of its keys")
            listed = (await _document(client, address)).get("keys")
        keys = [key for one in (listed if isinstance(listed, list) else [])[:MOST_KEYS] if (key := _usable(one)) is not None]
        if not keys:
            raise IssuerRefused(self.oidc.issuer, "publishes no key of RS256 or ES256", "Have it sign with one of them.")
        return {str(key.key_id): key for key in keys}


async def _document(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """A JSON object; ValueError for anything else, and for one that is too large."""
    received = bytearray()
    async with client.stream("GET", url, headers={"accept": "application/json", "accept-encoding": "identity"}) as answer:
        if answer.status_code != httpx.codes.OK:
            raise ValueError(f"{urlsplit(url).path} answered {answer.status_code}")
        async for part in answer.aiter_raw():
            received += part
            if len(received) > MOST_BYTES:
                raise ValueError(f"{urlsplit(url).path} has more than {MOST_BYTES:,} bytes")
    try:
        found = json.loads(received)
    except (ValueError, RecursionError):
        raise ValueError(f"{urlsplit(url).path} is no JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{urlsplit(url).path} is no JSON object")  # noqa: TRY004 - as for all else that it may be
    return found


def _usable(found: object) -> jwt.PyJWK | None:
    """A key that can check signatures of the two kinds, None for another one, of which a provider may have some."""
    if not isinstance(found, dict) or not isinstance(found.get("kid"), str) or found.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(found)
    except (jwt.PyJWTError, TypeError, ValueError):
        return None
    return key if key.algorithm_name in ALGORITHMS else None


def _key_id(token: str) -> str:
    """The id of the key that a token says it is signed with; nothing else of it is believed."""
    if len(token) > LONGEST_TOKEN:
        raise TokenRefused("The bearer token is too long.")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise TokenRefused("The bearer token is neither an API key nor a signed token.") from None
    if header.get("alg") not in ALGORITHMS:
        raise TokenRefused(f"The bearer token is not signed with {' or '.join(ALGORITHMS)}.")
    if not isinstance(header.get("kid"), str):
        raise TokenRefused("The bearer token does not say which key it is signed with (`kid`).")
    return str(header["kid"])


def _reason(error: jwt.PyJWTError) -> str:
    """Why, in words of this module: those of the library may show a part of the token."""
    reasons: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
        (jwt.ExpiredSignatureError, "it has expired"),
        (jwt.ImmatureSignatureError, "it is not valid yet"),
        (jwt.InvalidAudienceError, "it is for another audience"),
        (jwt.InvalidIssuerError, "it is of another issuer"),
        (jwt.MissingRequiredClaimError, f"it lacks one of {', '.join(REQUIRED)}"),
        (jwt.InvalidAlgorithmError, "it is signed otherwise than its key is for"),
        (jwt.InvalidSignatureError, "its signature is wrong"),
    )
    return next((reason for kind, reason in reasons if isinstance(error, kind)), "it cannot be read")


def _listed(claims: Mapping[str, Any], name: str) -> list[object]:
    """The values of a claim that is a list, or a text of words as `scope` is."""
    found: object = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, str):
        return list(found.split())
    return list(found) if isinstance(found, list) else []


def _refuse_plain(issuer: str, url: str, problem: str) -> None:
    """Raises IssuerRefused for a URL without TLS, unless it is of this machine: keys that anybody on the way can change prove nothing.

    Also for one whose port is none, and ValueError for one that cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname and parts.port != 0:
        return
    if parts.scheme != "http" or not _is_loopback(parts.hostname or "") or parts.port == 0:
        raise IssuerRefused(issuer, problem, "Name one (http is taken of this machine alone).")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
