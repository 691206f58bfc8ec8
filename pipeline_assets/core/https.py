"""Services that are reached by https: who may sign their certificates, and the error that says which service another one signed.

One file of authorities (`PIPELINE_HTTPS_AUTHORITY`) is for all of them; without it each client trusts whom it trusts by itself. Of a
certificate that they refuse, libraries name neither setting nor service: so a service is greeted once per process before they are used.
"""

import socket
import ssl
from functools import cache
from urllib.parse import urlsplit

from pipeline_assets.core.errors import SettingsMalformed
from pipeline_assets.core.problems import MalformedSetting
from pipeline_assets.core.settings import PREFIX, Part

AUTHORITY = f"{PREFIX}HTTPS_AUTHORITY"
# The property of the catalog by which the files of its tables know it.
STORE_AUTHORITY = "pipeline.s3.authority"
A_FILE = "a PEM file with certificates of authorities"
PORT, GREETING_SECONDS = 443, 5.0


def authority_for(setting: str, url: str, settings: Part) -> str | None:
    """The file of those who may sign the certificate of the service at the URL of a setting; None: whom its client trusts by itself.

    Raises SettingsMalformed where there is no such file, and where the service has a certificate of somebody else, or for another host.
    """
    if settings.https_authority is None or not url.startswith("https://"):
        return None
    authority = str(settings.https_authority)
    _greet(setting, url, authority)
    return authority


def verification(setting: str, url: str, settings: Part, *, trust_env: bool = True) -> ssl.SSLContext:
    """The same for clients of httpx, which trust by themselves what it trusts; raises as `authority_for`."""
    authority = authority_for(setting, url, settings)
    return _trusted(trust_env=trust_env) if authority is None else _trusting(authority)


@cache
def _greet(setting: str, url: str, authority: str) -> None:
    parts, context = urlsplit(url), _trusting(authority)
    host = parts.hostname or ""
    try:
        with (
            socket.create_connection((host, parts.port or PORT), GREETING_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            pass
    except ssl.SSLCertVerificationError as error:
        problem = f"does not fit the certificate of {setting} ({url}): {error.verify_message}"
        raise SettingsMalformed([MalformedSetting(AUTHORITY, problem, "the authority that signed it for this host", authority)]) from error
    except OSError:
        # That it is away is for its client to say.
        pass


@cache
def _trusting(authority: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise SettingsMalformed([MalformedSetting(AUTHORITY, f"cannot be used: {error}", A_FILE, authority)]) from error


@cache
def _trusted(*, trust_env: bool) -> ssl.SSLContext:
    """Read once per process: each new client would read all authorities again, also for plain HTTP."""
    import httpx

    return httpx.create_ssl_context(trust_env=trust_env)
