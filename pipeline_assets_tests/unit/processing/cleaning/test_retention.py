"""How long a table keeps versions: what may be declared, and what is refused when the definitions are made."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_assets.core import names
from pipeline_assets.core.errors import SpecError
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import key
from pipeline_assets.processing.cleaning.retention import problems
from pipeline_assets_tests.cleaning_runs import FLIGHTS, assets_of_room
from pipeline_assets_tests.kept_versions import keeping_versions

NAME = "departures_history"
MODEL = f"model.pipeline.{NAME}"


def manifest(keeps: object, **changed: Any) -> Mapping[str, Any]:
    """The departures as dbt's manifest has them, as far as retention looks at them."""
    config = {"materialized": "incremental", "meta": {"keeps_versions": keeps}}
    node = {"name": NAME, "resource_type": "model", "config": config, "columns": {"known_at": {}, "superseded_at": {}}} | changed
    return {"nodes": {MODEL: node}, "child_map": {MODEL: []}}


def found(keeps: object, project: Project = FLIGHTS, **changed: Any) -> list[str]:
    """What is wrong with the departures so declared."""
    return [problem for problem, _ in problems(project, manifest(keeps, **changed), MODEL)]


@pytest.mark.parametrize("keeps", [None, "1 day", "400 days"])
def test_whole_days_are_a_retention(keeps: str | None) -> None:
    """One day or many; without the word versions are kept for ever."""
    assert found(keeps) == []


@pytest.mark.parametrize("keeps", [400, "400", "0 days", "-3 days", "1.5 days", "400 hours", "400  days", "a year", "", True])
def test_anything_else_is_named(keeps: object) -> None:
    """A number without its unit, no days, parts of days and other units are not guessed at."""
    assert found(keeps) == [f"is {keeps!r}"]


def test_only_a_table_with_versions_can_have_one() -> None:
    """From a view no row can be deleted, and the times of a version must be columns; each column that is missing is named."""
    assert found("3 days", config={"materialized": "view", "meta": {"keeps_versions": "3 days"}}) == ["is set for a view"]
    assert found("3 days", columns={"known_at": {}}) == ["is set without superseded_at"]
    assert found("3 days", columns={}) == ["is set without known_at and superseded_at"]


def test_whoever_reads_the_table_must_end_versions() -> None:
    """A view, observations or a label for which every version counts for ever would miss those that are deleted."""
    use_case = FLIGHTS.use_cases[0]
    model = use_case.models[0]
    view = replace(model.views[0], source=replace(model.views[0].source, name=NAME, superseded_at=None))
    asked, label = replace(model.observations, table=NAME, versions=None), replace(model.label, table=NAME, superseded_at=None)
    project = Project(use_cases=(replace(use_case, models=(replace(model, views=(view,), observations=asked, label=label),)),))

    assert found("3 days", project) == [
        "is set, but for view 'origin_departures' every version counts for ever",
        "is set, but for the observations of model 'flight_delay' every version counts for ever",
        "is set, but for the label of model 'flight_delay' every version counts for ever",
    ]


def test_no_table_of_dbt_may_keep_what_it_read_of_versions() -> None:
    """A table that joins the versions would come out otherwise once they are gone; a view that shows the current rows is none."""
    read = manifest("3 days")
    nodes = {
        "model.pipeline.delays": {"name": "delays", "resource_type": "model", "config": {"materialized": "incremental"}},
        "model.pipeline.departures": {"name": "departures", "resource_type": "model", "config": {"materialized": "view"}},
        "test.pipeline.not_null": {"name": "not_null", "resource_type": "test", "config": {"materialized": "test"}},
    }
    above = {"nodes": {**read["nodes"], **nodes}, "child_map": {MODEL: [*nodes, "unit_test.pipeline.one"]}}

    assert [problem for problem, _ in problems(FLIGHTS, above, MODEL)] == ["is set, but table 'delays' of dbt reads its versions"]


def test_a_declaration_is_checked_when_definitions_are_made(tmp_path: Path) -> None:
    """What is declared well is shown with the asset; what is not stops the load with the file, the word and what was expected."""
    specs = {spec.key: spec for asset in assets_of_room(keeping_versions(tmp_path / "well", **{NAME: "3 days"})) for spec in asset.specs}

    assert specs[key(names.cleaned(NAME))].metadata["keeps_versions"] == "3 days"
    assert "keeps_versions" not in specs[key(names.cleaned("arrivals_history"))].metadata
    expected = (
        r"'departures_history' of dbt .*: keeps_versions is 'three days'\. Expected: whole days, such as '400 days'\. "
        r"Fix dbt_project/models/nyc_flights/cleaned/departures_history\.yml\."
    )
    with pytest.raises(SpecError, match=expected):
        keeping_versions(tmp_path / "badly", **{NAME: "three days"})
