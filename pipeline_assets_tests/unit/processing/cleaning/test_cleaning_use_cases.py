"""Cleaning of several use cases: what each builds, what they share, and what only the chosen ones need."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import DbtProjectMalformed, SpecError
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import PREFIX
from pipeline_assets.processing.cleaning import assets
from pipeline_assets.processing.cleaning.manifest import ensure_manifest
from pipeline_assets.processing.cleaning.models import ProjectModels
from pipeline_assets.processing.lake import assets as lake
from pipeline_assets_tests.cleaning_runs import assets_of_room
from pipeline_assets_tests.library import LOANS, dbt_project, library, loans, readers, returns

# A third use case that nobody chooses, with a source and a folder of its own.
VISITS = replace(loans, contract=replace(LOANS, name="visits"), topic="visits")
UNCHOSEN = replace(readers, name="unchosen", streams=(VISITS,))
PLATFORM = dg.Definitions(resources={"platform": Platform()})
MODEL = "models:\n  - name: stg_visits\n    columns:\n      - {name: loan_id, data_type: text}\n"
SQL = "select loan_id from {{ source('raw', 'visits') }}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The dbt project of three use cases, which the settings name."""
    everything = Project(use_cases=(library, readers, UNCHOSEN))
    staging = "models/unchosen/staging/stg_visits"
    made = dbt_project(tmp_path_factory.mktemp("three") / "dbt", everything, **{f"{staging}.sql": SQL, f"{staging}.yml": MODEL})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{PREFIX}DBT_PROJECT", str(made))
        yield made


@pytest.fixture
def both(folder: Path) -> dict[str, dg.AssetsDefinition]:
    """What library and readers are made of, by the name of the op."""
    assert folder.exists()
    return {asset.op.name: asset for asset in assets_of_room(assets.defs(Project(use_cases=(library, readers))))}


def test_each_use_case_has_its_own_ops(both: dict[str, dg.AssetsDefinition]) -> None:
    """One op for what is built by the day, one for registers where there are any; each asset belongs to the use case of its folder."""
    ops = {name: {"/".join(one.path) for one in asset.keys} for name, asset in both.items() if not name.startswith("raw__")}
    tagged = {spec.key: spec.tags for asset in both.values() for spec in asset.specs}

    assert ops == {
        "cleaned_by_day_library": {
            "staging/stg_loans", "staging/stg_returns", "staging/stg_payments",
            "cleaned/loans", "cleaned/loan_outcomes", "cleaned/loan_payments",
        },
        "registers_library": {"staging/stg_members", "cleaned/members_history", "cleaned/members"},
        "cleaned_by_day_readers": {"cleaned/damages"},
    }  # fmt: skip
    assert tagged[key(names.cleaned("damages"))][names.USE_CASE_TAG] == "readers"
    assert tagged[key(names.raw("loans"))][names.USE_CASE_TAG] == "library"
    assert {one.path[1] for one, tags in tagged.items() if names.BY_DAY_TAG not in tags} == {
        "members", "stg_members", "members_history",
    }  # fmt: skip


def test_a_table_of_another_use_case_is_a_dependency(both: dict[str, dg.AssetsDefinition]) -> None:
    """A model that reads another folder's table depends on that asset, has its days, and is owned by its own use case."""
    (damages,) = both["cleaned_by_day_readers"].specs

    assert [dep.asset_key for dep in damages.deps] == [key(names.cleaned("loan_outcomes"))]
    assert damages.partitions_def == both["cleaned_by_day_library"].partitions_def
    assert list(damages.owners) == [readers.owner]


def test_what_follows_a_followed_table_without_days_is_found_by_its_tags(folder: Path) -> None:
    """Regression: the job of followed tables took a fixed depth of four, and so tables built by the day, which have no day there."""
    assert folder.exists()
    project = Project(use_cases=(library, readers))
    graph = dg.Definitions.merge(lake.defs(project), assets.defs(project), PLATFORM).resolve_asset_graph()
    below = dg.AssetSelection.assets(key(names.lake("members"))).downstream() & dg.AssetSelection.groups(names.LAKE, names.CLEANING)

    whole = (below - dg.AssetSelection.tag(names.BY_DAY_TAG, "")).resolve(graph)

    assert {found.to_user_string() for found in whole} == {
        "lake/members", "raw/members", "staging/stg_members", "cleaned/members_history", "cleaned/members",
    }  # fmt: skip
    assert key(names.cleaned("loans")) in below.resolve(graph)


def test_a_use_case_chosen_alone_builds_what_it_reads_of_others(folder: Path) -> None:
    """Of a folder that is not chosen only the tables that a chosen model reads, and what is below them, are assets."""
    assert folder.exists()
    found = {spec.key.to_user_string() for one in assets_of_room(assets.defs(Project(use_cases=(readers,)))) for spec in one.specs}

    assert found == {
        "raw/loans", "raw/returns", "staging/stg_loans", "staging/stg_returns", "cleaned/loan_outcomes", "cleaned/damages",
    }  # fmt: skip


def test_a_model_that_reads_what_its_use_case_does_not_declare_is_refused(folder: Path) -> None:
    """A raw table that no chosen use case lists is an error at load that names model, file and table."""
    assert folder.exists()

    with pytest.raises(SpecError, match=r"'stg_returns' of dbt .*'readers'.*raw\.returns.*library/staging/stg_returns\.sql"):
        assets.defs(Project(use_cases=(replace(readers, streams=(loans,)),)))


def test_a_model_that_reads_a_table_of_other_days_is_refused(folder: Path) -> None:
    """Two use cases that share nothing have days of their own, and so a daily table of one cannot read one of the other."""
    assert folder.exists()

    with pytest.raises(SpecError, match=r"'damages' of dbt .*'readers'.* reads loan_outcomes of use case 'library', which has other days"):
        assets.defs(Project(use_cases=(library, replace(readers, streams=()))))


def test_sources_in_several_files_are_one_source(folder: Path) -> None:
    """A shared contract is in its home's file alone, each file defines tables of `raw`, and days are marked by their event time."""
    tables = {table["name"]: table for table in json.loads(ensure_manifest(folder).read_text())["sources"].values()}

    assert {name: table["fqn"][1] for name, table in tables.items()} == {
        "members": "library", "loans": "library", "returns": "library", "payments": "library", "visits": "unchosen",
    }  # fmt: skip
    assert {table["source_name"] for table in tables.values()} == {names.RAW}
    assert {name: table["config"]["event_time"] for name, table in tables.items() if name in {"members", returns.contract.name}} == {
        "members": None, "returns": "returned_at",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "config", "message"),
    [
        ("marts/loans_by_level", "", r"'loans_by_level' lies in models/library/marts/loans_by_level\.sql.*Move it"),
        ("cleaned/deep/loans_by_level", "", r"lies in models/library/cleaned/deep/loans_by_level\.sql"),
        ("cleaned/loans_by_level", "{{ config(schema='mart') }}", r"sets schema 'mart'.*Remove the setting"),
    ],
    ids=["other folder", "folder below", "own schema"],
)
def test_a_model_outside_of_staging_and_cleaned_is_refused(tmp_path: Path, path: str, config: str, message: str) -> None:
    """The schema is the folder: any other folder, and any other schema, is an error that says what to do."""
    text = f"{config}\nselect level, count(*) as loans from {{{{ ref('loans') }}}} group by level\n"
    columns = "{name: level, data_type: text}, {name: loans, data_type: bigint}"
    model = f"models: [{{name: loans_by_level, columns: [{columns}]}}]\n"
    files = {f"models/library/{path}.sql": text, f"models/library/{path}.yml": model}

    with pytest.raises(DbtProjectMalformed, match=f"(?s){message}"):
        ensure_manifest(dbt_project(tmp_path / "dbt", Project(use_cases=(library, readers)), **files))


@pytest.mark.parametrize(
    ("materialized", "strategy", "is_noted"),
    [
        ("incremental", "replace_days", True), ("table", "replace_days", True),
        ("view", "replace_days", False), ("incremental", "merge", False), ("materialized_view", None, False),
    ],
)  # fmt: skip
def test_changes_of_days_are_noted_by_tables_with_the_strategy_for_it(materialized: str, strategy: str | None, *, is_noted: bool) -> None:
    """What dbt makes otherwise is compared as a whole; a table that no feature reads is not published."""
    config = {"materialized": materialized, "incremental_strategy": strategy, "unique_key": ["a", "b"], "event_time": "event_at"}
    read, other = ({"schema": names.CLEANED, "name": name, "config": config} for name in ("departures_history", "airports"))
    models = ProjectModels(
        project=load_project(), manifest={"nodes": {"model.read": read, "model.other": other}, "sources": {}, "parent_map": {}}
    )
    built = models.built("model.read")
    assert built is not None

    assert (built.name, built.event_at, built.keys, built.is_noted) == ("departures_history", "event_at", ("a", "b"), is_noted)
    assert built.columns["delay_minutes"] == "integer"
    assert models.built("model.other") is None
