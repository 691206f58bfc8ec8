"""Dagster's web server behind the guard: what `dagster-webserver` does, with the guard as the first of its middleware."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.log import configure_loggers
from dagster_webserver.cli import DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_MAX_OVERFLOW, DEFAULT_POOL_RECYCLE
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

from pipeline_assets.core.errors import UserInputError
from pipeline_assets.core.settings import AccessSettings, ObjectStoreSettings, WebSettings, read_part
from pipeline_assets.serving.realtime.access.audit import end_audit, log_audit
from pipeline_assets.serving.realtime.access.callers import Caller, Role
from pipeline_assets.serving.realtime.access.opened import open_access
from pipeline_assets.web.guard import WebGuard
from pipeline_assets.web.login import COOKIE, Login
from pipeline_assets.web.origins import is_of_this_machine
from pipeline_assets.web.reports import report_route

# How often an open page asks for what is new, as Dagster has it by default.
POLL_MS = 2000
ENDING_SECONDS = 3


class GuardedWebserver(DagsterWebserver[WorkspaceProcessContext, WorkspaceRequestContext]):
    """The web server, whose first middleware is the guard."""

    def __init__(self, context: WorkspaceProcessContext, settings: WebSettings, login: Login | None) -> None:
        self._settings, self._login = settings, login
        super().__init__(context, live_data_poll_rate=POLL_MS)

    def build_middleware(self) -> list[Middleware]:
        """The guard before what Dagster has."""
        guard = Middleware(WebGuard, hosts=self._settings.web_hosts, login=self._login)
        return [guard, *super().build_middleware()]

    def build_routes(self) -> list[BaseRoute]:
        """The drift reports, then what Dagster has."""
        own: list[BaseRoute] = super().build_routes()  # type: ignore[no-untyped-call]
        return [report_route(lambda: read_part(ObjectStoreSettings, self._settings.home)), *own]

    def _make_request_context(self, conn: HTTPConnection) -> WorkspaceRequestContext:
        """What a request works with: for those who may only look, one in which nothing can be changed, as the pages then show."""
        found = super()._make_request_context(conn)
        caller: Caller | None = conn.scope["state"]["caller"]
        if caller is None or caller.may(Role.OPERATOR):
            return found
        return WorkspaceRequestContext(
            instance=found.instance,
            current_workspace=self._process_context.get_current_workspace(),
            process_context=self._process_context,
            version=found.version,
            source=conn,
            read_only=True,
        )


def serve(workspace: Path, host: str, port: int, settings: WebSettings, access: AccessSettings) -> None:
    """Serves the instance of DAGSTER_HOME until it is interrupted; `workspace` is the file that names the code locations.

    Raises UserInputError for an address beyond this machine without a login.
    """
    if not settings.web_login and not is_of_this_machine(host):
        raise UserInputError(
            f"The web server would listen on '{host}', which other machines reach, and anybody there could start runs. "
            "Set PIPELINE_WEB_LOGIN=true, or listen on 127.0.0.1."
        )
    configure_loggers(log_level="INFO")
    login = Login(open_access(access, COOKIE)) if settings.web_login else None
    log_audit(settings.web_audit_file)
    with (
        DagsterInstance.get() as instance,
        WorkspaceProcessContext(instance, WorkspaceFileTarget([str(workspace)]), version=__version__) as context,
    ):
        instance.optimize_for_webserver(DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW)
        app: Starlette = GuardedWebserver(context, settings, login).create_asgi_app(lifespan=_lifespan)
        # Headers of a proxy are not believed, as anybody can send them; a configuration of logs would close the audit log.
        uvicorn.run(
            app, host=host, port=port, log_config=None, proxy_headers=False, server_header=False, timeout_graceful_shutdown=ENDING_SECONDS
        )
    end_audit()


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    """As Dagster's own: uvicorn ends it by cancelling it."""
    with suppress(asyncio.CancelledError):
        yield
