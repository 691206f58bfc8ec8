"""From a request's headers to its caller: an API key, a bearer token of the identity provider, or a session of the page."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import Scope

from pipeline_assets.serving.realtime.access.callers import Caller
from pipeline_assets.serving.realtime.access.errors import IssuerAway, TokenRefused
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.keys import KEY_FORM
from pipeline_assets.serving.realtime.access.problems import Refusal, forbidden, not_now, unauthorized
from pipeline_assets.serving.realtime.access.sessions import SAFE_METHODS, Headers, Sessions, is_same_origin

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.access.issuer import Issuer

BEARER, API_KEY = b"bearer", b"x-api-key"
HOW = "Send an API key as `Authorization: Bearer <key>` or `X-API-Key: <key>`."
ISSUER_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What callers are known by. Without an issuer bearer tokens are API keys alone; without sessions there is no page."""

    keys: Keyring
    issuer: "Issuer | None" = None
    sessions: Sessions | None = None

    async def caller(self, scope: Scope, headers: Headers) -> Caller | Refusal:
        """Who asks, or why that is not known. A credential in a header goes before the cookie, which browsers send by themselves."""
        bearer, key = headers.get(b"authorization"), headers.get(API_KEY)
        if bearer is not None and key is not None:
            return unauthorized("There are two credentials. Send `Authorization` or `X-API-Key`, not both.")
        if key is not None:
            return self._of_key(key.decode("latin-1"))
        if bearer is not None:
            return await self._of_bearer(bearer)
        return self._of_session(scope, headers)

    async def _of_bearer(self, header: bytes) -> Caller | Refusal:
        scheme, _, text = header.partition(b" ")
        if scheme.lower() != BEARER:
            return unauthorized(f"`Authorization` is of another scheme than Bearer. {HOW}")
        given = text.strip().decode("latin-1")
        if self.issuer is None or KEY_FORM.fullmatch(given):
            return self._of_key(given)
        try:
            return await self.issuer.caller(given)
        except TokenRefused as error:
            return unauthorized(str(error))
        except IssuerAway:
            return not_now("The identity provider does not answer, so the bearer token cannot be checked. Ask again later.", ISSUER_SECONDS)

    def _of_key(self, text: str) -> Caller | Refusal:
        return self.keys.caller(text) or unauthorized("The API key is not known, expired or revoked.")

    def _of_session(self, scope: Scope, headers: Headers) -> Caller | Refusal:
        caller = self.sessions.caller(headers) if self.sessions is not None else None
        if caller is None:
            return unauthorized(f"The request has no credential. {HOW}")
        if scope["method"] not in SAFE_METHODS and not is_same_origin(scope, headers):
            return forbidden("A session of the page may ask this from the page alone. Other callers send an API key.")
        return caller
