"""The how-to of adding a use case, done to the letter: its files in a copy of the project are a use case beside the others."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "add-a-use-case.md"
# A block that names a file is that file; a block of the shell is what is typed.
FILE = re.compile(r"^```\w+ (\S+/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LISTED = """
from pipeline_assets.definitions import defs
print(*sorted(spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()), sep="\\n")
print(*sorted(job.name for job in defs.resolve_all_job_defs()), sep="\\n")
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files of the page in it."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("pipeline_assets", "dbt_project"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "target", "logs"))
    for name, text in FILE.findall(PAGE.read_text()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _run(copy: Path, *command: str) -> str:
    """What a command of this environment prints, run in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PIPELINE_HOME": str(copy / ".pipeline"), "DAGSTER_HOME": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_the_page_makes_a_use_case(copy: Path) -> None:
    """Its commands succeed as they are typed, and the new assets and jobs stand beside those that were there."""
    programs = Path(sys.executable)
    for command in (line for block in TYPED.findall(PAGE.read_text()) for line in block.splitlines() if not line.startswith("export")):
        program, *arguments = command.split()
        _run(copy, str(programs.with_name(program)), *arguments)

    made = _run(copy, sys.executable, "-c", LISTED).splitlines()

    assert {"cleaned/library_outcomes", "features/library_member_outcomes", "feature_store/library_late", "champions/library_late"} <= set(
        made
    )
    assert {"predictions/library_late", "monitor/library_late_drift", "lake/library_returns", "staged/library_members"} <= set(made)
    assert {"build_features_library", "train_library_late", "score_and_monitor_library_late"} <= set(made)
    assert {"champions/flight_delay", "build_features_nyc_flights"} <= set(made)


def test_every_file_of_the_page_is_written_once() -> None:
    """No file stands there twice, and none of the project is replaced by one of the page."""
    names = [name for name, _ in FILE.findall(PAGE.read_text())]

    assert len(names) == len(set(names)) > 10
    assert [name for name in names if (ROOT / name).exists()] == []
