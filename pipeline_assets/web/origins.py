"""Which hosts a server answers for, and which pages may ask it.

A page that lets its own name point to this machine (DNS rebinding) is of the same origin as what it asks, but asks for its own name: so
only names that are known are answered. A page of another origin can send requests without reading the answers: so what does not come from
the server's own pages is refused, but for a person who follows a link.
"""

from collections.abc import Iterable
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import Scope

from pipeline_assets.serving.realtime.access.problems import Refusal, forbidden
from pipeline_assets.serving.realtime.access.sessions import SAFE_METHODS, Headers, is_own_origin

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SETTING = "PIPELINE_WEB_HOSTS"
# A simple request of a form: the only bodies that a browser sends to another origin without asking it first.
OF_FORMS = frozenset({"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
# Of what comes twice, one program would read the first and another one the last.
ONCE = frozenset({b"content-type", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"authorization", b"x-api-key"})


def is_of_this_machine(address: str) -> bool:
    """Whether no other machine reaches what listens on an address."""
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


def repeated_header(scope: Scope) -> Refusal | None:
    """400 for a request with two headers of a name that may come once."""
    names = [name for name, _ in scope["headers"] if name in ONCE]
    twice = sorted({name.decode() for name in names if names.count(name) > 1})
    return Refusal(status=HTTPStatus.BAD_REQUEST, detail=f"The request has more than one header {', '.join(twice)}.") if twice else None


def unknown_host(scope: Scope, hosts: frozenset[str]) -> Refusal | None:
    """421 for a request that names no host, several, or another one than those of this machine and the given ones."""
    asked = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if len(asked) == 1 and host_name(asked[0]) in LOOPBACK | hosts:
        return None
    detail = f"This server does not answer for the host that was asked. If it is this server's own name, add it to {SETTING}."
    return Refusal(status=HTTPStatus.MISDIRECTED_REQUEST, detail=detail)


def host_name(host: str) -> str:
    """The name or address of a `Host` header without its port, in lower case; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def host_names(hosts: Iterable[str]) -> frozenset[str]:
    """The hosts of a setting, as `unknown_host` compares them."""
    return frozenset(name for host in hosts if (name := host_name(host)))


def foreign_origin(scope: Scope, headers: Headers) -> Refusal | None:
    """403 for what a page of another origin has a browser send, unless a person follows a link to a page.

    Programs that are no browsers name no origin, and pass.
    """
    origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
    if origin is not None and not is_own_origin(origin, scope, headers):
        return forbidden("The request comes from a page of another origin. Ask from this server's own pages, or with a program.")
    if site in {None, b"same-origin", b"none"} or _follows_link(scope, headers):
        return None
    return forbidden("The request comes from a page of another site. Ask from this server's own pages, or with a program.")


def form_body(scope: Scope, headers: Headers) -> Refusal | None:
    """415 for a change whose body is of a kind that a form of any page can send."""
    if scope["method"] in SAFE_METHODS or media_type(headers) not in OF_FORMS:
        return None
    return Refusal(status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail="Changes are not taken from forms. Send them as application/json.")


def media_type(headers: Headers) -> str:
    """The media type of the body without its parameters, in lower case."""
    return headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()


def _follows_link(scope: Scope, headers: Headers) -> bool:
    return scope["type"] == "http" and scope["method"] in SAFE_METHODS and headers.get(b"sec-fetch-mode") == b"navigate"
