"""Whether a model is served as promised. Pure: a look and a model in, a verdict per check out."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.serving.realtime.health.look import START, Look, Unread
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.overview import ModelOverview, Overview, WorkerOverview

IS_UP, SERVES_LIVE, ERRORS = "is_up", "serves_live_version", "errors"
LATENCY, FEATURES, LOGGED = "latency", "features_fresh", "predictions_logged"
# A promotion is live within two seconds; a package may take longer to come.
SWITCH = timedelta(seconds=30)
# A process reports each second.
STALE_REPORT_SECONDS = 10.0
# Of what was asked in the last minutes, this share may fail, or be answered from features that are older than promised.
MOST = 0.01
STALE, STAND_INS = "stale", ("last_good", "default")
LOGS = "`pipeline logs predictions` has the reason."
STORE = "See whether the database of PIPELINE_ONLINE_DSN answers, and within PIPELINE_SERVE_FEATURES_MS."
WORKER = "See `pipeline features online status` and `pipeline logs online-worker`."
KAFKA = "See `pipeline status` and `pipeline logs kafka`."
Number = int | float | str
Finding = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A check of each model: what it promises, which numbers it shows, and whether what it finds is an error rather than a warning."""

    name: str
    promises: str
    shows: tuple[str, ...]
    is_error: bool
    # What is wrong, and what to do; None where nothing is.
    judge: "Callable[[Model, Overview, Look, datetime], Finding | None]"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check says of a model; `finding` is what is wrong and what to do, None where nothing is."""

    rule: Rule
    finding: Finding | None


def judged(model: Model, look: Look, now: datetime) -> list[Verdict]:
    """A verdict of each rule; where the service cannot be asked no rule is kept."""
    if isinstance(look.found, Unread):
        return [Verdict(rule=rule, finding=(look.found.problem, look.found.todo)) for rule in RULES]
    return [Verdict(rule=rule, finding=rule.judge(model, look.found, look, now)) for rule in RULES]


def numbers(model: Model, look: Look) -> dict[str, Number]:
    """What is shown of a model: traffic, latency, errors, shedding, where features came from, how fresh they were, the log, versions."""
    live = look.live.get(model.name)
    shown: dict[str, Number] = {"url": look.url, "live_version": "none" if live is None else live.version}
    if isinstance(look.found, Unread) or model.name not in look.found.models:
        return {**shown, "is_up": 0}
    one, log = look.found.models[model.name], look.found.log
    asked = one.answered + one.errors + one.refused + one.shed
    latency = {"p50_ms": one.p50_ms, "p95_ms": one.p95_ms, "p99_ms": one.p99_ms}
    ages = {view.name: look.found.views[view.name].age_seconds for view in model.views if view.name in look.found.views}
    return {
        **shown,
        "is_up": int(look.found.is_ready),
        "workers": len(look.found.workers),
        "version": ", ".join(map(str, one.versions)) or "none",
        "requests": one.requests,
        "requests_per_second": round(asked / look.found.window_seconds, 3),
        **{name: round(value, 3) for name, value in latency.items() if value is not None},
        "error_share": _share(one.errors, asked),
        "shed_share": _share(one.shed, asked),
        "fallback_share": _share(_stood_in(one), sum(one.tiers.values())),
        "stale_share": _share(*_stale(one)),
        **{f"age_seconds {view}": round(age, 1) for view, age in ages.items() if age is not None},
        "log_waiting": log.waiting + log.spooled,
        "log_lost": sum(log.lost.values()),
    }


def _up(_: Model, found: "Overview", __: Look, ___: datetime) -> Finding | None:
    silent = [one.worker for one in found.workers if one.age_seconds > STALE_REPORT_SECONDS]
    if silent:
        return f"worker {silent[0]} has not reported for {STALE_REPORT_SECONDS:.0f} s", f"Restart the service. {LOGS}"
    waiting = next((one for one in found.workers if not one.is_ready), None)
    if waiting is None:
        return None
    reasons = "; ".join(f"{model}: {problem}" for model, problem in waiting.model_problems.items())
    return f"worker {waiting.worker} is not ready: {reasons or 'it has just started'}", START


def _version(model: Model, found: "Overview", look: Look, now: datetime) -> Finding | None:
    live = look.live.get(model.name)
    if live is None or now - live.since < SWITCH:
        return None
    other = next((one for one in found.workers if one.versions.get(model.name) != live.version), None)
    return None if other is None else (_not_live(model, other, live.version), _package(model))


def _not_live(model: Model, worker: "WorkerOverview", version: int) -> str:
    serves = worker.versions.get(model.name)
    instead = "none serves" if serves is None else f"version {serves} serves"
    reason = worker.model_problems.get(model.name) or "; ".join(worker.problems) or "it gave no reason"
    return f"version {version} is live, and on worker {worker.worker} {instead}: {reason}"


def _package(model: Model) -> str:
    return f"Materialize {'/'.join(names.package(model.name))} anew, or go back by `pipeline models rollback {model.name}`. {LOGS}"


def _errors(model: Model, found: "Overview", _: Look, __: datetime) -> Finding | None:
    one = found.models[model.name]
    share = _share(one.errors, one.answered + one.errors)
    if share <= MOST:
        return None
    return f"{one.errors:,} of {one.answered + one.errors:,} requests failed by a fault of the service ({share:.1%})", LOGS


def _latency(model: Model, found: "Overview", _: Look, __: datetime) -> Finding | None:
    one, most = found.models[model.name], found.features_ms + model.gate.max_latency_ms
    if one.p99_ms is None or one.p99_ms <= most:
        return None
    bound = f"{found.features_ms} ms for features and {model.gate.max_latency_ms:g} ms for the model"
    more = "Requests wait for their turn: give the service more workers (PIPELINE_SERVE_WORKERS), or its machine less to do."
    return f"the 99th percentile is {one.p99_ms:,.0f} ms, more than {bound}", more


def _features(model: Model, found: "Overview", look: Look, _: datetime) -> Finding | None:
    one = found.models[model.name]
    stood_in, rows = _stood_in(one), sum(one.tiers.values())
    if _share(stood_in, rows) > MOST:
        return f"the online store did not answer in time for {stood_in:,} of {rows:,} predictions", STORE
    stale = {name: each.get(STALE, 0) for name, each in one.statuses.items() if not _asked_ahead(model, found, name, look)}
    view, count = max(stale.items(), key=lambda each: each[1], default=("", 0))
    if view and _share(count, sum(one.statuses[view].values())) > MOST:
        return f"{view} was older than promised for {count:,} questions", WORKER
    return None


def _asked_ahead(model: Model, found: "Overview", view: str, look: Look) -> bool:
    """Whether a view is as fresh as promised by the replay clock: then what was asked of it is of a time that was not replayed yet."""
    clock, seen = look.replays.get(model.name), found.views.get(view)
    if clock is None or seen is None or seen.age_seconds is None:
        return False
    # The live version may be of an earlier declaration, which had other views.
    promised = next((one.freshness for one in model.views if one.name == view), timedelta(0))
    return datetime.fromisoformat(seen.asked_at) - timedelta(seconds=seen.age_seconds) + promised >= clock


def _logged(_: Model, found: "Overview", __: Look, ___: datetime) -> Finding | None:
    log = found.log
    if log.lost:
        reasons = ", ".join(f"{count:,} as {reason}" for reason, count in log.lost.items())
        return f"predictions were not logged: {reasons}", f"{LOGS} They are counted since the service started."
    if log.away_since is not None:
        return f"Kafka does not answer since {log.away_since}; {log.spooled:,} predictions wait on disk", KAFKA
    return None


def _stood_in(one: "ModelOverview") -> int:
    """Predictions of features that the store did not give, and should have: callers may bring their own."""
    return sum(one.tiers.get(tier, 0) for tier in STAND_INS)


def _stale(one: "ModelOverview") -> tuple[int, int]:
    """Questions of all views that were older than promised, and all."""
    return sum(each.get(STALE, 0) for each in one.statuses.values()), sum(sum(each.values()) for each in one.statuses.values())


def _share(some: int, total: int) -> float:
    return round(some / total, 6) if total else 0.0


RULES = (
    Rule(
        name=IS_UP, promises="The service answers, and every process of it is ready.", shows=("is_up", "workers"), is_error=True, judge=_up
    ),
    Rule(
        name=SERVES_LIVE,
        promises="Every process answers with the version that is live in the ledger.",
        shows=("live_version",),
        is_error=True,
        judge=_version,
    ),
    Rule(
        name=ERRORS,
        promises="At most 1 % of requests of the last five minutes failed by a fault of the service.",
        shows=("error_share", "requests_per_second"),
        is_error=True,
        judge=_errors,
    ),
    Rule(
        name=LATENCY,
        promises="99 % of requests of the last five minutes took no longer than features may take, and a score by the gate.",
        shows=("p50_ms", "p99_ms"),
        is_error=False,
        judge=_latency,
    ),
    Rule(
        name=FEATURES,
        promises="99 % of predictions of the last five minutes had features from the online store, as fresh as their views promise.",
        shows=("fallback_share", "stale_share"),
        is_error=False,
        judge=_features,
    ),
    Rule(
        name=LOGGED,
        promises="No prediction was lost for the log, and Kafka takes what is logged.",
        shows=("log_waiting", "log_lost"),
        is_error=True,
        judge=_logged,
    ),
)
