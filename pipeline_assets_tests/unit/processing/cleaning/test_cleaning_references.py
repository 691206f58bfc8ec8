"""Reference data: which tables have current values only, how they are marked, and which models may not read them."""

import re
from pathlib import Path

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import SpecError
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import key
from pipeline_assets.core.settings import PREFIX
from pipeline_assets.processing.cleaning import assets
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets_tests.cleaning_runs import assets_of_room, room
from pipeline_assets_tests.library import dbt_project, library
from pipeline_assets_tests.reference_models import VERSIONED, Node, node, references

PROJECT = Project(use_cases=(library,))

# A table that is built by the day, with all versions, and the view of its current rows.
SHOPS = (node("shops_history", "stg_orders", columns=VERSIONED, event_time="opened_at"), node("shops", "shops_history"))


def by_day(*reads: str, declared: object = None) -> Node:
    """Orders as they are built by the day, reading some models."""
    return node("orders", "stg_orders", *reads, event_time="ordered_at", declared=declared)


@pytest.mark.parametrize(
    ("model", "beside", "problem", "expected"),
    [
        (by_day("customers"), (), "reads customers, which has the rows as they are now", "customers_history, joined by the macro"),
        (node("orders_history", "customers", columns=VERSIONED), (), "reads customers, which", "customers_history, joined by the macro"),
        (by_day("shops"), SHOPS, "reads shops, which has the rows as they are now", "shops_history, joined by the macro"),
        (by_day("seen"), (*SHOPS, node("seen", "shops")), "reads shops, which has the rows as they are now", "shops_history, joined"),
        (by_day("countries"), (), "and does not say so", "a table countries_history of all versions, .*`current_value_only: true` in"),
        (by_day("listed"), (node("listed", "countries"),), "reads listed, which", "a table listed_history of all versions"),
        (by_day("said"), (node("said", declared="yes, it has"),), "reads said, which", "`current_value_only: true` in the meta of said"),
    ],
    ids=["by the day", "all versions", "a daily table", "through a view", "no history", "view of one", "not said so"],
)  # fmt: skip
def test_a_model_of_the_past_may_not_read_the_present(model: Node, beside: tuple[Node, ...], problem: str, expected: str) -> None:
    """Built by the day or with all versions, it joins a table of all versions, or one that says that it has the present alone."""
    ((found, instead),) = references(model, *beside).problems(model["name"])

    assert problem in found
    assert re.search(expected, instead)


@pytest.mark.parametrize(
    ("model", "beside"),
    [
        (by_day("customers_history"), ()),
        (by_day("customers", declared=True), ()),
        (by_day("codes"), (node("codes", declared=True),)),
        (by_day("stg_countries"), ()),
        (by_day("kept"), (node("kept", columns=VERSIONED),)),
        (by_day("shops"), (node("shops_history", "stg_orders"), node("shops", "stg_orders"))),
        (by_day("sales"), (node("sales", "stg_orders", event_time="sold_at"),)),
        (node("report", "customers", "orders"), (by_day("customers_history"),)),
        (node("customers_history", "stg_customers", columns=VERSIONED), ()),
        (node("stg_countries", "customers", schema=names.STAGING), ()),
    ],
    ids=[
        "history", "about the present", "declared", "staging", "versions", "another history", "daily table", "for analysts", "a history",
        "staging reads",
    ],
)  # fmt: skip
def test_what_is_of_one_time_is_not_refused(model: Node, beside: tuple[Node, ...]) -> None:
    """The present reads the present, the past reads what has versions; staging is taken for what its rows are."""
    assert list(references(model, *beside).problems(model["name"])) == []


def test_what_has_current_values_is_found_through_other_tables() -> None:
    """The nearest such table is named: a view beside a history, a register without; not those below it, and a table once."""
    sales = node("sales", "orders", "customers", "listed", event_time="sold_at")
    found = references(by_day("countries", "customers_history"), node("listed", "countries"), sales)

    assert found.current_inputs("orders") == ("cleaned.countries",)
    assert found.current_inputs("sales") == ("cleaned.countries", "cleaned.customers", "cleaned.listed")
    assert [(one.table[1], one.history) for one in found.current_only_below("sales")] == [
        ("countries", None), ("customers", "customers_history"), ("listed", None),
    ]  # fmt: skip
    assert [one.table[1] for one in found.current_only_below("countries")] == ["countries"]
    assert found.current_only_below("customers_history") == found.current_only_below("elsewhere") == ()


def test_only_a_register_without_history_is_marked_as_such() -> None:
    """A view beside a history is not, nor a daily table, nor staging, nor what has versions; a daily table that says so is."""
    found = references(by_day(), node("rates", "stg_orders", declared=True), node("kept", columns=VERSIONED))

    assert {name for name in found.models if found.is_without_history(name)} == {"countries", "rates"}
    assert {name for name in found.models if found.is_current_only(name)} == {"countries", "rates", "customers"}


def test_registers_without_history_of_the_use_cases_say_so() -> None:
    """What has no history is marked in its YAML file, where dbt's docs show it, and no other cleaned table is."""
    models = read_models(load_project())
    nodes = {name: models.manifest["nodes"][name] for name in models.references.models}

    assert {one["name"] for name, one in nodes.items() if models.references.is_without_history(name)} == {"airports", "airlines"}
    assert {one["name"] for one in nodes.values() if one["config"]["meta"].get(names.CURRENT_VALUE_ONLY) is True} == {
        "airports", "airlines",
    }  # fmt: skip


def test_a_register_without_history_is_marked_in_the_graph() -> None:
    """It has a tag, and its description says what that means; a table with a history has neither."""
    graph = {spec.key: spec for asset in assets_of_room(room()) for spec in asset.specs}
    airports, aircraft = graph[key(names.cleaned("airports"))], graph[key(names.cleaned("aircraft"))]

    assert airports.tags[names.CURRENT_VALUE_ONLY] == ""
    assert str(airports.description).startswith("Airports and where they are. One row per FAA code. Current value only: ")
    assert names.CURRENT_VALUE_ONLY not in {*aircraft.tags, *graph[key(names.cleaned("aircraft_history"))].tags}


LEVELS = """{{ config(materialized='table') }}
select level, count(*) as members from {{ ref('members') }} group by level"""
LEVELS_YML = """models:
  - name: levels
    description: Levels. One row per level.
    config: {meta: {current_value_only: true}}
    columns: [{name: level, data_type: varchar(20)}, {name: members, data_type: bigint}]"""
RATED = """{{ config(materialized='incremental', unique_key=['library_id', 'loan_no'], event_time='loaned_at') }}
with loans as ({{ rows_of_asked_days(ref('stg_loans')) }})
select loans.library_id, loans.loan_no, members.known_at, loans.loaned_at
from loans left join {{ ref('READ') }} as members on true"""
RATED_YML = """models:
  - name: rated
    columns:
      - {name: library_id, data_type: integer}
      - {name: loan_no, data_type: integer}
      - {name: known_at, data_type: timestamptz}
      - {name: loaned_at, data_type: timestamptz}"""


def library_with(folder: Path, read: str) -> dg.Definitions:
    """The definitions of cleaning of the library with two more tables: levels, the present alone, and loans that join `read`."""
    cleaned = "models/library/cleaned"
    added = {"levels.sql": LEVELS, "levels.yml": LEVELS_YML, "rated.sql": RATED.replace("READ", read), "rated.yml": RATED_YML}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            f"{PREFIX}DBT_PROJECT", str(dbt_project(folder, PROJECT, **{f"{cleaned}/{name}": text for name, text in added.items()}))
        )
        return assets.defs(PROJECT)


def test_a_daily_model_that_joins_the_current_rows_stops_the_load(tmp_path: Path) -> None:
    """The error names the model, what it reads, the table with all versions, the macro and the file."""
    with pytest.raises(SpecError, match=r"'rated' of dbt .*: reads members, which .*members_history.*`was_known_at`.*cleaned/rated\.sql"):
        library_with(tmp_path / "dbt", "members")


def test_what_reads_current_values_names_them_in_its_metadata(tmp_path: Path) -> None:
    """A daily table that joins a register which says that it has the present alone is built, and names it; others name nothing."""
    graph = {spec.key: spec for asset in assets_of_room(library_with(tmp_path / "dbt", "levels")) for spec in asset.specs}
    named = {
        found.path[1]: spec.metadata[names.CURRENT_VALUE_ONLY] for found, spec in graph.items() if names.CURRENT_VALUE_ONLY in spec.metadata
    }

    assert named == {"levels": "cleaned.members", "rated": "cleaned.levels"}
    assert {found.path[1] for found, spec in graph.items() if names.CURRENT_VALUE_ONLY in spec.tags} == {"levels"}
