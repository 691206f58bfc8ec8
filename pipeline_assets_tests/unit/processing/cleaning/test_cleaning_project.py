"""The dbt project as a reader and the graph see it: contracts, models, tests and style agree with each other."""

import json
import os
import re
import subprocess
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from pipeline_assets.core import names
from pipeline_assets.core.errors import DbtProjectMalformed
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import key
from pipeline_assets.core.versions import DELETED_AT
from pipeline_assets.processing.cleaning.dbt import NOWHERE, PROGRAM, PROGRAM_OF_RUNS, project_folder
from pipeline_assets.processing.cleaning.manifest import ensure_manifest, is_current
from pipeline_assets.processing.cleaning.raw_schema import SQL_TYPES
from pipeline_assets.processing.cleaning.sources_yml import render_sources, sources_path
from pipeline_assets.use_cases.nyc_flights import sources, use_case
from pipeline_assets_tests.cleaning_runs import FLIGHTS, assets_of_room, room

DBT = project_folder()
MODELS = DBT / "models" / use_case.name
SQL = sorted(DBT.glob("m*/**/*.sql"))
YML = sorted(MODELS.glob("*/*.yml"))


@pytest.fixture(scope="session")
def models() -> dict[dg.AssetKey, dict[str, Any]]:
    """The models of the use case as dbt knows them."""
    nodes = json.loads(ensure_manifest(DBT).read_text())["nodes"].values()
    own = [node for node in nodes if node["resource_type"] == "model" and node["fqn"][1] == use_case.name]
    return {dg.AssetKey([node["schema"], node["name"]]): node for node in own}


@pytest.fixture(scope="session")
def built() -> dict[str, dg.AssetsDefinition]:
    """The two runs of dbt, by the name of their op."""
    return {asset.op.name: asset for asset in assets_of_room(room()) if len(list(asset.keys)) > 1}


@pytest.fixture(scope="session")
def graph() -> dict[dg.AssetKey, dg.AssetSpec]:
    """The assets of cleaning."""
    return {spec.key: spec for asset in assets_of_room(room()) for spec in asset.specs}


def test_the_sources_are_those_of_the_contracts() -> None:
    """The committed file is what the contracts render to; its first lines say how to write it again."""
    assert sources_path(DBT, use_case).read_text(encoding="utf-8") == render_sources(FLIGHTS, use_case)


def test_a_source_says_when_it_is_stale() -> None:
    """Freshness counts from the time of the load, in the largest whole unit."""
    weather = replace(sources.weather, contract=replace(sources.weather.contract, freshness=timedelta(hours=36)))
    one = replace(use_case, sources=(weather,), streams=(), models=())
    (table,) = yaml.safe_load(render_sources(Project(use_cases=(one,)), one))["sources"][0]["tables"]

    assert table["config"]["loaded_at_field"] == "_loaded_at"
    assert table["config"]["freshness"]["warn_after"] == {"count": 36, "period": "hour"}


def test_every_contract_has_a_staging_model_with_its_fields(models: dict[dg.AssetKey, dict[str, Any]]) -> None:
    """A staging model renames the time at which a row was known and says how long: else names and types are those of the contract."""
    short = {"timestamp with time zone": "timestamptz"}
    of_versions = {"superseded_at": "timestamptz", "version": "bigint", "is_current": "boolean"}
    for contract, _ in FLIGHTS.lake_contracts:
        wanted = {
            "known_at" if field.name == contract.known_at else field.name: short.get(SQL_TYPES[field.type], SQL_TYPES[field.type])
            for field in contract.fields
            if field.name != DELETED_AT
        }
        columns = models[key((names.STAGING, names.stg(contract.name)))]["columns"].values()
        assert {column["name"]: column["data_type"] for column in columns} == wanted | of_versions


def test_models_loaded_by_the_day_are_built_by_the_day(
    models: dict[dg.AssetKey, dict[str, Any]], graph: dict[dg.AssetKey, dg.AssetSpec]
) -> None:
    """What depends on a daily source is daily and says by which column, registers are whole; a day needs the same day."""
    built = {
        name: model for name, model in models.items() if model["schema"] == names.CLEANED and model["config"]["materialized"] != "view"
    }
    tables = {name: model["config"]["event_time"] for name, model in built.items()}

    assert {name.path[1]: column for name, column in tables.items() if graph[name].partitions_def is not None} == {
        "flights_history": "scheduled_departure_at",
        "departures_history": "event_at",
        "arrivals_history": "event_at",
        "weather_observations_history": "observed_at",
    }
    assert {name.path[1] for name in tables if graph[name].partitions_def is None} == {"aircraft_history", "airports", "airlines"}
    for contract, by_day in FLIGHTS.lake_contracts:
        assert (graph[key(names.raw(contract.name))].partitions_def is not None) == by_day


@pytest.mark.parametrize("name", [names.cleaned_by_day(use_case.name), names.registers(use_case.name)])
def test_dbt_runs_every_check_that_is_shown_and_no_other(name: str, built: dict[str, dg.AssetsDefinition], tmp_path: Path) -> None:
    """What dbt selects for a whole run are the assets and checks of the op; a test between the two ops belongs to the later one."""
    chosen = ["--select", built[name].op.tags["dagster_dbt/select"], "--exclude", built[name].op.tags.get("dagster_dbt/exclude", "")]
    kinds = ["--resource-type", "model", "--resource-type", "test", "--output", "name"]
    command: list[str | Path] = [PROGRAM, "--quiet", "ls", *chosen, *kinds, "--target-path", tmp_path, "--log-path", tmp_path]
    listed = subprocess.run(command, cwd=DBT, env=os.environ | NOWHERE, capture_output=True, text=True, check=True).stdout.split()

    assert sorted(listed) == sorted([asset.path[-1] for asset in built[name].keys] + [check.name for check in built[name].check_specs])


def test_a_check_blocks_unless_its_test_only_warns(
    models: dict[dg.AssetKey, dict[str, Any]], built: dict[str, dg.AssetsDefinition]
) -> None:
    """Severity `error` stops the dependents of the model; what a check says is in the test's words, or else its kind and column."""
    checks = {check.name: check for asset in built.values() for check in asset.check_specs}

    assert len(models) == 19
    assert len(checks) == 74
    assert checks["unique_flights_flight_id"].blocking
    assert checks["unique_flights_flight_id"].description == "dbt: unique of flight_id."
    assert not checks["flights_carrier_in_airlines"].blocking


def test_every_asset_of_cleaning_is_described(graph: dict[dg.AssetKey, dg.AssetSpec]) -> None:
    """Owner, description, kind, and columns with descriptions, for 7 raw tables and 19 models."""
    assert len(graph) == 26
    for spec in graph.values():
        columns = spec.metadata["dagster/column_schema"].columns
        assert spec.group_name == names.CLEANING
        assert spec.owners
        assert spec.description
        assert "postgres" in spec.kinds
        assert [column.name for column in columns if not column.description] == []


@pytest.mark.parametrize("path", YML, ids=lambda path: path.stem)
def test_a_model_says_what_a_row_is_and_guards_its_key(path: Path) -> None:
    """One model, one file, one yml beside it: grain, unique and not null key, a rule of the business, and unit tests for cases."""
    (model,) = yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
    text = json.dumps(model)
    statement = path.with_suffix(".sql").read_text(encoding="utf-8")

    assert model["name"] == path.stem
    assert re.search(r"One row per [a-zA-Z ]+\.$", model["description"].strip())
    assert [column["name"] for column in model["columns"] if not column["data_type"] or not column["description"]] == []
    assert '"not_null"' in text
    assert '"unique"' in text or '"unique_together"' in text
    assert any(rule in text for rule in ('"accepted_range"', '"holds"', '"mostly_found"'))
    if "versions_of" in statement or "case when" in statement or ">=" in statement:
        assert f"model: {path.stem}" in path.read_text(encoding="utf-8").partition("unit_tests:")[2]


@pytest.mark.parametrize("path", SQL, ids=lambda path: path.stem)
def test_the_sql_is_written_in_one_style(path: Path) -> None:
    """Lower case, short lines, no tabs; models import first and end with `select * from`; only staging reads sources."""
    text = path.read_text(encoding="utf-8")
    longest = 80 if "models" in path.parts else 140

    assert [line for line in text.splitlines() if len(line) > longest or "\t" in line] == []
    assert re.findall(r"\b(SELECT|FROM|WHERE|WITH|AS|JOIN|CASE)\b", text) == []
    if "models" in path.parts:
        assert re.fullmatch(r"select \* from [a-z_]+", text.strip().splitlines()[-1])
        assert ("source(" in text) == (path.parent.name == names.STAGING)
        assert ("ref(" in text) == (path.parent.name == names.CLEANED)


def test_the_profile_keeps_no_secret_and_no_place() -> None:
    """Host, user, password and all else come from the environment of whoever starts dbt, and none has a default."""
    profile = yaml.safe_load((DBT / "profiles.yml").read_text())["warehouse"]["outputs"]["warehouse"]
    fixed = {name: value for name, value in profile.items() if "env_var(" not in str(value)}

    assert fixed == {"type": "postgres", "schema": "staging", "threads": 4}
    assert [value for value in map(str, profile.values()) if re.search(r"env_var\([^)]*,", value)] == []


def small_project(folder: Path) -> Path:
    """A dbt project of one model."""
    (folder / "models").mkdir(parents=True)
    (folder / "macros").mkdir()
    (folder / "tests").mkdir()
    (folder / "dbt_project.yml").write_text("name: small\nversion: '1.0'\nprofile: warehouse\n")
    (folder / "profiles.yml").write_text((DBT / "profiles.yml").read_text())
    (folder / "models" / "one.sql").write_text("select 1 as one")
    return folder


def test_the_manifest_is_made_anew_when_a_file_changed(tmp_path: Path) -> None:
    """A missing manifest is made, a current one is left alone, a newer or a removed file makes it old."""
    project = small_project(tmp_path / "small")
    manifest = ensure_manifest(project)
    made = manifest.stat().st_mtime_ns

    assert list(json.loads(manifest.read_text())["nodes"]) == ["model.small.one"]
    assert ensure_manifest(project).stat().st_mtime_ns == made
    os.utime(project / "models" / "one.sql", ns=(made + 1, made + 1))
    assert not is_current(manifest, project)
    os.utime(project / "models" / "one.sql", ns=(made, made))
    assert is_current(manifest, project)
    (project / "models" / "one.sql").unlink()
    os.utime(project / "models", ns=(made + 1, made + 1))
    assert not is_current(manifest, project)


def test_a_malformed_project_is_an_error_with_its_place(tmp_path: Path) -> None:
    """The words of dbt name the file that is wrong, and no manifest is left that could be taken for a good one."""
    project = small_project(tmp_path / "small")
    (project / "models" / "one.sql").write_text("select {{ ref('nobody') }}")

    with pytest.raises(DbtProjectMalformed, match=r"(?s)models/one\.sql.*nobody"):
        ensure_manifest(project)

    assert not (project / "target" / "manifest.json").exists()


def test_the_version_of_dbt_is_printed_without_a_word_of_newer_ones() -> None:
    """dagster-dbt asks for it at each run, and dbt itself would ask a package index meanwhile."""
    done = subprocess.run([PROGRAM_OF_RUNS, "--version"], capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout == f"{version('dbt-core')}\n"
