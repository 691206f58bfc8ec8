"""Keeps dbt's manifest at hand: parsed at set-up, and again only after a file of the dbt project changed.

dagster-dbt's own `prepare_if_dev` parses in every process that loads the code location, which costs each of them some seconds.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline_assets.core.errors import DbtProjectMalformed
from pipeline_assets.core.settings import environment_of_children
from pipeline_assets.processing.cleaning.dbt import NOWHERE, PROGRAM, project_folder, target_folder

FOLDERS, FILES = ("macros", "models", "tests"), ("dbt_project.yml", "profiles.yml")


def ensure_manifest(project: Path) -> Path:
    """The path of the manifest of `project`, parsed now (some seconds) if there is none or any file of the project is newer than it.

    Two processes that find it old both parse; each puts its result in place whole. Raises DbtProjectMalformed.
    """
    manifest = target_folder(project) / "manifest.json"
    if not is_current(manifest, project):
        manifest.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="parse-", dir=manifest.parent) as folder:
            _parse(project, folder)
            (Path(folder) / manifest.name).replace(manifest)
    return manifest


def read_manifest(project: Path) -> Mapping[str, Any]:
    """The manifest of `project`, made first if it is missing or old. Raises DbtProjectMalformed."""
    manifest = ensure_manifest(project)
    return _parsed(manifest, manifest.stat().st_mtime_ns)


def is_current(manifest: Path, project: Path) -> bool:
    """Whether the manifest is at least as new as every file that dbt reads, and every folder of them (a file may have been removed)."""
    if not manifest.exists():
        return False
    written = manifest.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= written for path in _read_by_dbt(project))


@lru_cache(maxsize=1)
def _parsed(manifest: Path, _written_ns: int) -> Mapping[str, Any]:
    """A manifest as it was written then; several rooms read it at each load."""
    found: Mapping[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    return found


def _parse(project: Path, target: str) -> None:
    command: list[str | Path] = [
        PROGRAM,
        "--quiet",
        "--no-use-colors",
        "parse",
        "--profiles-dir",
        project,
        "--target-path",
        target,
        "--log-path",
        target,
    ]
    done = subprocess.run(  # noqa: S603 - this environment's own program
        command, cwd=project, env=environment_of_children(NOWHERE), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise DbtProjectMalformed(project, done.stdout + done.stderr)


def _read_by_dbt(project: Path) -> Iterator[Path]:
    yield from (project / name for name in FILES)
    for name in FOLDERS:
        if (project / name).exists():
            yield project / name
            yield from (project / name).rglob("*")


if __name__ == "__main__":
    ensure_manifest(project_folder())
