"""Daily tables of several sources on a real warehouse: of two streams, of a stream and a followed table, of another use case's table."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from random import Random

import dagster as dg
import pytest
from dagster_dbt.errors import DagsterDbtCliRuntimeError

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import PREFIX, Settings
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
from pipeline_assets_tests.stack_env import write_stack_env

PROJECT = Project(use_cases=(library, readers))
DAYS = 6
REGISTERS = ((names.STAGING, names.stg("members")), names.cleaned("members"))
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


@pytest.fixture
def platform(isolated: Settings, tmp_path: Path) -> Platform:
    """The platform of this test's own stores."""
    write_stack_env(isolated, tmp_path)
    return Platform(home=str(tmp_path))


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


def put_members(settings: Settings, levels: Mapping[int, str]) -> None:
    """Puts the members as they stand now."""
    put_raw(settings, MEMBERS, day(0), day(0), [member(number, level) for number, level in levels.items()])


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


def test_a_followed_table_is_joined_into_a_daily_one(isolated: Settings, platform: Platform, room: dg.Definitions) -> None:
    """A register is updated without any day, and days built afterwards have its new rows; columns have the types of their contract."""
    put_days(isolated, LOANS, {0: [loan(4, 0, member_id=1)], 1: [loan(5, 1), loan(8, 1, member_id=None)]})
    put_members(isolated, {1: "child"})
    chosen = (LOANS_STAGED, names.cleaned("loans"))
    result = run(room, platform, (*REGISTERS, *chosen), (0, 0))
    put_members(isolated, {1: "adult"})
    run(room, platform, REGISTERS, None)
    run(room, platform, chosen, (1, 1))
    rows = cleaned_rows(isolated, "loans")
    lineage = metadata_of(result, names.cleaned("loans"))["dagster/column_lineage"].deps_by_column

    assert [(row["loan_id"], row["level"], row["is_member"]) for row in rows] == [
        ("L4", "child", True), ("L5", "adult", True), ("L8", None, False),
    ]  # fmt: skip
    assert rows[0] == {
        "library_id": 1, "loan_no": 1, "loan_id": "L4", "level": "child", "fee": "1.25", "is_member": True,
        "due_on": (at(0) + timedelta(days=14)).date(), "loaned_at": at(0, 28), "known_at": at(0, 29),
    }  # fmt: skip
    assert {dep.asset_key for dep in lineage["fee"]} == {key(LOANS_STAGED)}
    assert {dep.asset_key for dep in lineage["level"]} == {key(names.cleaned("members"))}


def test_a_key_that_no_raw_table_has_is_an_error_that_says_what_to_do(isolated: Settings, platform: Platform, tmp_path: Path) -> None:
    """Without the key's columns in a daily raw table the keys of a day cannot be found: the run fails and names model and columns."""
    sql = """{{ config(materialized='incremental', unique_key='loan_id', event_time='paid_at') }}
    with paid as ({{ rows_of_asked_days(ref('stg_payments')) }})
    select loan as loan_id, paid_at from paid"""
    yml = "models: [{name: fees, columns: [{name: loan_id, data_type: text}, {name: paid_at, data_type: timestamptz}]}]"
    files = {"models/library/cleaned/fees.sql": sql, "models/library/cleaned/fees.yml": yml}
    put_days(isolated, PAYMENTS, {0: [payment(1, 1, 0)]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{PREFIX}DBT_PROJECT", str(dbt_project(tmp_path / "dbt", PROJECT, **files)))
        room = assets.defs(PROJECT)

    with pytest.raises(DagsterDbtCliRuntimeError, match=r"(?s)'fees' reads .*stg_payments.* has loan_id\. Keep the names of key columns"):
        run(room, platform, (PAYMENTS_STAGED, names.cleaned("fees")), (0, 0))
