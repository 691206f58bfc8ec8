"""Keeps dbt's manifest at hand: parsed at set-up, and again only after a file of the dbt project changed."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline_assets.processing.cleaning import dbt
from pipeline_assets.processing.cleaning.project import PROJECT

FOLDERS, FILES = ("macros", "models", "tests"), ("dbt_project.yml", "profiles.yml")
TARGET = "target"


def ensure_manifest(project: Path = PROJECT) -> Path:
    """The path of the manifest of `project`, parsed now (some seconds) if there is none or any file of the project is newer than it.

    Two processes that find it old both parse; each puts its result in place whole. Raises CleaningFailed if the project is malformed.
    """
    manifest = project / TARGET / dbt.MANIFEST
    if not is_current(manifest, project):
        manifest.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(prefix="parse-", dir=manifest.parent) as folder:
            dbt.parse(project, Path(folder))
            (Path(folder) / dbt.MANIFEST).replace(manifest)
    return manifest


def is_current(manifest: Path, project: Path) -> bool:
    """Whether the manifest is at least as new as every file that dbt reads, and every folder of them (a file may have been removed)."""
    if not manifest.exists():
        return False
    written = manifest.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= written for path in _read_by_dbt(project))


def _read_by_dbt(project: Path) -> Iterator[Path]:
    yield from (project / name for name in FILES)
    for name in FOLDERS:
        yield project / name
        yield from (project / name).rglob("*")


if __name__ == "__main__":
    ensure_manifest()
