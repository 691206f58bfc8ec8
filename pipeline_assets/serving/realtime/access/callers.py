"""Who asks, and what they may: roles, limits, and the caller that the guard hands to a route as `request.state.caller`."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal


class Role(StrEnum):
    """What a caller may do. `admin` may do all of it; no other role has another one in it. `viewer` and `operator` are of the web pages."""

    PREDICT = "predict"
    FEEDBACK = "feedback"
    READ = "read"
    EVENTS = "events"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one key may ask for; None is no limit of its own.

    `burst` requests may come at once, and `requests_per_second` in the long run; where one of the two is given, the other is it too
    (rounded up). They are counted by each worker process for itself. `rows_per_request` is checked by the route, which knows the rows.
    """

    requests_per_second: float | None = None
    burst: int | None = None
    rows_per_request: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A caller whose credential was checked.

    `id` is unlike that of all others (the public part of a key; issuer's subject), `name` is for people and logs. `by` is the
    credential: an API key, a token of the identity provider, or a session of the page.
    """

    id: str
    name: str
    roles: frozenset[Role]
    by: Literal["key", "token", "session"]
    limits: Limits = NO_LIMITS

    def may(self, role: Role) -> bool:
        """Whether the caller has the role, or is an admin."""
        return role in self.roles or Role.ADMIN in self.roles


def caller_of(scope: Any) -> Caller:
    """The caller of a request that has passed the guard; raises KeyError for one that has not, such as one of a public route."""
    found: Caller = scope["state"]["caller"]
    return found


def roles_of(names: Iterable[object]) -> frozenset[Role]:
    """The roles among the names; other names are nobody's business here, as an identity provider has roles for others too."""
    known = {str(role): role for role in Role}
    return frozenset(known[name] for name in names if isinstance(name, str) and name in known)
