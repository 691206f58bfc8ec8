"""The parts of access put together for one worker of the service, by settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from pipeline_assets.core.errors import SettingsMissing
from pipeline_assets.core.settings import AccessSettings
from pipeline_assets.serving.realtime.access.audit import end_audit, log_audit
from pipeline_assets.serving.realtime.access.credentials import Credentials
from pipeline_assets.serving.realtime.access.guard import Guard, Policy
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.sessions import COOKIE, Sessions, session_secret

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.access.issuer import Issuer


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a worker knows callers by."""

    keys: Keyring
    sessions: Sessions
    issuer: "Issuer | None"

    def guard(self, app: ASGIApp, routes: Sequence[BaseRoute], policy: Policy) -> Guard:
        """The app behind its guard."""
        return Guard(app, routes=routes, policy=policy, credentials=Credentials(keys=self.keys, issuer=self.issuer, sessions=self.sessions))

    def close(self) -> None:
        """Writes what the audit log has left."""
        end_audit()

    @property
    def problems(self) -> list[str]:
        """What is wrong with the file of keys or the identity provider, for health, metrics and the page; none where all is well."""
        return [problem for problem in (self.keys.problem, self.issuer.problem if self.issuer is not None else "") if problem]


def open_access(settings: AccessSettings, cookie: str = COOKIE) -> Access:
    """Reads keys and the secret of sessions, and sends the audit log where the settings say; raises KeyFileRefused, SettingsMissing.

    cookie: the name of that of the page's sessions, unlike those of other pages of the host.
    """
    log_audit(settings.serve_audit_file)
    keys = Keyring(settings.keys_file)
    return Access(keys=keys, sessions=Sessions(keys, session_secret(settings.home), cookie), issuer=_issuer(settings))


def _issuer(settings: AccessSettings) -> "Issuer | None":
    if settings.serve_oidc_issuer is None:
        return None
    if settings.serve_oidc_audience is None:
        # A token for another service of the same provider would do.
        raise SettingsMissing(["PIPELINE_SERVE_OIDC_AUDIENCE"])
    # A client of HTTP and cryptography: a quarter of the time in which a process starts.
    from pipeline_assets.serving.realtime.access.issuer import Issuer, Oidc

    return Issuer(Oidc(issuer=settings.serve_oidc_issuer, audience=settings.serve_oidc_audience, role_claim=settings.serve_oidc_role_claim))
