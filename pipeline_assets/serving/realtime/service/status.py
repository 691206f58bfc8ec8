"""What the page shows: versions, figures and freshness over all processes, and the newest predictions of this one with their reasons."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pipeline_assets.core.instants import microseconds_at
from pipeline_assets.serving.realtime.access.opened import Access
from pipeline_assets.serving.realtime.access.page import (
    Contribution,
    Explanation,
    ModelStatus,
    RecentPrediction,
    RequestField,
    ServiceStatus,
    ViewFreshness,
)
from pipeline_assets.serving.realtime.service.explain import explanations
from pipeline_assets.serving.realtime.service.openapi import example_of
from pipeline_assets.serving.realtime.service.predictor import Part, plain_scores
from pipeline_assets.serving.realtime.service.reported import age_of, figures_of, followed_of, log_of
from pipeline_assets.serving.realtime.service.schema import NUMBER, TEXT, TIME, TRUTH, WHOLE, Field
from pipeline_assets.serving.realtime.service.workers import Followed, Report
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Binary, Regression

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.service.app import Service

# The page shows so many of the newest predictions, of each request its first row.
RECENT, SHOWN = 50, 12
Kind = Literal["text", "number", "integer", "boolean", "time"]
KINDS: tuple[tuple[object, Kind], ...] = ((NUMBER, "number"), (WHOLE, "integer"), (TRUTH, "boolean"), (TIME, "time"), (TEXT, "text"))


@dataclass
class Recent:
    """The newest predictions of this process, and how far each view was followed when it was last asked for."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    followed: dict[str, Followed] = field(default_factory=dict)
    _newest: "deque[tuple[str, Part]]" = field(default_factory=lambda: deque(maxlen=RECENT))

    def answered(self, part: Part, ids: Sequence[str]) -> None:
        """A request was answered."""
        self._newest.append((ids[0], part))
        if part.first == 0:
            # Once of what was answered together.
            asked_at = microseconds_at(part.of.asked_at)
            self.followed.update({view: Followed(known_to=us, asked_at=asked_at) for view, us in part.of.found.known_to.items()})

    def newest(self) -> list[tuple[str, Part]]:
        """The newest first."""
        return list(reversed(self._newest))


def status_of(service: "Service", access: Access) -> ServiceStatus:
    """All that the page shows."""
    reports = service.workers.reports()
    log = log_of(reports)
    lost, away = sum(log.lost.values()), None if log.away_since is None else datetime.fromisoformat(log.away_since)
    problems = [
        *access.problems,
        *(f"Model {name}: {problem}." for name, problem in service.live.problems.items()),
        *([] if service.live.ledger_answers else ["The ledger of promotions does not answer; what was live goes on."]),
        *([] if away is None else [f"Kafka does not answer since {away:%H:%M:%S} UTC; {log.spooled:,} predictions wait on disk."]),
        *([] if not lost else [f"{lost:,} predictions were not logged."]),
    ]
    return ServiceStatus(
        at=datetime.now(UTC),
        started_at=service.recent.started_at,
        is_ready=service.is_ready,
        workers=service.serve.serve_workers,
        # Those that answer stand first.
        models=tuple(sorted((_model(service, reports, model) for model in service.project.models), key=lambda one: one.version is None)),
        recent=tuple(recent_prediction(number, part) for number, part in service.recent.newest()[:SHOWN]),
        problems=tuple(problems),
    )


async def explain_recent(service: "Service", prediction: str) -> Explanation | None:
    """Why one of the newest predictions came out as it did; None for one that is not among them."""
    found = next((part for number, part in service.recent.newest() if number == prediction), None)
    if found is None:
        return None
    model = found.of.serving.loaded.model
    first = Part(of=found.of, first=found.first, rows=1)
    (why,) = await asyncio.to_thread(explanations, first)
    by_feature, bias = why["contributions"], why["bias"]
    if why.get("predicted") is not None:
        by_feature, bias = by_feature[why["predicted"]], bias[why["predicted"]]
    statuses = first.statuses[0]
    return Explanation(
        prediction=recent_prediction(prediction, first),
        bias=bias,
        unit=model.task.unit if isinstance(model.task, Regression) else "log-odds",
        contributions=tuple(
            Contribution(feature=name, value=why["features"][name], contribution=value, status=statuses.get(name.partition("__")[0]))
            for name, value in by_feature.items()
        ),
    )


def recent_prediction(number: str, part: Part) -> RecentPrediction:
    """A prediction as the page lists it: the first row of its request."""
    model = part.of.serving.loaded.model
    answer = plain_scores(model, Part(of=part.of, first=part.first, rows=1))[0]
    name = "score" if isinstance(model.task, Binary) else "value" if isinstance(model.task, Regression) else "predicted"
    return RecentPrediction(
        id=number, at=part.of.asked_at, model=model.name, version=part.versions[0].version, score=answer[name], tier=part.tiers[0]
    )


def _model(service: "Service", reports: Mapping[int, Report], model: Model) -> ModelStatus:
    serving, figures = service.live.serving.get(model.name), figures_of(reports, model.name)
    return ModelStatus(
        name=model.name,
        version=None if serving is None else serving.loaded.version,
        since=None if serving is None else serving.since,
        requests=figures.requests,
        errors=figures.errors,
        shed=figures.shed,
        p50_ms=figures.p50_ms,
        p95_ms=figures.p95_ms,
        p99_ms=figures.p99_ms,
        traffic=tuple(figures.traffic),
        freshness=_freshness(followed_of(reports), model),
        fields=tuple(_field(one) for one in service.predictors[model.name].schema.fields),
        challenger=service.live.challengers.in_words(model.name),
        problem=service.live.problems.get(model.name) or service.live.challengers.problem(model.name),
    )


def _freshness(followed: Mapping[str, Followed], model: Model) -> tuple[ViewFreshness, ...]:
    """How far each view was followed when it was last asked for; none of views that nobody has asked for."""
    found = []
    for view in model.views:
        one = followed.get(view.name)
        if one is not None:
            age, promised = age_of(one), view.freshness.total_seconds()
            status: Literal["fresh", "stale", "unknown"] = "unknown" if age is None else "fresh" if age <= promised else "stale"
            found.append(ViewFreshness(view=view.name, status=status, age_seconds=age, promised_seconds=promised))
    return tuple(found)


def _field(one: Field) -> RequestField:
    kind: Kind = next((name for known, name in KINDS if known is one.kind), "text")
    return RequestField(name=one.name, kind=kind, example=example_of(one) if one.is_required else None, is_required=one.is_required)
