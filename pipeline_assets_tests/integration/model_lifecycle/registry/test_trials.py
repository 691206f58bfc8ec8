"""Versions that are tried beside the live one, in the ledger of a real database: many decide at once, and one of them counts."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from threading import Barrier

import psycopg
import pytest

from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.errors import ArtifactCorrupt
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.trial_errors import TrialConflict
from pipeline_assets.model_lifecycle.registry import ledger, trials
from pipeline_assets.model_lifecycle.registry.ledger import Decision, Entry, Trial
from pipeline_assets_tests.model_rows import small_model

MODEL = small_model("tried_delay")
MAY = datetime(2013, 5, 1, tzinfo=UTC)
PROCESSES, ROUNDS = 6, 6


def _decision(version: int) -> Decision:
    return Decision(version=version, actor="a test", reason="because", live_from=MAY)


def _promote(settings: Settings, version: int, expected: int | None = None) -> Entry:
    return ledger.promote(settings, MODEL, _decision(version), expected_version=expected)


def _canary(settings: Settings, version: int, share: float, expected: Trial | None = None) -> Trial:
    with warehouse(settings) as connection:
        trials.start(connection, MODEL, _decision(version), role="canary", share=share, expected=expected)
    return _now(settings)


def _now(settings: Settings) -> Trial:
    found = ledger.trial(ledger.history(settings, MODEL))
    assert found is not None
    return found


def test_a_trial_goes_from_shadow_through_its_steps_to_live(isolated: Settings) -> None:
    """Each decision is an entry; what is live changes with the last alone, and then nothing is tried."""
    _promote(isolated, 1)
    with warehouse(isolated) as connection:
        trials.start(connection, MODEL, _decision(2), role="shadow", share=None, expected=None)
    first = _canary(isolated, 2, 0.01, _now(isolated))
    second = _canary(isolated, 2, 0.25, first)
    live = ledger.live_version(isolated, MODEL)
    with warehouse(isolated) as connection:
        read = ledger.live_versions(connection)[MODEL.name]
        trials.finish(connection, MODEL, _decision(2), expected=second)
    entries = ledger.history(isolated, MODEL)

    assert (first.began, second.began, second.sequence, second.champion) == (3, 3, 4, 1)
    assert (live, read.version, read.trial) == (1, 1, second)
    assert [(entry.action, entry.share) for entry in entries] == [
        ("promote", None), ("shadow", None), ("canary", 0.01), ("canary", 0.25), ("promote", None),
    ]  # fmt: skip
    assert (ledger.live(entries), ledger.trial(entries), ledger.ancestry(entries)) == (2, None, (1, 2))


def test_a_trial_ends_where_another_version_goes_live(isolated: Settings) -> None:
    """A step of it that comes too late is refused, with what is so now."""
    _promote(isolated, 1)
    seen = _canary(isolated, 2, 0.01)
    _promote(isolated, 3, expected=1)

    with pytest.raises(TrialConflict, match="version 2 answers 1 % of entities, but no version is tried"):
        _canary(isolated, 2, 0.05, seen)
    with warehouse(isolated) as connection, pytest.raises(TrialConflict):
        trials.finish(connection, MODEL, _decision(2), expected=seen)
    assert ledger.live_version(isolated, MODEL) == 3


def test_of_many_who_decide_at_once_exactly_one_writes(isolated: Settings) -> None:
    """Steps, returns and promotions of the same trial by six processes, again and again: one entry each round, no gap, no fork."""
    _promote(isolated, 1)
    barrier, live = Barrier(PROCESSES), 1
    ways: list[Callable[[psycopg.Connection, Trial], Entry]] = [
        lambda connection, seen: trials.end(connection, MODEL, _decision(seen.version), expected=seen),
        lambda connection, seen: trials.finish(connection, MODEL, _decision(seen.version), expected=seen),
        lambda connection, seen: trials.start(connection, MODEL, _decision(seen.version), role="canary", share=0.5, expected=seen),
    ]

    def decide(way: int, seen: Trial) -> Entry | TrialConflict:
        with warehouse(isolated) as connection:
            barrier.wait()
            try:
                return ways[way % len(ways)](connection, seen)
            except TrialConflict as conflict:
                return conflict

    with ThreadPoolExecutor(PROCESSES) as pool:
        for version in range(2, 2 + ROUNDS):
            before = ledger.trial(ledger.history(isolated, MODEL))
            if before is not None:
                with warehouse(isolated) as connection:
                    trials.end(connection, MODEL, _decision(before.version), expected=before)
            seen = _canary(isolated, version, 0.1)
            answers = list(pool.map(decide, range(PROCESSES), [seen] * PROCESSES))
            won = [answer for answer in answers if isinstance(answer, Entry)]
            assert [entry.sequence for entry in won] == [seen.sequence + 1]
            live = version if won[0].action == "promote" else live

    entries = ledger.history(isolated, MODEL)
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    assert ledger.live(entries) == live


def test_a_ledger_from_before_versions_were_tried_is_read_and_taken_on(isolated: Settings) -> None:
    """Without the columns of shares and contracts it says what is live; the first decision adds them, and keeps the entries."""
    first = _promote(isolated, 1)
    with warehouse(isolated) as connection:
        connection.execute("alter table ledger.promotions drop column share, drop column contract_sha256")
        connection.execute(
            "alter table ledger.promotions add constraint promotions_action_check check (action in ('promote', 'rollback', 'reject'))"
        )
    with warehouse(isolated) as connection:
        read = ledger.live_versions(connection)[MODEL.name]
    before = ledger.history(isolated, MODEL)

    assert before == (first,)
    assert (read.version, read.trial) == (1, None)
    assert _canary(isolated, 2, 0.05).share == 0.05
    assert ledger.history(isolated, MODEL)[0] == first


def test_the_contract_of_a_version_is_noted_once_and_stays(isolated: Settings) -> None:
    """Later entries have the digest of the first, steps of its trial too; one with another digest is refused and not written."""
    first, other = replace(_decision(2), contract_sha256="a" * 64), replace(_decision(2), contract_sha256="b" * 64)
    _promote(isolated, 1)
    ledger.reject(isolated, MODEL, first)
    tried = _canary(isolated, 2, 0.05)
    with pytest.raises(ArtifactCorrupt, match="contract of tried_delay version 2"):
        ledger.promote(isolated, MODEL, other, expected_version=1)
    _promote(isolated, 2, 1)
    with warehouse(isolated) as connection:
        read = ledger.live_versions(connection)[MODEL.name]

    assert tried.contract_sha256 == read.contract_sha256 == "a" * 64
    assert [entry.contract_sha256 for entry in ledger.history(isolated, MODEL)] == [None, "a" * 64, "a" * 64, "a" * 64]


@pytest.mark.parametrize(("action", "share"), [("canary", None), ("canary", 0.0), ("canary", 1.0), ("shadow", 0.1), ("taste", None)])
def test_the_database_takes_no_other_decision(isolated: Settings, action: str, share: float | None) -> None:
    """A canary has a share between 0 and 1, and nothing else has one."""
    _promote(isolated, 1)
    query = (
        "insert into ledger.promotions (model, sequence, version, action, actor, reason, rules, live_from, share)"
        " values (%s, 2, 2, %s, 'a test', '', '[]', now(), %s)"
    )
    with warehouse(isolated) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(query, (MODEL.name, action, share))
