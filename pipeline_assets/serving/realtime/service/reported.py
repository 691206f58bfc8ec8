"""What a process reports to the others, and what the service says of itself over all of them: `GET /v1/service`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline_assets.core.instants import instant_at
from pipeline_assets.serving.realtime.overview import LogOverview, ModelOverview, Overview, ViewOverview, WorkerOverview
from pipeline_assets.serving.realtime.service.metrics import ERROR, OK, REFUSED, SHED, STATUS, TIER, TRAFFIC_SECONDS
from pipeline_assets.serving.realtime.service.window import WINDOW_SECONDS, percentile_ms
from pipeline_assets.serving.realtime.service.workers import Followed, ModelReport, Report

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.service.app import Service


def routes(service: "Service") -> list[Route]:
    """The route of the overview."""

    async def overview(_: Request) -> Response:
        return Response(msgspec.json.encode(overview_of(service)), media_type="application/json")

    return [Route("/v1/service", overview, name="service")]


def report_of(service: "Service") -> Report:
    """What this process says of itself."""
    log = service.log.counts()
    return Report(
        at=monotonic(),
        started_at=service.recent.started_at.isoformat(),
        is_ready=service.is_ready,
        problems=[] if service.live.ledger_answers else ["the ledger of promotions does not answer; what was live goes on"],
        models={model.name: _model(service, model.name, [view.name for view in model.views]) for model in service.project.models},
        log=LogOverview(
            delivered=log.delivered,
            waiting=log.waiting,
            spooled=log.spooled,
            lost=dict(log.lost),
            away_since=None if log.away_since is None else log.away_since.isoformat(),
        ),
        metrics=service.metrics.text(service.predictors, log).decode(),
    )


def overview_of(service: "Service") -> Overview:
    """The service over all of its processes."""
    reports = service.workers.reports()
    return Overview(
        is_ready=all(one.is_ready for one in reports.values()),
        features_ms=service.serve.serve_features_ms,
        window_seconds=WINDOW_SECONDS,
        workers=[_worker(place, one) for place, one in reports.items()],
        models={model.name: figures_of(reports, model.name) for model in service.project.models},
        views={
            view: ViewOverview(age_seconds=age_of(one), asked_at=instant_at(one.asked_at).isoformat())
            for view, one in followed_of(reports).items()
        },
        log=log_of(reports),
    )


def figures_of(reports: Mapping[int, Report], model: str) -> ModelOverview:
    """A model by the reports of all processes."""
    found = _of(reports, model)
    counts = sum((Counter(one.counts) for one in found), Counter[str]())
    traffic, now = sum((Counter(one.traffic) for one in found), Counter[int]()), int(monotonic())
    statuses = [(*name.removeprefix(STATUS).rpartition(":")[::2], count) for name, count in counts.items() if name.startswith(STATUS)]
    return ModelOverview(
        versions=sorted({one.version for one in found if one.version is not None}),
        since=max((one.since for one in found if one.since is not None), default=None),
        requests=sum(one.requests for one in found),
        answered=counts[OK],
        errors=counts[ERROR],
        refused=counts[REFUSED],
        shed=counts[SHED],
        p50_ms=percentile_ms(counts, 0.50),
        p95_ms=percentile_ms(counts, 0.95),
        p99_ms=percentile_ms(counts, 0.99),
        tiers={name.removeprefix(TIER): count for name, count in counts.items() if name.startswith(TIER)},
        statuses={view: {status: count for of, status, count in statuses if of == view} for view, _, _ in statuses},
        traffic=[float(traffic[second]) for second in range(now - TRAFFIC_SECONDS + 1, now + 1)] if traffic else [],
    )


def followed_of(reports: Mapping[int, Report]) -> dict[str, Followed]:
    """Of each view how far it was followed, by the newest answer of any process that asked for it."""
    found: dict[str, Followed] = {}
    for report in reports.values():
        for model in report.models.values():
            for view, one in model.views.items():
                if view not in found or one.asked_at > found[view].asked_at:
                    found[view] = one
    return found


def age_of(one: Followed) -> float | None:
    """How old the newest that was known to a view was, in seconds, when it was last asked for; None where it was never followed."""
    return None if one.known_to is None else (one.asked_at - one.known_to) / 1e6


def log_of(reports: Mapping[int, Report]) -> LogOverview:
    """The logs of all processes together; away since the first of them found Kafka so."""
    logs = [one.log for one in reports.values()]
    lost = sum((Counter(one.lost) for one in logs), Counter[str]())
    return LogOverview(
        delivered=sum(one.delivered for one in logs),
        waiting=sum(one.waiting for one in logs),
        spooled=sum(one.spooled for one in logs),
        lost=dict(lost),
        away_since=min((one.away_since for one in logs if one.away_since is not None), default=None),
    )


def _model(service: "Service", name: str, views: Iterable[str]) -> ModelReport:
    serving, metrics = service.live.serving.get(name), service.metrics
    return ModelReport(
        version=None if serving is None else serving.loaded.version,
        since=None if serving is None else serving.since.isoformat(),
        problem=service.live.problems.get(name),
        requests=metrics.requests(name),
        counts=metrics.counts(name),
        traffic=metrics.traffic(name),
        views={view: service.recent.followed[view] for view in views if view in service.recent.followed},
    )


def _of(reports: Mapping[int, Report], model: str) -> Sequence[ModelReport]:
    return [one.models[model] for one in reports.values() if model in one.models]


def _worker(place: int, one: Report) -> WorkerOverview:
    return WorkerOverview(
        worker=place,
        started_at=one.started_at,
        age_seconds=round(monotonic() - one.at, 3),
        is_ready=one.is_ready,
        problems=one.problems,
        versions={name: model.version for name, model in one.models.items()},
        model_problems={name: model.problem for name, model in one.models.items() if model.problem is not None},
    )
