"""The flights with a dbt project of their own, some models of which keep versions of rows for some days only."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.core.settings import PREFIX, read_code_settings
from pipeline_assets.processing.cleaning import assets
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets_tests.cleaning_runs import FLIGHTS, assets_of_room
from pipeline_assets_tests.flight_rows import day


def keeping_versions(folder: Path, **keeps: str) -> dg.Definitions:
    """The definitions of cleaning, with a dbt project in `folder` whose models, by name, keep versions so long."""
    shutil.copytree(read_code_settings().dbt_project, folder, ignore=shutil.ignore_patterns("target", "logs"))
    for model, days in keeps.items():
        declared = folder / "models" / use_case.name / names.CLEANED / f"{model}.yml"
        declared.write_text(declared.read_text().replace("      meta:\n", f"      meta:\n        keeps_versions: {days}\n", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"{PREFIX}DBT_PROJECT", str(folder))
        return assets.defs(FLIGHTS)


def build(
    room: dg.Definitions, platform: Platform, days: tuple[int, int] | None, *chosen: AssetName, full_refresh: bool = False
) -> dg.ExecuteInProcessResult:
    """Some models without their checks, materialized for the days from so many to so many after the first (None: they have no days)."""
    config = {"ops": {names.cleaned_by_day(use_case.name): {"config": {"full_refresh": True}}}} if full_refresh else None
    return dg.materialize(
        assets_of_room(room),
        selection=dg.AssetSelection.assets(*(key(name) for name in chosen)).without_checks(),
        resources={"platform": platform, **(room.resources or {})},
        tags=names.range_tags(day(days[0]), day(days[1])) if days is not None else None,
        run_config=config,
    )
