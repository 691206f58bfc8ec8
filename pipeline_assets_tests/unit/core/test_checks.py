"""When a check of a source fails: where somebody has to do something, and not for what its contract lets pass."""

from dataclasses import replace
from datetime import date, timedelta

import dagster as dg
import pytest

from pipeline_assets.core.errors import ContractViolation
from pipeline_assets.core.project import longest_stretch
from pipeline_assets.core.resources import complete, contract_check, contract_refused
from pipeline_assets_tests.lake_rows import trips

TRIPS = replace(trips("trips"), broken_share=0.05, freshness=timedelta(days=3))
ASSET = dg.AssetKey(["staged", "trips"])
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def test_a_contract_within_its_limit_passes_with_a_sentence() -> None:
    """Two of 979 rows: nobody has to act, and the check says how many there are, of how many, how many may be, and where they are."""
    check = contract_check(ASSET, TRIPS, 977, {"level out of range": 2})

    assert check.passed
    assert check.description == "2 of 979 rows in quarantine, limit 5 %; see `pipeline quarantine list --source trips`."


@pytest.mark.parametrize(("good", "broken", "passed"), [(95, 5, True), (94, 6, False), (0, 3, False), (0, 0, True), (10, 0, True)])
def test_a_contract_fails_from_above_its_limit_on(good: int, broken: int, passed: bool) -> None:  # noqa: FBT001 - a parameter
    """The limit itself may be; few records of a stream of which all are broken are a warning before there are enough to stop it."""
    check = contract_check(ASSET, TRIPS, good, {"no JSON": broken} if broken else {})

    assert (check.passed, check.severity) == (passed, WARN)


def test_a_refused_partition_is_an_error() -> None:
    """Nothing was written: the sentence says what to do."""
    error = ContractViolation(contract="trips", partition="2013-05-01", broken=6, rows=100, share=0.05, reasons={"no JSON": 6})
    check = contract_refused(ASSET, error)

    assert (check.passed, check.severity) == (False, ERROR)
    assert check.description == str(error)


@pytest.mark.parametrize(
    ("empty", "passed"),
    [
        ([], True),
        (["2013-05-01"], True),
        (["2013-05-01", "2013-05-02", "2013-05-04", "2013-05-05"], True),
        (["2013-05-01", "2013-05-02", "2013-05-03"], False),
        (["snapshot"], False),
    ],
)
def test_a_pause_that_is_promised_is_no_gap(empty: list[str], passed: bool) -> None:  # noqa: FBT001 - a parameter
    """A league has days without matches: days without rows fail once they are as long as the newest row may be old."""
    check = complete(TRIPS, empty)

    assert (check.passed, check.severity) == (passed, WARN)
    assert check.metadata["partitions_without_rows"].value == empty


def test_a_source_that_promises_hours_has_rows_each_day() -> None:
    """One day without weather is longer than six hours."""
    check = complete(replace(TRIPS, freshness=timedelta(hours=6)), ["2013-05-01"])

    assert not check.passed
    assert check.description == "1 days without rows, at most 1 in a row; the newest row may be 6:00:00 old."


def test_the_longest_stretch_of_days() -> None:
    """Days that follow each other, over a month's end; none of none."""
    first = date(2013, 4, 29)
    days = [first + timedelta(days=offset) for offset in (0, 1, 3, 4, 5, 6, 9)]

    assert (longest_stretch(days), longest_stretch([]), longest_stretch([first])) == (4, 0, 1)
