"""Daily tables of several sources on a real warehouse: of two streams, of a stream and a followed table, of another use case's table."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import dagster as dg
import pytest
from dagster_dbt.errors import DagsterDbtCliRuntimeError

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.processing.cleaning import assets
from pipeline_assets_tests.cleaning_runs import assets_of_room, metadata_of
from pipeline_assets_tests.flight_rows import put_raw
from pipeline_assets_tests.library import (
    LOANS,
    MEMBERS,
    PAYMENTS,
    RETURNS,
    Row,
    at,
    cleaned_rows,
    day,
    dbt_project,
    library,
    loan,
    member,
    payment,
    put_days,
    readers,
    returned,
)

PROJECT = Project(use_cases=(library, readers))
DAYS = 6
REGISTERS = ((names.STAGING, names.stg("members")), names.cleaned("members_history"), names.cleaned("members"))
LOANS_STAGED, RETURNS_STAGED, PAYMENTS_STAGED = ((names.STAGING, names.stg(contract)) for contract in ("loans", "returns", "payments"))
OUTCOMES = (LOANS_STAGED, RETURNS_STAGED, names.cleaned("loan_outcomes"))
OF_TWO_STREAMS = (*OUTCOMES, PAYMENTS_STAGED, names.cleaned("loan_payments"))
Days = dict[int, list[Row]]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    """The definitions of cleaning for both use cases, with a dbt project of their own."""
    folder = dbt_project(tmp_path_factory.mktemp("library") / "dbt", PROJECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{PREFIX}DBT_PROJECT", str(folder))
        return assets.defs(PROJECT)


def run(
    room: dg.Definitions, platform: Platform, chosen: Iterable[names.AssetName], days: tuple[int, int] | None, *, full_refresh: bool = False
) -> dg.ExecuteInProcessResult:
    """Some models materialized, for days from so many to so many after the first."""
    result = dg.materialize(
        assets_of_room(room),
        selection=dg.AssetSelection.assets(*(key(name) for name in chosen)),
        resources={"platform": platform, **(room.resources or {})},
        tags=names.range_tags(day(days[0]), day(days[1])) if days is not None else None,
        run_config={"ops": {names.cleaned_by_day(library.name): {"config": {"full_refresh": True}}}} if full_refresh else None,
    )
    assert result.success
    return result


def built(settings: Settings) -> tuple[list[Row], list[Row]]:
    """The rows of the two tables that are made of two streams."""
    return cleaned_rows(settings, "loan_outcomes"), cleaned_rows(settings, "loan_payments")


def newest(rows: Days, *key_columns: str) -> list[Row]:
    """Of each key the row known last, by key."""
    found: dict[tuple[object, ...], Row] = {}
    for row in sorted((row for day_rows in rows.values() for row in day_rows), key=lambda row: row["recorded_at"]):
        found[tuple(row[column] for column in key_columns)] = row
    return [found[each] for each in sorted(found)]


def expected_outcomes(loans: Days, returns: Days) -> list[Row]:
    """One row per loan, with its return where there is one."""
    back = {(row["library_id"], row["loan_no"]): row for row in newest(returns, "library_id", "loan_no")}
    found = []
    for row in newest(loans, "library_id", "loan_no"):
        its = back.get((row["library_id"], row["loan_no"]))
        found.append({
            "library_id": row["library_id"], "loan_no": row["loan_no"], "is_damaged": its is not None and its["is_damaged"],
            "loaned_at": row["loaned_at"], "returned_at": its and its["returned_at"],
            "known_at": max(row["recorded_at"], its["recorded_at"]) if its else row["recorded_at"],
        })  # fmt: skip
    return found


def expected_payments(loans: Days, payments: Days) -> list[Row]:
    """One row per loan, with what was paid for it."""
    found = []
    for row in newest(loans, "loan_id"):
        its = [paid for paid in newest(payments, "payment_id") if paid["loan"] == row["loan_id"]]
        found.append({
            "loan_id": row["loan_id"], "payments": len(its), "amount": sum(paid["amount"] for paid in its),
            "loaned_at": row["loaned_at"], "last_paid_at": max((paid["paid_at"] for paid in its), default=None),
        })  # fmt: skip
    return found


def put(settings: Settings, loans: Days, returns: Days, payments: Days) -> None:
    """Puts the raw rows of all days in the place of what was there."""
    for contract, rows in ((LOANS, loans), (RETURNS, returns), (PAYMENTS, payments)):
        put_days(settings, contract, rows)


def put_members(settings: Settings, rows: Iterable[Row]) -> None:
    """Puts the versions of members that have arrived in the place of what was there."""
    put_raw(settings, versioned(MEMBERS), day(0), day(DAYS), rows)


def versions_of_member(random: Random, number: int) -> list[Row]:
    """Six versions of a member, at quarters of the days; after some of them it was gone for a while."""
    times = sorted(random.sample(range(DAYS * 4), 6))
    ends = [(time + after) / 8 if random.random() < 0.3 else None for time, after in zip(times, [*times[1:], times[-1] + 1], strict=True)]
    return [member(number, random.choice(["child", "adult", "staff"]), time / 4, end) for time, end in zip(times, ends, strict=True)]


def arrived(members: Iterable[Row], before: datetime) -> list[Row]:
    """What was there of the versions before a time: not those that came later, and no deletion that did."""
    there = (row for row in members if row["updated_at"] < before)
    return [row | {"_deleted_at": None} if row["_deleted_at"] is not None and row["_deleted_at"] >= before else row for row in there]


def levels_at(members: Iterable[Row], at: datetime) -> dict[int, str]:
    """The level of each member as it was known at a time: that of its newest version, and of none after its deletion."""
    known = [row for row in sorted(members, key=lambda row: row["updated_at"]) if row["updated_at"] <= at]
    newest = {row["member_id"]: row for row in known}
    return {number: row["level"] for number, row in newest.items() if row["_deleted_at"] is None or row["_deleted_at"] > at}


def expected_levels(loans: Days, members: Iterable[Row]) -> dict[str, str | None]:
    """By loan, the level of its member as it was known when the loan was; null where the member was not."""
    rows, of_members = newest(loans, "loan_id"), list(members)
    return {row["loan_id"]: levels_at(of_members, row["recorded_at"]).get(row["member_id"] or 0) for row in rows}


def levels(settings: Settings) -> dict[str, str | None]:
    """By loan, the level that its row has."""
    return {row["loan_id"]: row["level"] for row in cleaned_rows(settings, "loans")}


def corrected_days() -> tuple[Days, Days, Days]:
    """Loans, returns and payments on days of their own, some published again with corrections on an earlier or later day."""
    random = Random(10)  # noqa: S311 - rows for a test, not secrets
    loans: Days = {on: [] for on in range(DAYS)}
    returns: Days = {on: [] for on in range(DAYS)}
    payments: Days = {on: [] for on in range(DAYS)}
    for number in range(60):
        began = random.randrange(DAYS)
        loans[began].append(loan(number, began))
        if number % 3:
            back = random.randrange(began, DAYS)
            returns[back].append(returned(number, back))
        for _ in range(number % 4):
            paid = random.randrange(began, DAYS)
            payments[paid].append(payment(sum(map(len, payments.values())), number, paid))
    loans[4].append(loan(5, 4, recorded_at=at(5, 1)))
    returns[1].append(returned(1, 1, is_damaged=True, recorded_at=at(5, 3)))
    returns[5].append(returned(2, 5, is_damaged=False, recorded_at=at(5, 3)))
    return loans, returns, payments


def test_a_table_of_two_streams_is_the_same_in_any_order_of_days(isolated: Settings, platform: Platform, room: dg.Definitions) -> None:
    """A return on a later day rebuilds the row of its loan; corrected, moved and withdrawn rows of both streams count, as built at once."""
    loans, returns, payments = corrected_days()
    put(isolated, loans, returns, payments)
    for days in ((4, 5), (0, 1), (2, 3)):
        run(room, platform, OF_TWO_STREAMS, days)
    assert built(isolated) == (expected_outcomes(loans, returns), expected_payments(loans, payments))

    # Withdrawn: the later return of a loan that has an earlier one, the only ones of others, and payments that were the last.
    returns[5], payments[5], loans[4] = [returned(50, 5, is_damaged=True)], [], loans[4][:-1]
    put(isolated, loans, returns, payments)
    run(room, platform, OF_TWO_STREAMS, (4, 5))
    by_days = built(isolated)
    run(room, platform, OF_TWO_STREAMS, (0, 0), full_refresh=True)

    assert by_days == (expected_outcomes(loans, returns), expected_payments(loans, payments))
    assert built(isolated) == by_days


def test_a_table_of_another_use_case_is_read_by_the_day(isolated: Settings, platform: Platform, room: dg.Definitions) -> None:
    """What changed below the other use case's table on a day changes the row of an earlier day here, as it does there."""
    put_days(isolated, LOANS, {0: [loan(1, 0), loan(2, 0)]})
    put_days(isolated, RETURNS, {0: []})
    chosen = (*OUTCOMES, names.cleaned("damages"))
    run(room, platform, chosen, (0, 0))
    before = {(row["library_id"], row["loan_no"]): row["is_damaged"] for row in cleaned_rows(isolated, "damages")}
    put_days(isolated, RETURNS, {2: [returned(1, 2, is_damaged=True), returned(2, 2, is_damaged=False)]})
    result = run(room, platform, chosen, (2, 2))
    lineage = metadata_of(result, names.cleaned("damages"))["dagster/column_lineage"].deps_by_column

    assert before == {(1, 0): False, (2, 0): False}
    assert {(row["library_id"], row["loan_no"]): row["is_damaged"] for row in cleaned_rows(isolated, "damages")} == {
        (1, 0): True, (2, 0): False,
    }  # fmt: skip
    assert {dep.asset_key for dep in lineage["returned_at"]} == {key(names.cleaned("loan_outcomes"))}


def test_a_followed_table_is_joined_as_it_was_known(isolated: Settings, platform: Platform, room: dg.Definitions) -> None:
    """A row has the level of its time, whatever came later, also once it is built again; columns have the types of their contract."""
    put_days(isolated, LOANS, {0: [loan(4, 0, member_id=1)], 1: [loan(5, 1), loan(8, 1, member_id=None), loan(11, 1, member_id=2)]})
    child, adult, later = member(1, "child"), member(1, "adult", on=1), member(2, "adult", on=2)
    chosen = (LOANS_STAGED, names.cleaned("loans"))
    put_members(isolated, [child])
    result = run(room, platform, (*REGISTERS, *chosen), (0, 0))
    put_members(isolated, [child, adult, later])
    run(room, platform, REGISTERS, None)
    run(room, platform, chosen, (0, 1))
    rows = cleaned_rows(isolated, "loans")
    lineage = metadata_of(result, names.cleaned("loans"))["dagster/column_lineage"].deps_by_column

    assert sorted((row["loan_id"], row["level"], row["is_member"]) for row in rows) == [
        ("L11", None, False), ("L4", "child", True), ("L5", "adult", True), ("L8", None, False),
    ]  # fmt: skip
    assert rows[0] == {
        "library_id": 1, "loan_no": 1, "loan_id": "L4", "level": "child", "fee": "1.25", "is_member": True,
        "due_on": (at(0) + timedelta(days=14)).date(), "loaned_at": at(0, 28), "known_at": at(0, 29),
    }  # fmt: skip
    assert {dep.asset_key for dep in lineage["fee"]} == {key(LOANS_STAGED)}
    assert {dep.asset_key for dep in lineage["level"]} == {key(names.cleaned("members_history"))}


def test_days_joined_to_a_register_that_goes_on_changing_are_what_a_full_refresh_makes(
    isolated: Settings, platform: Platform, room: dg.Definitions
) -> None:
    """Members join, change and leave while days are built, each range with what had arrived by its end; then all days, with everything."""
    random = Random(6)  # noqa: S311 - rows for a test, not secrets
    loans = {on: [loan(number, on, member_id=random.randrange(1, 5)) for number in range(on, 90, DAYS)] for on in range(DAYS)}
    members = [row for number in range(1, 4) for row in versions_of_member(random, number)]
    put_days(isolated, LOANS, loans)
    chosen = (*REGISTERS, LOANS_STAGED, names.cleaned("loans"))
    for first, last in ((0, 1), (2, 3), (4, 5)):
        put_members(isolated, arrived(members, at(last + 1)))
        run(room, platform, chosen, (first, last))
    by_days = levels(isolated)
    run(room, platform, chosen, (0, 0), full_refresh=True)

    assert by_days == levels(isolated) == expected_levels(loans, members)
    assert len(by_days) == 90
    assert {None, "child", "adult", "staff"} == set(by_days.values())


def test_a_version_that_arrives_late_counts_once_its_days_are_built_again(
    isolated: Settings, platform: Platform, room: dg.Definitions
) -> None:
    """A change that was known before a loan, and reached the warehouse after its day was built, does not build it again by itself."""
    chosen = (LOANS_STAGED, names.cleaned("loans"))
    put_days(isolated, LOANS, {0: [loan(4, 0, member_id=1)], 1: [loan(5, 1, member_id=1)]})
    put_members(isolated, [])
    run(room, platform, (*REGISTERS, *chosen), (0, 1))
    put_members(isolated, [member(1, "child")])
    run(room, platform, REGISTERS, None)
    run(room, platform, chosen, (1, 1))
    one_day = levels(isolated)
    run(room, platform, chosen, (0, 0))

    assert one_day == {"L4": None, "L5": "child"}
    assert levels(isolated) == {"L4": "child", "L5": "child"}


def test_a_key_that_no_raw_table_has_is_an_error_that_says_what_to_do(isolated: Settings, platform: Platform, tmp_path: Path) -> None:
    """Without the key's columns in a daily raw table the keys of a day cannot be found: the run fails and names model and columns."""
    sql = """{{ config(materialized='incremental', unique_key='loan_id', event_time='paid_at') }}
    with paid as ({{ rows_of_asked_days(ref('stg_payments')) }})
    select loan as loan_id, paid_at from paid"""
    yml = "models: [{name: fees, columns: [{name: loan_id, data_type: text}, {name: paid_at, data_type: timestamptz}]}]"
    files = {"models/library/cleaned/fees.sql": sql, "models/library/cleaned/fees.yml": yml}
    put_days(isolated, PAYMENTS, {0: [payment(1, 1, 0)]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{PREFIX}DBT_PROJECT", str(dbt_project(tmp_path / "project", PROJECT, **files)))
        room = assets.defs(PROJECT)

    with pytest.raises(DagsterDbtCliRuntimeError, match=r"(?s)'fees' reads .*stg_payments.* has loan_id\. Keep the names of key columns"):
        run(room, platform, (PAYMENTS_STAGED, names.cleaned("fees")), (0, 0))
