"""The page of column lineage: every field and feature is on it, with the whole way, and nothing of it is run."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.project import Project
from pipeline_assets.model_lifecycle.feature_store import commands
from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage
from pipeline_assets.model_lifecycle.feature_store.lineage_page import lineage_page
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import read_lineage
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets.use_cases.nyc_flights import use_case

PROJECT = load_project()


def page_of(project: Project) -> str:
    """The page of a project on the tables of this one."""
    return lineage_page(ProjectLineage(project=project, dbt=read_lineage(project_folder())), read_models(project).references)


@pytest.fixture(scope="module")
def page() -> str:
    """The page of this project."""
    return page_of(PROJECT)


def tree(page: str, section: str, name: str) -> str:
    """What stands below a column of a section."""
    (found,) = re.findall(rf'<section id="{section}">.*?</section>', page, flags=re.DOTALL)
    (text,) = re.findall(rf"<summary>{name}</summary><pre>(.*?)</pre>", found, flags=re.DOTALL)
    return unescape(str(text))


def test_every_field_and_feature_is_on_the_page(page: str) -> None:
    """Each contract and each view is a section that the links at the top lead to."""
    anchors, links = (set(re.findall(pattern, page)) for pattern in (r'<section id="([^"]+)">', r'<a href="#([^"]+)">'))

    assert anchors == links
    assert {f"source-{one.name}" for one in PROJECT.contracts} | {f"view-{one.name}" for one in PROJECT.views} < anchors
    assert page.count("<summary>") >= sum(len(one.fields) for one in PROJECT.contracts) + 78


def test_the_way_goes_from_a_source_to_predictions_and_back(page: str) -> None:
    """A field of the weather names the table of predictions that depends on it; a feature names the field and the model."""
    on, back = tree(page, "source-weather", "temperature_f"), tree(page, "view-origin_weather", "origin_weather__temperature_f")

    for part in ("cleaned.weather_observations_history: ", "temperature_f", "origin_weather__temperature_f", "predictions.flight_delay"):
        assert part in on
    ways = ("cleaned.weather_observations_history.temperature_f", "weather.temperature_f  (number; endpoint")
    for part in (*ways, "model flight_delay", "predictions.flight_delay"):
        assert part in back


def test_what_declarations_say_is_text(page: str) -> None:
    """A description with a script is shown as it was written."""
    hostile = replace(use_case.models[0], question="<script>alert(1)</script> [bold]?")
    shown = page_of(replace(PROJECT, use_cases=(replace(use_case, models=(hostile, *use_case.models[1:])),)))

    assert "<script" not in shown
    assert "<script>alert(1)</script> [bold]?" in unescape(shown)
    assert "<script" not in page


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    """As one file."""
    app = typer.Typer()
    commands.register(app)
    out = tmp_path / "lineage.html"

    assert CliRunner().invoke(app, ["features", "lineage", "--out", str(out)], catch_exceptions=False).exit_code == 0
    assert out.read_text().startswith("<!doctype html>")
