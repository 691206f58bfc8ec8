"""Dagster's web server behind the guard: what `dagster-webserver` does, with the guard as the first of its middleware."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import uvicorn
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetKey,
    AssetObservation,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    EventRecordsFilter,
    RunsFilter,
)
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES as JUDGED
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.log import configure_loggers
from dagster_webserver.cli import DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_MAX_OVERFLOW, DEFAULT_POOL_RECYCLE
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline_assets.core.errors import SettingsMalformed, SettingsMissing, UserInputError
from pipeline_assets.core.problems import MalformedSetting
from pipeline_assets.core.settings import PREFIX, AccessSettings, ObjectStoreSettings, WebSettings, read_part
from pipeline_assets.serving.realtime.access.audit import end_audit, log_audit
from pipeline_assets.serving.realtime.access.callers import Caller, Role
from pipeline_assets.serving.realtime.access.opened import open_access
from pipeline_assets.web.guard import WebGuard
from pipeline_assets.web.lineage import LineagePage
from pipeline_assets.web.login import COOKIE, Login
from pipeline_assets.web.metrics import CONTENT_TYPE, PATH, PlatformMetrics, Seen
from pipeline_assets.web.origins import is_of_this_machine
from pipeline_assets.web.reports import report_route

# How often an open page asks for what is new, as Dagster has it by default.
POLL_MS = 2000
ENDING_SECONDS = 3
CERTIFICATE = f"{PREFIX}WEB_CERTIFICATE"
# So many observations of all assets are read at a look at most.
MOST_OBSERVATIONS = 500


class GuardedWebserver(DagsterWebserver[WorkspaceProcessContext, WorkspaceRequestContext]):
    """The web server, whose first middleware is the guard."""

    def __init__(self, context: WorkspaceProcessContext, settings: WebSettings, login: Login | None) -> None:
        self._settings, self._login = settings, login
        self._platform = PlatformMetrics(partial(look, context, Observations(context.instance.event_log_storage)), settings.home)
        super().__init__(context, live_data_poll_rate=POLL_MS)

    def build_middleware(self) -> list[Middleware]:
        """The guard before what Dagster has."""
        guard = Middleware(WebGuard, hosts=self._settings.web_hosts, login=self._login)
        return [guard, *super().build_middleware()]

    def build_routes(self) -> list[BaseRoute]:
        """The metrics, the drift reports and the lineage of columns, behind the same guard, then what Dagster has."""
        of_dagster: list[BaseRoute] = super().build_routes()  # type: ignore[no-untyped-call]
        reports = report_route(lambda: read_part(ObjectStoreSettings, self._settings.home))
        return [Route(PATH, self._metrics, name="metrics"), reports, LineagePage().route(), *of_dagster]

    def _metrics(self, _: Request) -> Response:
        """What Prometheus reads; a thread of its own looks."""
        return Response(self._platform.text(), media_type=CONTENT_TYPE)

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


def look(process: WorkspaceProcessContext, observations: "Observations") -> Seen:
    """The platform as the instance and the code locations have it.

    A query for each state of runs, one for each check that a run is to judge, and three for all assets.
    """
    instance, context = process.instance, process.create_request_context()
    graph, locations = context.asset_graph, context.get_code_location_entries()
    log, checks, assets = instance.event_log_storage, list(graph.asset_check_keys), list(graph.get_all_asset_keys())
    latest = log.get_latest_asset_check_execution_by_key(checks)
    judged = {check: found for check, record in latest.items() if (found := _judged(log, record)) is not None}
    newest = {record.asset_entry.asset_key: record.asset_entry.last_materialization for record in log.get_asset_records(assets)}
    observed = {asset: numbers for asset, numbers in observations.look().items() if graph.has(asset)}
    return Seen(
        runs={state.value: instance.get_runs_count(RunsFilter(statuses=[state])) for state in DagsterRunStatus},
        loaded={location: entry.code_location is not None for location, entry in locations.items()},
        checks={_name(check): (not found.passed, found.severity.value) for check, found in judged.items()},
        materialized={asset.to_user_string(): event.timestamp for asset, event in newest.items() if event is not None},
        observed={(asset.to_user_string(), name): value for asset, numbers in observed.items() for name, value in numbers.items()},
    )


def _name(check: AssetCheckKey) -> tuple[str, str]:
    return check.asset_key.to_user_string(), check.name


def _judged(log: EventLogStorage, newest: AssetCheckExecutionRecord) -> AssetCheckEvaluation | None:
    """How a check came out when it was judged last, which may be before the run that is to judge it again; None if it never was."""
    if newest.status in JUDGED:
        return newest.evaluation
    before = log.get_asset_check_execution_history(newest.key, limit=1, status=JUDGED)
    return before[0].evaluation if before else None


class Observations:
    """The numbers of the newest observation of each asset, kept from look to look: each reads what was observed since the one before.

    Where `most` or more were, each asset is asked for its newest instead. An observation that is committed after one that began later may
    be passed over; the asset's next one is seen.
    """

    def __init__(self, log: EventLogStorage, most: int = MOST_OBSERVATIONS) -> None:
        self._log, self._most, self._newest = log, most, dict[AssetKey, dict[str, float]]()
        self._seen_to: int | None = None

    def look(self) -> Mapping[AssetKey, Mapping[str, float]]:
        """By asset and name, of all assets that were ever observed."""
        since = EventRecordsFilter(DagsterEventType.ASSET_OBSERVATION, after_cursor=self._seen_to)
        new = list(self._log.get_event_records(since, limit=self._most))
        self._seen_to = new[0].storage_id if new else self._seen_to
        if len(new) == self._most:
            assets = self._log.all_asset_keys()
            new += [record for asset in assets for record in self._log.fetch_observations(asset, limit=1).records]
        for record in sorted(new, key=lambda one: one.storage_id):
            observation = record.event_log_entry.asset_observation
            if observation is not None:
                self._newest[observation.asset_key] = _numbers(observation)
        return self._newest


def _numbers(observation: AssetObservation) -> dict[str, float]:
    values = {name: value.value for name, value in observation.metadata.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def serve(workspace: Path, host: str, port: int, settings: WebSettings, access: AccessSettings) -> None:
    """Serves the instance of DAGSTER_HOME until it is interrupted; `workspace` is the file that names the code locations.

    Raises UserInputError for an address beyond this machine without a login, and for a certificate that cannot be used.
    """
    if not settings.web_login and not is_of_this_machine(host):
        raise UserInputError(
            f"The web server would listen on '{host}', which other machines reach, and anybody there could start runs. "
            "Set PIPELINE_WEB_LOGIN=true, or listen on 127.0.0.1."
        )
    check_certificate(settings)
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
            app,
            host=host,
            port=port,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=ENDING_SECONDS,
            ssl_certfile=settings.web_certificate,
            ssl_keyfile=settings.web_certificate_key,
        )
    end_audit()


def check_certificate(settings: WebSettings) -> None:
    """Raises SettingsMissing for a key without a certificate, SettingsMalformed for files that cannot be used."""
    certificate, key = settings.web_certificate, settings.web_certificate_key
    if certificate is None and key is not None:
        raise SettingsMissing([CERTIFICATE])
    if certificate is None:
        return
    try:
        # With an empty password a key that has one is an error, and nothing waits for somebody to type it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:
        expected = f"a PEM file with a certificate and its key, or the key in that of {CERTIFICATE}_KEY, without a password"
        raise SettingsMalformed([MalformedSetting(CERTIFICATE, f"cannot be used: {error}", expected, str(certificate))]) from error


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    """As Dagster's own: uvicorn ends it by cancelling it."""
    with suppress(asyncio.CancelledError):
        yield
