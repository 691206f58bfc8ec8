"""Runs of the assets of cleaning in this process, on the stores of a test."""

from functools import cache
from typing import Any

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.processing.cleaning import assets
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets_tests.flight_rows import day

FLIGHTS = Project(use_cases=(use_case,), tables=load_project().tables)


@cache
def room() -> dg.Definitions:
    """The definitions of cleaning for the flights alone."""
    return assets.defs(FLIGHTS)


def assets_of_room(definitions: dg.Definitions) -> list[dg.AssetsDefinition]:
    """Raw tables and models."""
    return [asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition)]


def run(platform: Platform, days: tuple[int, int], *chosen: AssetName, full_refresh: bool = False) -> dg.ExecuteInProcessResult:
    """Some assets of the flights with their checks, materialized for the days from so many to so many after the first."""
    config = {"ops": {names.cleaned_by_day(use_case.name): {"config": {"full_refresh": True}}}} if full_refresh else None
    return dg.materialize(
        assets_of_room(room()),
        selection=dg.AssetSelection.assets(*(key(name) for name in chosen)),
        resources={"platform": platform, **(room().resources or {})},
        tags=names.range_tags(day(days[0]), day(days[1])),
        run_config=config,
        raise_on_error=False,
    )


def metadata_of(result: dg.ExecuteInProcessResult, name: AssetName) -> dict[str, Any]:
    """The metadata of an asset's last materialization, as plain values."""
    (*_, event) = [event for event in result.get_asset_materialization_events() if event.asset_key == key(name)]
    return {label: entry.value for label, entry in event.materialization.metadata.items()}


def checked(result: dg.ExecuteInProcessResult, name: AssetName) -> dict[str, dg.AssetCheckEvaluation]:
    """The checks of an asset that were evaluated, by name."""
    return {check.check_name: check for check in result.get_asset_check_evaluations() if check.asset_key == key(name)}


def failure(result: dg.ExecuteInProcessResult) -> str:
    """The message of the one failed step of a run."""
    (event,) = [event for event in result.all_node_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error is not None
    return str(error.cause.message if error.cause is not None else error.message)
