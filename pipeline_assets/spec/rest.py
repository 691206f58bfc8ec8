"""How a REST API is asked: how its pages follow each other, and how it knows who asks."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CursorPages:
    """Each answer names the cursor of the next page in `field`, which is sent as `parameter`; the last has none.

    `size` is the parameter that takes the number of rows on a page (None: there is none), here and of the other kinds of pages.
    """

    parameter: str = "cursor"
    field: str = "next_cursor"
    size: str | None = "limit"


@dataclass(frozen=True, kw_only=True)
class NumberedPages:
    """Pages have numbers from `first` on; the end is the first without rows, as a page may have fewer rows than were asked for."""

    parameter: str = "page"
    first: int = 1
    size: str | None = "per_page"


@dataclass(frozen=True, kw_only=True)
class OffsetPages:
    """A page begins after so many rows as were received before it; the end is the first without rows."""

    parameter: str = "offset"
    size: str | None = "limit"


@dataclass(frozen=True, kw_only=True)
class LinkedPages:
    """Each answer has the URL of the next page in `field`, or in its header `Link` with `rel="next"` (None); the last has none.

    It must lead to the server that was asked.
    """

    field: str | None = None
    size: str | None = "limit"


@dataclass(frozen=True, kw_only=True)
class OnePage:
    """One answer has all rows."""


Pages = CursorPages | NumberedPages | OffsetPages | LinkedPages | OnePage


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """The setting `api_key`, in a header or, where that is named, in a parameter of the query."""

    header: str = "X-Api-Key"
    query: str | None = None


@dataclass(frozen=True, kw_only=True)
class BearerToken:
    """The setting `token`, as `Authorization: Bearer …`."""


@dataclass(frozen=True, kw_only=True)
class BasicLogin:
    """The settings `user` and `password`, as `Authorization: Basic …`."""


@dataclass(frozen=True, kw_only=True)
class ClientCredentials:
    """OAuth 2 (RFC 6749, 4.4): a token that the setting `token_url` gives for `client_id` and `client_secret`, as a bearer's."""

    scope: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClientCertificate:
    """Mutual TLS: the settings `certificate` and `certificate_key`, paths of PEM files."""


@dataclass(frozen=True, kw_only=True)
class NoLogin:
    """Anybody may ask."""


Login = ApiKey | BearerToken | BasicLogin | ClientCredentials | ClientCertificate | NoLogin
