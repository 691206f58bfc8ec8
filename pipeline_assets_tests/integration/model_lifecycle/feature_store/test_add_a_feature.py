"""The how-to of adding a feature, done to the letter in a copy of the project: its value is the same offline and online."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from textwrap import dedent

import pyarrow as pa
import pytest
from pyarrow import csv

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.processing.cleaning.dbt import PROGRAM, between, project_folder, variables
from pipeline_assets.processing.cleaning.manifest import ensure_manifest
from pipeline_assets.processing.cleaning.models import ProjectModels
from pipeline_assets.processing.cleaning.publish import publish
from pipeline_assets.processing.cleaning.raw_tables import load_raw_days
from pipeline_assets.processing.lake import tables
from pipeline_assets.use_cases.bundesliga.sources import results
from pipeline_assets_tests.stack_env import write_stack_env

ROOT = Path(__file__).resolve().parents[4]
PAGE = ROOT / "docs" / "how-to" / "add-a-feature.md"
SECTION = PAGE.read_text().partition("## The whole way, once\n")[2].partition("\n## ")[0]
BLOCK = re.compile(r"^   ```(\w+)(?: (\S+))?\n(.*?)^   ```$", re.MULTILINE | re.DOTALL)
FEATURE = "home_form__most_goals_90d"
FIRST, LAST = date(2003, 8, 1), date(2003, 8, 31)
# Number, clubs and goals of some matches of August 2003.
MATCHES = ((1, 1, 2, 3, 0), (2, 2, 1, 1, 1), (3, 1, 3, 5, 2), (4, 2, 3, 0, 4))


def play(settings: Settings, folder: Path) -> None:
    """Has lake and warehouse hold the matches, the first of which was corrected."""
    rows = []
    for number, home, away, home_goals, away_goals in MATCHES:
        at = datetime(2003, 8, 4 * number, 15, tzinfo=UTC)
        row = {"season": 2003, "match_number": number, "home_id": home, "away_id": away, "away_goals": away_goals, "finished_at": at}
        known = (
            [(home_goals, at + timedelta(minutes=5))] if number > 1 else [(9, at + timedelta(minutes=5)), (3, at + timedelta(minutes=50))]
        )
        rows += [{**row, "home_goals": goals, "recorded_at": known_at, "_deleted_at": None} for goals, known_at in known]
    schema = arrow_schema(versioned(results.contract))
    tables.replace_days(settings, names.lake(results.contract.name), pa.Table.from_pylist(rows, schema=schema), "finished_at", FIRST, LAST)
    load_raw_days(settings, versioned(results.contract), FIRST, LAST)
    target = ["--target-path", str(folder), "--log-path", str(folder)]
    chosen = [names.stg(results.contract.name), "results_history"]
    command = [str(PROGRAM), "run", "--quiet", *target, "--select", *chosen, *between(FIRST, LAST)]
    done = subprocess.run(command, cwd=project_folder(), env=os.environ | variables(settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    models = ProjectModels(project=load_project(), manifest=json.loads(ensure_manifest(project_folder()).read_text(encoding="utf-8")))
    built = models.built("model.pipeline.results_history")
    assert built is not None
    publish(settings, built)


@pytest.fixture
def copy(isolated: Settings, tmp_path: Path) -> Path:
    """A copy of the project beside services that have some matches."""
    folder = tmp_path / "copy"
    for name in ("pipeline_assets", "dbt_project"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "target", "logs"))
    (folder / ".pipeline").mkdir()
    write_stack_env(isolated, folder / ".pipeline")
    play(isolated, tmp_path / "dbt")
    return folder


def run(copy: Path, *command: str, given: str | None = None) -> str:
    """What a command prints, run in the copy."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment = {**own, "PYTHONPATH": str(copy), f"{PREFIX}HOME": str(copy / ".pipeline"), "DAGSTER_HOME": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(600)
def test_the_page_adds_a_feature_that_is_the_same_offline_and_online(copy: Path) -> None:
    """Its change and commands succeed as they stand there; a club has the most goals that it shot at home, one that had no match none."""
    said = []
    for kind, name, text in BLOCK.findall(SECTION):
        if kind == "diff":
            run(copy, "git", "apply", "-", given=dedent(text))
        elif name:
            (copy / name).write_text(dedent(text))
        else:
            programs = Path(sys.executable)
            commands = [line.split() for line in dedent(text).splitlines()]
            said += [run(copy, str(programs.with_name(program)), *arguments) for program, *arguments in commands]
    offline, online = (csv.read_csv(copy / f"{side}.csv") for side in ("offline", "online"))

    assert len(said) == 6
    assert "cleaned.results_history.home_goals" in said[1]
    assert offline[FEATURE].to_pylist() == [5.0, 1.0, None]
    assert online[FEATURE].to_pylist() == [5.0, 1.0, None]
    assert "0 values differ" in said[4]
