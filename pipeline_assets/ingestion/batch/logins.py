"""Who asks a service: what its settings must have for a kind of login, and how that goes into a request."""

from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pydantic import SecretStr

from pipeline_assets.core.errors import SettingsMissing
from pipeline_assets.core.settings import PREFIX, RestService, Settings
from pipeline_assets.spec.rest import ApiKey, BasicLogin, BearerToken, Login, NoLogin
from pipeline_assets.spec.sources import RestEndpoint

if TYPE_CHECKING:
    import httpx


def service_of(settings: Settings, origin: RestEndpoint) -> RestService:
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
        case NoLogin():
            return _put_nothing


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
        case NoLogin():
            return ()
