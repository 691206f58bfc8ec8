"""Sessions of the page: a signed cookie that stands for a key, for some hours.

The cookie names the key by its id, and is worth what the key is worth at that moment: a key that is revoked or expired ends its sessions,
and limits and roles are the key's. It is HttpOnly, SameSite=Strict and, under TLS, Secure. It is signed with a random secret in a file of
its own, so that who reads the digests of the keys cannot make one; deleting the file and restarting ends all
sessions.

Requests that a cookie speaks for and that change something must come from the page itself: `is_same_origin`. Cookies do not tell ports
apart, so that another service of the same host may see the cookie or be a page of the same site; the origin does. For the same reason each
page has a cookie by a name of its own, and one of another page is none.
"""

import os
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import cookie_parser
from starlette.types import Scope

from pipeline_assets.serving.realtime.access.callers import Caller
from pipeline_assets.serving.realtime.access.errors import KeyFileRefused
from pipeline_assets.serving.realtime.access.key_file import refuse_exposed
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.keys import utc_now

COOKIE, SECRET_FILE = "pipeline_session", "serve-sessions.secret"
SESSION_SECONDS = 8 * 3600
SESSION = timedelta(seconds=SESSION_SECONDS)
SECRET_BYTES = 32
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SALT = "pipeline.session"
Headers = dict[bytes, bytes]


class Sessions:
    """Begins and recognises sessions of the keys of a keyring, by the cookie of one page."""

    def __init__(self, keys: Keyring, secret: str, cookie: str = COOKIE) -> None:
        self._keys, self._name, self._signed = keys, cookie, URLSafeTimedSerializer(secret, salt=f"{SALT}/{cookie}")

    def cookie(self, caller: Caller, *, is_secure: bool) -> str:
        """The `Set-Cookie` of a session that begins."""
        return self._cookie(str(self._signed.dumps(caller.id)), SESSION_SECONDS, is_secure=is_secure)

    def ended_cookie(self, *, is_secure: bool) -> str:
        """The `Set-Cookie` that removes a session from its browser."""
        return self._cookie("", 0, is_secure=is_secure)

    def caller(self, headers: Headers) -> Caller | None:
        """Who asks with a session; None where there is none, or one that ended."""
        found = cookie_parser(headers.get(b"cookie", b"").decode("latin-1")).get(self._name)
        if found is None:
            return None
        try:
            key_id, began_at = self._signed.loads(found, return_timestamp=True)
        except BadSignature:
            return None
        # One that begins later than now was begun before the clock was set back: itsdangerous itself would end it.
        key = self._keys.live(str(key_id)) if utc_now() - began_at <= SESSION else None
        return None if key is None else replace(key.caller(), by="session")

    def _cookie(self, value: str, seconds: int, *, is_secure: bool) -> str:
        return f"{self._name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict" + ("; Secure" if is_secure else "")


def headers_of(scope: Scope) -> Headers:
    """The headers by their lower-case names, the last where one comes again; cookies together, as HTTP/2 sends them one by one."""
    headers: Headers = dict(scope["headers"])
    if b"cookie" in headers:
        headers[b"cookie"] = b"; ".join(value for name, value in scope["headers"] if name == b"cookie")
    return headers


def is_same_origin(scope: Scope, headers: Headers) -> bool:
    """Whether the browser says that a request comes from a page of this service: no other page can make it say so.

    `Sec-Fetch-Site` where it is sent (over TLS, and to this machine), and `Origin`, whose host and port must be those that were asked.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None and site != b"same-origin":
        return False
    if origin is None:
        return site is not None
    return is_own_origin(origin, scope, headers)


def is_own_origin(origin: bytes, scope: Scope, headers: Headers) -> bool:
    """Whether the host and port of an `Origin` are those that were asked, over TLS where these were; false for one that is no address."""
    try:
        found = urlsplit(origin.decode("latin-1"))
    except ValueError:
        return False
    is_host = found.netloc.lower() == headers.get(b"host", b"").decode("latin-1").lower() != ""
    return is_host and (scope.get("scheme") not in {"https", "wss"} or found.scheme == "https")


def is_under_tls(scope: Scope, headers: Headers) -> bool:
    """Whether the browser speaks TLS, be it with a proxy before this service: then the origin of its page says so."""
    return scope.get("scheme") == "https" or headers.get(b"origin", b"").startswith(b"https://")


def session_secret(home: Path) -> str:
    """The secret that sessions are signed with, in a file of its own in the home, which is made where there is none.

    Not beside the keys, whose folder may be one that the service cannot write, such as a mounted secret.
    """
    path = home / SECRET_FILE
    home.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _make_secret(path)
    try:
        refuse_exposed(path, path.stat())
        found = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise KeyFileRefused(path, f"cannot be read: {error.strerror}", "Delete it; the service makes a new one") from None
    except UnicodeDecodeError:
        found = ""
    if len(found) < SECRET_BYTES:
        raise KeyFileRefused(path, "has no secret of sessions", "Delete it; the service makes a new one")
    return found


def _make_secret(path: Path) -> None:
    """Written beside it and then linked, so that of several workers that start at once all have the one that came first."""
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(token_hex(SECRET_BYTES))
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    except OSError as error:
        raise KeyFileRefused(path, f"cannot be made: {error.strerror}", "Let the user of the service write the folder") from None
    finally:
        draft.unlink(missing_ok=True)
