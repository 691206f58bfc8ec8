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

from pipeline_assets.core.settings import WebSettings
from pipeline_assets.serving.realtime.access.audit import end_audit, log_audit
from pipeline_assets.web.guard import WebGuard

# How often an open page asks for what is new, as Dagster has it by default.
POLL_MS = 2000
ENDING_SECONDS = 3


class GuardedWebserver(DagsterWebserver[WorkspaceProcessContext, WorkspaceRequestContext]):
    """The web server, whose first middleware is the guard."""

    def __init__(self, context: WorkspaceProcessContext, settings: WebSettings) -> None:
        self._settings = settings
        super().__init__(context, live_data_poll_rate=POLL_MS)

    def build_middleware(self) -> list[Middleware]:
        """The guard before what Dagster has."""
        return [Middleware(WebGuard, hosts=self._settings.web_hosts), *super().build_middleware()]


def serve(workspace: Path, host: str, port: int, settings: WebSettings) -> None:
    """Serves the instance of DAGSTER_HOME until it is interrupted; `workspace` is the file that names the code locations."""
    configure_loggers(log_level="INFO")
    log_audit(settings.web_audit_file)
    with (
        DagsterInstance.get() as instance,
        WorkspaceProcessContext(instance, WorkspaceFileTarget([str(workspace)]), version=__version__) as context,
    ):
        instance.optimize_for_webserver(DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW)
        app: Starlette = GuardedWebserver(context, settings).create_asgi_app(lifespan=_lifespan)
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
