"""Who asks a service: what its settings must have for a kind of login, and how that goes into a request."""

import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import quote_plus, urlsplit

from pydantic import SecretStr

from pipeline_assets.core.errors import SettingsMalformed, SettingsMissing, SourceRefused
from pipeline_assets.core.http_errors import json_fields
from pipeline_assets.core.http_limits import ACCEPTED, bind, fetched, until
from pipeline_assets.core.problems import MalformedSetting
from pipeline_assets.core.setting_values import RestService
from pipeline_assets.core.settings import PREFIX, ServiceSettings
from pipeline_assets.core.waits import pause
from pipeline_assets.ingestion.sources.numbers import number_in
from pipeline_assets.spec.rest import ApiKey, BasicLogin, BearerToken, ClientCertificate, ClientCredentials, Login, NoLogin
from pipeline_assets.spec.sources import RestEndpoint

if TYPE_CHECKING:
    import httpx

TOKEN_SECONDS, TOKEN_BYTES = 10.0, 1 << 20
# How long a token lasts whose server does not say.
UNSAID_SECONDS = 300
# A century, so that a clock can count it.
LONGEST_SECONDS = 3_155_760_000


def service_of(settings: ServiceSettings, origin: RestEndpoint) -> RestService:
    """Where a service is and who asks it; raises SettingsMissing with all that its login needs and the settings have not."""
    service = settings.services.get(origin.service)
    needed = [] if service is not None else ["url"]
    needed += [name for name in _needed(origin.login) if service is None or getattr(service, name) is None]
    if service is None or needed:
        raise SettingsMissing([f"{PREFIX}SERVICES__{origin.service}__{name}".upper() for name in needed])
    return service


def login_of(login: Login, service: RestService) -> "Callable[[httpx.Request], None]":
    """A function that puts the credentials into a request, wherever its URL came from."""
    match login:
        case ApiKey(query=str(parameter)):
            return partial(_put_parameter, parameter, _secret(service.api_key))
        case ApiKey(header=header):
            return partial(_put_header, header, _secret(service.api_key))
        case BearerToken():
            return partial(_put_header, "Authorization", f"Bearer {_secret(service.token)}")
        case BasicLogin():
            pair = b64encode(f"{service.user}:{_secret(service.password)}".encode()).decode()
            return partial(_put_header, "Authorization", f"Basic {pair}")
        case ClientCredentials(scope=scope):
            return Tokens(service, {} if scope is None else {"scope": scope})
        case ClientCertificate() | NoLogin():
            return _put_nothing


def verification(origin: RestEndpoint, service: RestService) -> "ssl.SSLContext | bool":
    """How the server is verified, and what it is shown if it asks who connects; raises SettingsMalformed for files that cannot be used."""
    import httpx

    is_shown = isinstance(origin.login, ClientCertificate)
    if service.authority is None and not is_shown:
        return True
    try:
        context = httpx.create_ssl_context() if service.authority is None else ssl.create_default_context(cafile=service.authority)
        if is_shown and service.certificate is not None:
            # With an empty password a key that has one is an error, and nothing waits for somebody to type it.
            context.load_cert_chain(service.certificate, service.certificate_key, password="")
    except OSError as error:
        name = f"{PREFIX}SERVICES__{origin.service}".upper()
        problem = f"has a file for TLS that cannot be used: {error}"
        raise SettingsMalformed([MalformedSetting(name, problem, "readable PEM files, the key without a password", None)]) from error
    return context


def _trusted(service: RestService) -> "ssl.SSLContext | bool":
    """Who may sign the certificate of a server of tokens: the public authorities, as it may be anybody's, and those of the service."""
    import httpx

    if service.authority is None:
        return True
    context = httpx.create_ssl_context()
    context.load_verify_locations(service.authority)
    return context


class Tokens:
    """Tokens of OAuth 2, each used for nine tenths of the time that it lasts."""

    def __init__(self, service: RestService, scope: Mapping[str, str]) -> None:
        self._service, self._scope = service, scope
        self._lock, self._token, self._until = Lock(), "", 0.0

    def __call__(self, request: "httpx.Request") -> None:
        """Puts a token that lasts into a request; raises httpx.HTTPError or SourceRefused where none is given."""
        with self._lock:
            if monotonic() >= self._until:
                self._token, seconds = self._given()
                self._until = monotonic() + 0.9 * seconds
            _put_header("Authorization", f"Bearer {self._token}", request)

    def _given(self) -> tuple[str, float]:
        import httpx

        url = str(self._service.token_url)
        # RFC 6749, 2.3.1: both are written as in a form, then joined.
        login = quote_plus(str(self._service.client_id)), quote_plus(_secret(self._service.client_secret))
        asked, trusted = {"grant_type": "client_credentials", **self._scope}, _trusted(self._service)
        with httpx.Client(verify=trusted, timeout=TOKEN_SECONDS, headers=ACCEPTED) as client:
            bind(client)
            with until(monotonic() + TOKEN_SECONDS, f"a token takes longer than {TOKEN_SECONDS:g} s"):
                answer = fetched(client, "POST", url, TOKEN_BYTES, data=asked, auth=login)
        if not answer.is_success:
            answer.raise_for_status()
        found = json_fields(answer)
        token, lasts = found.get("access_token"), number_in(str(UNSAID_SECONDS if found.get("expires_in") is None else found["expires_in"]))
        if not isinstance(token, str) or lasts is None or not 0 <= lasts <= LONGEST_SECONDS:
            raise SourceRefused(urlsplit(url).path, "it answered no token (`access_token`) with the seconds that it lasts (`expires_in`)")
        return token, float(lasts)


def _put_parameter(name: str, value: str, request: "httpx.Request") -> None:
    request.url = request.url.copy_set_param(name, value)


def _put_header(name: str, value: str, request: "httpx.Request") -> None:
    request.headers[name] = value


def _put_nothing(_: "httpx.Request") -> None:
    """Does nothing about a request."""


def _secret(value: SecretStr | None) -> str:
    return "" if value is None else value.get_secret_value()


def _needed(login: Login) -> tuple[str, ...]:
    match login:
        case ApiKey():
            return ("api_key",)
        case BearerToken():
            return ("token",)
        case BasicLogin():
            return ("user", "password")
        case ClientCredentials():
            return ("token_url", "client_id", "client_secret")
        case ClientCertificate():
            return ("certificate", "certificate_key")
        case NoLogin():
            return ()


class Pace:
    """Lets a request go no sooner than so many seconds after the one before."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._next, self._lock = seconds, 0.0, Lock()

    def __call__(self, _: "httpx.Request") -> None:
        """Returns once the request may go."""
        with self._lock:
            now = monotonic()
            self._next = max(now, self._next)
            pause(self._next - now)
            self._next += self._seconds
