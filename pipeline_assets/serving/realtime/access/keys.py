"""API keys: what one looks like, what is kept of it, and whether a text is one.

A key is `pipe_<id>_<secret>`. The id (16 hexadecimal digits) is public: it finds the key without a scan, and stands in lists and logs. The
secret is 32 random bytes, and only its SHA-256 is kept: a slow digest protects words that people choose, and 256 random bits need none.
Digests are compared in constant time, and an id that nobody has costs the same comparison as one that somebody has.

A key has one or more secrets, each with its own end: after a rotation the old one works until its own end.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from secrets import token_hex, token_urlsafe

from pipeline_assets.serving.realtime.access.callers import NO_LIMITS, Caller, Limits, Role

SECRET_BYTES = 32
KEY_FORM = re.compile(r"pipe_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
# What an unknown id is compared with; no secret has it, as it is no digest of anything.
NOBODY = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Secret:
    """The digest of a secret, and the moment (UTC) from which it no longer works."""

    sha256: str = field(repr=False)
    until: datetime


@dataclass(frozen=True, kw_only=True)
class Key:
    """What is kept of a key. `name` is unlike those of all keys that were not revoked; a revoked key has no secret any more."""

    id: str
    name: str
    roles: frozenset[Role]
    secrets: tuple[Secret, ...]
    created_at: datetime
    revoked_at: datetime | None = None
    limits: Limits = NO_LIMITS

    @property
    def expires_at(self) -> datetime | None:
        """When its last secret ends; None where it has none."""
        return max((secret.until for secret in self.secrets), default=None)

    def caller(self) -> Caller:
        """Who asks with this key."""
        return Caller(id=self.id, name=self.name, roles=self.roles, by="key", limits=self.limits)


def make_key(name: str, roles: Sequence[Role], *, now: datetime, lives: timedelta, limits: Limits = NO_LIMITS) -> tuple[Key, str]:
    """A new key, and its text, which is kept nowhere and can be shown this once."""
    key_id = token_hex(8)
    text, secret = _new_secret(key_id, now + lives)
    return Key(id=key_id, name=name, roles=frozenset(roles), secrets=(secret,), created_at=now, limits=limits), text


def key_of(text: str, name: str, roles: Sequence[Role], *, now: datetime, lives: timedelta) -> Key:
    """The key of a text that somebody keeps; raises ValueError where it has not the form of one."""
    form = KEY_FORM.fullmatch(text)
    if form is None:
        raise ValueError("The text is no API key.")
    secret = Secret(sha256=_digest(form[2]), until=now + lives)
    return Key(id=form[1], name=name, roles=frozenset(roles), secrets=(secret,), created_at=now)


def text_of(seed: str) -> str:
    """The text of the key that a random secret of at least 43 letters and digits makes, always the same."""
    return f"pipe_{_digest(seed)[:16]}_{seed[:43]}"


def with_new_secret(key: Key, *, now: datetime, lives: timedelta) -> tuple[Key, str]:
    """The key with one more secret, and the text of that; secrets that have ended are dropped, the others stay as they are."""
    text, secret = _new_secret(key.id, now + lives)
    return replace(key, secrets=(*(one for one in key.secrets if one.until > now), secret)), text


def revoked(key: Key, *, now: datetime) -> Key:
    """The key without a secret; it stays in the list, so that its id in a log says whose it was."""
    return replace(key, secrets=(), revoked_at=now)


def find_key(keys: Mapping[str, Key], text: str, now: datetime) -> Key | None:
    """The key (by id) that a text is a valid secret of; None where it is none, also for one that is expired or revoked."""
    form = KEY_FORM.fullmatch(text)
    if form is None:
        return None
    key, given = keys.get(form[1]), _digest(form[2])
    kept = [(secret.sha256, secret.until > now) for secret in key.secrets] if key is not None else []
    # All of them, whatever the first says.
    matches = [compare_digest(given, digest) and is_valid for digest, is_valid in kept or [(NOBODY, False)]]
    return key if any(matches) else None


def is_live(key: Key, now: datetime) -> bool:
    """Whether any secret of the key works."""
    return any(secret.until > now for secret in key.secrets)


def utc_now() -> datetime:
    """The wall clock, by which keys expire."""
    return datetime.now(UTC)


def _new_secret(key_id: str, until: datetime) -> tuple[str, Secret]:
    text = token_urlsafe(SECRET_BYTES)
    return f"pipe_{key_id}_{text}", Secret(sha256=_digest(text), until=until)


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
