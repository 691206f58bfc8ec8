"""The ledger of promotions in a real database: compare-and-swap, an unbroken chain, and nothing ever changed."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import psycopg
import pytest

from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.errors import PromotionConflict
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.model_lifecycle.registry.ledger import Decision, Entry
from pipeline_assets_tests.model_rows import small_model

MODEL = small_model("ledger_delay")
MAY = datetime(2013, 5, 1, tzinfo=UTC)
THREADS, ROUNDS = 6, 8


def _decision(version: int, live_from: datetime = MAY) -> Decision:
    return Decision(version=version, actor="a test", reason="because", live_from=live_from)


def _promote(settings: Settings, version: int, expected: int | None, live_from: datetime = MAY) -> Entry:
    return ledger.promote(settings, MODEL, _decision(version, live_from), expected_version=expected)


def test_a_ledger_that_does_not_exist_is_empty(isolated: Settings) -> None:
    """Nothing is live, and asking makes no table."""
    assert ledger.history(isolated, MODEL) == ()
    assert ledger.live_version(isolated, MODEL) is None
    with warehouse(isolated) as connection:
        assert connection.execute("select to_regclass('ledger.promotions')").fetchone() == (None,)


def test_an_entry_keeps_what_was_decided_and_why(isolated: Settings) -> None:
    """Version, the one before, actor, reason, rules, run and both times are read back as they were written."""
    rules = [{"name": "size in bytes", "value": 2.0, "limit": 1.0, "is_minimum": False, "passed": False}]
    rejected = ledger.reject(
        isolated, MODEL, Decision(version=1, actor="a test", reason="too large", live_from=MAY, rules=rules, run_id="run-1")
    )
    promoted = _promote(isolated, 2, None)

    assert ledger.history(isolated, MODEL) == (rejected, promoted)
    assert (rejected.action, rejected.previous_version, rejected.rules, rejected.run_id) == ("reject", None, tuple(rules), "run-1")
    assert (promoted.sequence, promoted.action, promoted.version, promoted.live_from) == (2, "promote", 2, MAY)
    assert ledger.live_version(isolated, MODEL) == 2


def test_a_promotion_that_expects_another_version_is_refused(isolated: Settings) -> None:
    """Who did not see the last promotion learns which version is live, and writes nothing."""
    _promote(isolated, 1, None)

    with pytest.raises(PromotionConflict) as conflict:
        _promote(isolated, 2, None)

    assert (conflict.value.expected, conflict.value.found) == (None, 1)
    assert len(ledger.history(isolated, MODEL)) == 1


def test_a_rejection_changes_nothing_that_is_live(isolated: Settings) -> None:
    """It stands in the history alone."""
    _promote(isolated, 1, None)
    ledger.reject(isolated, MODEL, _decision(2))

    assert ledger.live_version(isolated, MODEL) == 1
    assert _promote(isolated, 3, 1).previous_version == 1


def test_models_do_not_share_a_chain(isolated: Settings) -> None:
    """The sequence and the live version are those of one model."""
    other = small_model("other_delay")
    _promote(isolated, 5, None)

    assert ledger.promote(isolated, other, _decision(1), expected_version=None).sequence == 1
    assert (ledger.live_version(isolated, MODEL), ledger.live_version(isolated, other)) == (5, 1)


def test_the_version_of_an_event_time_is_that_of_the_last_decision_that_holds_then(isolated: Settings) -> None:
    """Before the first nothing is live; a roll back holds from its own event time on, and leaves the days before as they were."""
    june, july = MAY + timedelta(days=31), MAY + timedelta(days=61)
    _promote(isolated, 1, None, MAY)
    _promote(isolated, 2, 1, june)
    ledger.promote(isolated, MODEL, _decision(1, july), expected_version=2, action="rollback")

    moments = [MAY - timedelta(microseconds=1), MAY, june - timedelta(microseconds=1), june, july, july + timedelta(days=99)]
    assert [ledger.live_version_at(isolated, MODEL, at) for at in moments] == [None, 1, 1, 2, 1, 1]


@pytest.mark.parametrize(
    "statement", ["update ledger.promotions set version = 9", "delete from ledger.promotions", "truncate ledger.promotions"]
)
def test_no_entry_can_be_changed_or_deleted(isolated: Settings, statement: str) -> None:
    """The database itself refuses, whoever asks."""
    _promote(isolated, 1, None)

    with pytest.raises(psycopg.errors.RaiseException, match="append-only"), warehouse(isolated) as connection:
        connection.execute(statement)

    assert ledger.live_version(isolated, MODEL) == 1


def test_of_many_who_promote_at_once_exactly_one_wins_each_round(isolated: Settings) -> None:
    """Also in the first round, where all of them find no table; the entries form a chain without gap or fork."""
    barrier = Barrier(THREADS)

    def attempt(version: int, expected: int | None) -> Entry | PromotionConflict:
        barrier.wait()
        try:
            return _promote(isolated, version, expected)
        except PromotionConflict as conflict:
            return conflict

    live: int | None = None
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(1, ROUNDS * THREADS, THREADS):
            answers = list(pool.map(attempt, range(start, start + THREADS), [live] * THREADS))
            winners = [answer for answer in answers if isinstance(answer, Entry)]
            assert len(winners) == 1
            assert {answer.found for answer in answers if isinstance(answer, PromotionConflict)} == {winners[0].version}
            live = winners[0].version

    entries = ledger.history(isolated, MODEL)
    assert [entry.sequence for entry in entries] == list(range(1, ROUNDS + 1))
    assert [entry.previous_version for entry in entries] == [None, *(entry.version for entry in entries[:-1])]
