"""Whether a model is served as promised, by what the service says of itself."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline_assets.model_lifecycle.registry.ledger import Live
from pipeline_assets.serving.realtime.health.judge import RULES, judged, numbers
from pipeline_assets.serving.realtime.health.look import Look, Unread
from pipeline_assets.serving.realtime.overview import LogOverview, ModelOverview, Overview, ViewOverview, WorkerOverview
from pipeline_assets_tests.model_rows import small_model

MODEL = small_model("flight_delay")
VIEW = MODEL.views[0].name
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def worker(number: int) -> WorkerOverview:
    """A process that is well."""
    return WorkerOverview(
        worker=number, started_at="2026-01-01T00:00:00+00:00", age_seconds=0.5, is_ready=True, problems=[], versions={MODEL.name: 3},
        model_problems={},
    )  # fmt: skip


def well() -> Look:
    """A service of two processes whose promises are kept: 1,000 requests in five minutes, version 3 live for an hour."""
    model = ModelOverview(
        versions=[3], since="2026-01-01T11:00:00+00:00", requests=5_000, answered=980, errors=0, refused=10, shed=10,
        p50_ms=2.0, p95_ms=4.0, p99_ms=9.0, tiers={"online": 900, "caller": 80}, statuses={VIEW: {"fresh": 975, "unknown": 5}},
        traffic=[1.0] * 60,
    )  # fmt: skip
    log = LogOverview(delivered=4_000, waiting=1, spooled=0, lost={}, away_since=None)
    found = Overview(
        is_ready=True, features_ms=150, window_seconds=300, workers=[worker(0), worker(1)], models={MODEL.name: model},
        views={VIEW: ViewOverview(age_seconds=2.5, asked_at="2026-01-01T11:59:59+00:00")}, log=log,
    )  # fmt: skip
    return Look(
        url="http://service", found=found, live={MODEL.name: Live(version=3, sequence=1, since=NOW - timedelta(hours=1))}, replays={}
    )


def of(look: Look) -> Overview:
    """What the service said."""
    assert isinstance(look.found, Overview)
    return look.found


def _waits(look: Look) -> None:
    of(look).workers[1].is_ready = False
    of(look).workers[1].model_problems = {MODEL.name: "version 3 has no package yet"}


def _silent(look: Look) -> None:
    of(look).workers[1].age_seconds = 30.0


def _old_version(look: Look) -> None:
    of(look).workers[1].versions = {MODEL.name: 2}
    of(look).workers[1].model_problems = {MODEL.name: "model.ubj has another sha256"}


def _no_version(look: Look) -> None:
    of(look).workers[0].versions = {MODEL.name: None}


def _fails(look: Look) -> None:
    of(look).models[MODEL.name].errors = 20


def _slow(look: Look) -> None:
    of(look).models[MODEL.name].p99_ms = 150 + MODEL.gate.max_latency_ms + 1


def _store_lost(look: Look) -> None:
    of(look).models[MODEL.name].tiers = {"online": 820, "caller": 80, "last_good": 60, "default": 20}


def _stale(look: Look) -> None:
    of(look).models[MODEL.name].statuses = {VIEW: {"fresh": 900, "stale": 80}}


def _lost(look: Look) -> None:
    of(look).log.lost = {"the queue is full": 7}


def _away(look: Look) -> None:
    of(look).log.away_since = "2026-01-01T11:58:00+00:00"
    of(look).log.spooled = 1_234


TROUBLE: dict[str, tuple[Callable[[Look], None], str, str, str]] = {
    "a process waits": (_waits, "is_up", "version 3 has no package yet", "pipeline up"),
    "a process hangs": (_silent, "is_up", "worker 1 has not reported", "Restart"),
    "another version": (_old_version, "serves_live_version", "worker 1 version 2 serves: model.ubj has another", "rollback flight_delay"),
    "no version": (_no_version, "serves_live_version", "worker 0 none serves", "packages/flight_delay"),
    "faults": (_fails, "errors", "20 of 1,000 requests", "pipeline logs predictions"),
    "slow": (_slow, "latency", "99th percentile", "PIPELINE_SERVE_WORKERS"),
    "the store is lost": (_store_lost, "features_fresh", "80 of 980 predictions", "PIPELINE_ONLINE_DSN"),
    "old features": (_stale, "features_fresh", f"{VIEW} was older than promised for 80", "pipeline features online status"),
    "lost predictions": (_lost, "predictions_logged", "7 as the queue is full", "pipeline logs predictions"),
    "Kafka is away": (_away, "predictions_logged", "1,234 predictions wait on disk", "pipeline logs kafka"),
}  # fmt: skip


def test_a_service_that_keeps_its_promises_passes_all() -> None:
    """Each rule has a verdict, none a finding; the numbers are those of the window."""
    look = well()
    shown = numbers(MODEL, look)

    assert [one.rule for one in judged(MODEL, look, NOW)] == list(RULES)
    assert [one for one in judged(MODEL, look, NOW) if one.finding is not None] == []
    assert (shown["version"], shown["live_version"], shown["workers"], shown["is_up"]) == ("3", 3, 2, 1)
    assert (shown["requests_per_second"], shown["shed_share"], shown["error_share"]) == (round(1_000 / 300, 3), 0.01, 0.0)
    assert (shown[f"age_seconds {VIEW}"], shown["log_waiting"], shown["p99_ms"]) == (2.5, 1, 9.0)


@pytest.mark.parametrize("case", TROUBLE)
def test_each_trouble_breaks_its_own_rule_and_says_what_to_do(case: str) -> None:
    """No other rule is broken by it; the finding names what is wrong and a command or a setting."""
    trouble, rule, problem, todo = TROUBLE[case]
    look = well()
    trouble(look)
    broken = {one.rule.name: one.finding for one in judged(MODEL, look, NOW) if one.finding is not None}

    assert list(broken) == [rule]
    found = broken[rule]
    assert problem in found[0]
    assert todo in found[1]


def test_a_version_has_some_time_to_come() -> None:
    """Half a minute after a promotion the version before may serve; where nothing is live, nothing is missed."""
    look = well()
    _old_version(look)
    just_now = replace(look, live={MODEL.name: Live(version=3, sequence=2, since=NOW - timedelta(seconds=10))})

    assert [one for one in judged(MODEL, just_now, NOW) if one.finding is not None] == []
    assert [one for one in judged(MODEL, replace(look, live={}), NOW) if one.finding is not None] == []


def test_a_service_that_cannot_be_asked_keeps_no_promise() -> None:
    """All rules say why it was not asked, and the numbers that it is not up; nobody asking is no trouble."""
    away = replace(well(), found=Unread(problem="http://service does not answer", todo="pipeline up"))
    idle = well()
    of(idle).models[MODEL.name] = ModelOverview(
        versions=[3], since=None, requests=0, answered=0, errors=0, refused=0, shed=0, p50_ms=None, p95_ms=None, p99_ms=None, tiers={},
        statuses={}, traffic=[],
    )  # fmt: skip

    assert {one.finding for one in judged(MODEL, away, NOW)} == {("http://service does not answer", "pipeline up")}
    assert numbers(MODEL, away) == {"url": "http://service", "live_version": 3, "is_up": 0}
    assert [one for one in judged(MODEL, idle, NOW) if one.finding is not None] == []


def test_features_are_as_fresh_as_the_replay_clock_asks_for() -> None:
    """Asked as of a day that was not replayed yet: nothing newer could be known. Behind the clock by more than promised: a warning."""
    promised = next(view.freshness for view in MODEL.views if view.name == VIEW)
    found, asked_at = {}, datetime(2013, 7, 1, 14, 30, tzinfo=UTC)
    for name, clock in {"beyond": datetime(2013, 7, 1, tzinfo=UTC), "within": asked_at, "on the wall": None}.items():
        look = replace(well(), replays={} if clock is None else {MODEL.name: clock})
        of(look).models[MODEL.name].statuses = {VIEW: {"stale": 1_000}}
        known_to = datetime(2013, 7, 1, tzinfo=UTC) - promised
        of(look).views = {VIEW: ViewOverview(age_seconds=(asked_at - known_to).total_seconds(), asked_at=asked_at.isoformat())}
        (verdict,) = [one for one in judged(MODEL, look, NOW) if one.rule.name == "features_fresh"]
        found[name] = verdict.finding is None

    assert found == {"beyond": True, "within": False, "on the wall": False}


def test_a_view_that_the_declaration_no_longer_has_is_judged_by_the_clock_alone() -> None:
    """Regression: where the live version was made from such a view, the sensor ended in StopIteration while a replay ran."""
    clock = datetime(2013, 7, 1, tzinfo=UTC)
    found = {}
    for name, known_to in {"as far as the clock": clock, "behind it": clock - timedelta(minutes=1)}.items():
        look = replace(well(), replays={MODEL.name: clock})
        of(look).models[MODEL.name].statuses = {"gone": {"stale": 1_000}}
        asked_at = known_to + timedelta(hours=2)
        of(look).views = {"gone": ViewOverview(age_seconds=7_200, asked_at=asked_at.isoformat())}
        (verdict,) = [one for one in judged(MODEL, look, NOW) if one.rule.name == "features_fresh"]
        found[name] = verdict.finding is None

    assert found == {"as far as the clock": True, "behind it": False}
