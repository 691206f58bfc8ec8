"""The page for people: what the service does right now, and a form to try a prediction.

It is rendered here, by Jinja2 with everything escaped; its script is one small file that asks for the living part again every two seconds
and sends the form. Nothing comes from a foreign origin, and nothing is inline, so the page's Content-Security-Policy allows neither. The
service hands over a `ServiceStatus`, which says what is shown, and an `Explanation` of one prediction.

Whoever has a browser logs in with an API key that may read; the key is exchanged for a session (`sessions.py`) and kept nowhere.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Literal

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.guard import PUBLIC, Policy
from pipeline_assets.serving.realtime.access.headers import PAGE_HEADERS
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.login import LoginPage, login_routes
from pipeline_assets.serving.realtime.access.rendering import rendered
from pipeline_assets.serving.realtime.access.sessions import Sessions

Value = str | float | bool | None


@dataclass(frozen=True, kw_only=True)
class ViewFreshness:
    """How far a feature view is followed: `age_seconds` behind now (None: never followed), against the promised time."""

    view: str
    status: Literal["fresh", "stale", "unknown"]
    age_seconds: float | None = None
    promised_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class RequestField:
    """A field of an instance, as the form to try a prediction asks for it; `example` is what it has at first."""

    name: str
    kind: Literal["text", "number", "integer", "boolean", "time"]
    example: Value = None
    is_required: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """A model that is served. Counts are since the start of the service; `traffic` is requests per second, oldest first; times in UTC.

    `challenger` says in words which version is tried beside the live one, such as "version 7 shadow" or "version 7 for 10 % of entities".
    """

    name: str
    version: int | None
    since: datetime | None
    requests: int = 0
    errors: int = 0
    shed: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    traffic: tuple[float, ...] = ()
    freshness: tuple[ViewFreshness, ...] = ()
    fields: tuple[RequestField, ...] = ()
    challenger: str | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class RecentPrediction:
    """A prediction that was given; `score` is a number or the predicted class, `tier` where its features came from, such as "online"."""

    id: str
    at: datetime
    model: str
    version: int
    score: float | str
    tier: str


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """All that the page shows; `problems` are sentences about what is wrong with the service itself."""

    at: datetime
    started_at: datetime
    is_ready: bool
    workers: int
    models: tuple[ModelStatus, ...]
    recent: tuple[RecentPrediction, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one feature did to the score: its value, and by how much it moved the margin; `status` is that of its view."""

    feature: str
    value: Value
    contribution: float
    status: str | None = None

    @property
    def size(self) -> float:
        """How much it did, either way."""
        return abs(self.contribution)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a prediction came out as it did: `bias` and all contributions add up to its margin, in `unit` (log-odds, or the label's own)."""

    prediction: RecentPrediction
    bias: float
    unit: str
    contributions: tuple[Contribution, ...]


LOGIN_PAGE = LoginPage(
    title="Prediction service",
    roles=frozenset({Role.READ}),
    about="The key needs the role read; with predict you can try predictions, too. Make one:",
    command="pipeline serve-keys create me --role read --role predict",
)
Status = Callable[[], ServiceStatus]
Explain = Callable[[str], Awaitable[Explanation | None]]

ROUTES_POLICY: Policy = {
    "page": Role.READ,
    "page_status": Role.READ,
    "page_prediction": Role.READ,
    "page_logout": Role.READ,
    "page_login": PUBLIC,
    "page_asset": PUBLIC,
}


def page_routes(status: Status, explain: Explain, *, keys: Keyring, sessions: Sessions) -> list[Route]:
    """The routes of the page, whose roles are ROUTES_POLICY; `status` must cost little, as each open page asks every two seconds."""

    async def page(request: Request) -> Response:
        return _page("page.html", status=status(), caller=request.state.caller, may_predict=request.state.caller.may(Role.PREDICT))

    async def live(_: Request) -> Response:
        return _page("live.html", status=status())

    async def prediction(request: Request) -> Response:
        found = await explain(request.path_params["prediction"])
        code = HTTPStatus.OK if found is not None else HTTPStatus.NOT_FOUND
        return _page("prediction.html", code, explanation=found, asked=request.path_params["prediction"], caller=request.state.caller)

    return [
        Route("/", page, name="page"),
        Route("/status", live, name="page_status"),
        Route("/predictions/{prediction:path}", prediction, name="page_prediction"),
        *login_routes(LOGIN_PAGE, keys=keys, sessions=sessions),
    ]


def _page(template: str, code: HTTPStatus = HTTPStatus.OK, **values: object) -> Response:
    return HTMLResponse(rendered(template, **values), code, PAGE_HEADERS)
