"""The forms that values of settings have, each with what a person reads who gave another one. Nothing here reads the environment."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr
from pydantic_core import PydanticCustomError

# The types of errors that carry a `problem` and what is `expected`; the value of the second may not be shown.
MALFORMED, MALFORMED_SECRET = "malformed", "malformed_secret"
LARGEST_PORT = 65_535

AN_URL = "a URL with scheme, host and, if need be, port, such as http://127.0.0.1:9000"
A_FOLDER = "file:///<path> or s3://<bucket>/<prefix>"
A_SERVER = "valkey://<user>:<password>@<host>:<port>/<number>, or valkeys:// with TLS"
A_DSN = "postgresql://<user>:<password>@<host>:<port>/<database>, or another connection string of libpq"
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
BROKERS = "host:port, several separated by commas"
A_PORT = f"a port from 0 to {LARGEST_PORT} (0 picks a free one)"
A_MODULE = "the dotted name of a Python package, such as shop.use_cases"
SECONDS = "a number of seconds, 0 or more"
A_SHARE = "a share from 0 to 1"
ALERT_URLS = "URLs of Apprise between blanks, such as mailto://…, or a JSON object of such lists by owner, with * for all others"


def _text(form: Callable[[str], str | None], expected: str) -> AfterValidator:
    """A check of a text, which may be secret; `form` returns what is wrong with it, None where nothing is."""

    def check(value: str | SecretStr) -> str | SecretStr:
        is_secret = isinstance(value, SecretStr)
        problem = form(value.get_secret_value() if isinstance(value, SecretStr) else value)
        if problem is not None:
            raise PydanticCustomError(MALFORMED_SECRET if is_secret else MALFORMED, "{problem}", {"problem": problem, "expected": expected})
        return value

    return AfterValidator(check)


def _split(text: str) -> tuple[SplitResult | None, int | None]:
    """The parts of a URL and its port; no parts where the URL has none or its port is out of range."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None, None
    return parts, port


def _url(text: str) -> str | None:
    parts, _ = _split(text)
    if parts is None:
        return "has a host or a port that cannot be read"
    if parts.scheme not in {"http", "https"}:
        return "does not begin with http:// or https://"
    return None if parts.hostname else "has no host"


def _folder(text: str) -> str | None:
    parts, _ = _split(text)
    if parts is None or parts.scheme not in {"file", "s3"}:
        return "does not begin with file:/// or s3://"
    if parts.scheme == "s3":
        return None if parts.netloc else "has no bucket"
    return None if not parts.netloc and parts.path.startswith("/") else "is no absolute path"


def _server(text: str) -> str | None:
    parts, _ = _split(text)
    if parts is None:
        return "has a host or a port that cannot be read"
    if parts.scheme not in {"valkey", "valkeys", "redis", "rediss"}:
        return "does not begin with valkey:// or valkeys://"
    return None if parts.hostname else "has no host"


def dsn_problem(text: str) -> str | None:
    """What is wrong with a DSN by libpq's own rules, None where nothing is; not in libpq's words, which may show the password."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except ProgrammingError:
        return _unread(text)
    if not _are_ports(given):
        return "has a host or a port that cannot be read"
    if given.get("sslmode", "prefer") not in SSL_MODES:
        return f"has an sslmode other than {', '.join(SSL_MODES)}"
    if "service" in given:
        return None
    if not given.get("host") and not given.get("hostaddr"):
        return "has no host"
    return None if given.get("dbname") else "has no database"


def _unread(text: str) -> str:
    """Why libpq does not read a DSN, as far as that can be said without showing a part of it."""
    is_uri = text.startswith(("postgresql://", "postgres://"))
    if "://" in text and not is_uri:
        return "does not begin with postgresql://"
    if is_uri:
        return "has a parameter that libpq does not know, or a character that must be percent-encoded"
    return "does not begin with postgresql://, and is no list of keyword=value pairs"


def _are_ports(given: Mapping[str, str]) -> bool:
    """Each port is one, and there is one for all hosts or one each."""
    ports = given.get("port", "").split(",")
    hosts = (given.get("host") or given.get("hostaddr") or "").split(",")
    are_numbers = all(not port or (port.isascii() and port.isdigit() and 0 < int(port) <= LARGEST_PORT) for port in ports)
    return are_numbers and len(ports) in {1, len(hosts)}


def _brokers(text: str) -> str | None:
    for one in text.split(","):
        parts, port = _split(f"//{one.strip()}")
        if parts is None or not parts.hostname or port is None or parts.path:
            return "is no list of hosts with ports"
    return None


def _module(text: str) -> str | None:
    return None if all(part.isidentifier() for part in text.split(".")) else "is no name of a package"


def _number(kind: Callable[[str], float], largest: float, expected: str) -> BeforeValidator:
    """A check that a value is a number from 0 to `largest`."""

    def read(value: object) -> float:
        try:
            number = kind(str(value))
        except ValueError:
            number = -1
        if not 0 <= number <= largest:
            raise PydanticCustomError(MALFORMED, "{problem}", {"problem": "is no such number", "expected": expected})
        return number

    return BeforeValidator(read)


def _names(value: object) -> object:
    """Names between commas, from one text."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _alert_urls(value: object) -> object:
    """URLs by owner, from one text or a JSON object."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value) if value.lstrip().startswith("{") else {"*": value}
        lists = {str(owner): urls.split() if isinstance(urls, str) else list(map(str, urls)) for owner, urls in found.items()}
    except (ValueError, TypeError, AttributeError):
        lists = {"*": [""]}
    if any("://" not in url for urls in lists.values() for url in urls):
        raise PydanticCustomError(MALFORMED_SECRET, "{problem}", {"problem": "has what is no URL", "expected": ALERT_URLS})
    if value.strip() and not lists.get("*"):
        problem = "names nobody under *, who has the alerts of no owner"
        raise PydanticCustomError(MALFORMED_SECRET, "{problem}", {"problem": problem, "expected": ALERT_URLS})
    return lists


AlertUrls = Annotated[dict[str, tuple[SecretStr, ...]], BeforeValidator(_alert_urls)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
HttpUrl = Annotated[str, _text(_url, AN_URL)]
FolderUrl = Annotated[str, _text(_folder, A_FOLDER)]
Dsn = Annotated[SecretStr, _text(dsn_problem, A_DSN)]
ServerUrl = Annotated[SecretStr, _text(_server, A_SERVER)]
Brokers = Annotated[str, _text(_brokers, BROKERS)]
# As Kafka's clients name them.
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
ModuleName = Annotated[str, _text(_module, A_MODULE)]
Port = Annotated[int, _number(int, LARGEST_PORT, A_PORT)]
Seconds = Annotated[float, _number(float, 1e9, SECONDS)]
Share = Annotated[float, _number(float, 1.0, A_SHARE)]


class RestService(BaseModel):
    """Where a REST source is, and the credentials that its login needs; `authority` is a PEM file of those who may sign its certificate."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: HttpUrl
    api_key: SecretStr | None = None
    token: SecretStr | None = None
    user: str | None = None
    password: SecretStr | None = None
    token_url: HttpUrl | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None
    authority: Path | None = None


class SchemaRegistry(BaseModel):
    """Where a schema registry is, with user and password where it asks for them (HTTP Basic)."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: HttpUrl
    user: str | None = None
    password: SecretStr = SecretStr("")


class FileFolder(BaseModel):
    """Where a folder of files is, on disk (`file:///in`) or on an object store (`s3://bucket/prefix`).

    An object store of one's own has `endpoint` and `region`; without keys the machine's own identity is used.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: FolderUrl
    endpoint: HttpUrl | None = None
    region: str | None = None
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
