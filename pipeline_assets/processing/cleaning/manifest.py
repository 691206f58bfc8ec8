"""Keeps dbt's manifest at hand: made at set-up, and again only after a file of the dbt project changed.

dagster-dbt's own `prepare_if_dev` parses in every process that loads the code location, which costs each of them some seconds. The models
are compiled with it, as for a full refresh and without a connection: by their SQL the online store derives rows.
"""

import json
import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline_assets.core.errors import DbtProjectMalformed
from pipeline_assets.core.settings import environment_of_children
from pipeline_assets.processing.cleaning.dbt import NOWHERE, PROGRAM, project_folder, target_folder

FOLDERS, FILES = ("macros", "models", "tests"), ("dbt_project.yml", "profiles.yml")
MANIFEST = "manifest.json"
# In the metadata of the manifest: what dbt says of models that cannot be compiled without a connection, by name (`ALL`: of none by name).
NOT_COMPILED, ALL = "not_compiled", "*"
FAILED = re.compile(r"in model (\S+) \(")


def ensure_manifest(project: Path) -> Path:
    """The path of the manifest of `project`, made now (some seconds) if there is none or any file of the project is newer than it.

    Its nodes have the SQL of models as `compiled_code`; of those that cannot be compiled without a connection (they query the warehouse),
    the metadata has dbt's words by name. Two processes that find it old both make it; each puts its result in place whole. Raises
    DbtProjectMalformed.
    """
    manifest = target_folder(project) / MANIFEST
    if not is_current(manifest, project):
        manifest.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="compile-", dir=manifest.parent) as folder:
            _compile(project, Path(folder))
            (Path(folder) / manifest.name).replace(manifest)
    return manifest


def read_manifest(project: Path) -> Mapping[str, Any]:
    """The manifest of `project`, made first if it is missing or old. Raises DbtProjectMalformed."""
    manifest = ensure_manifest(project)
    return _parsed(manifest, manifest.stat().st_mtime_ns)


def is_current(manifest: Path, project: Path) -> bool:
    """Whether the manifest is at least as new as this module and every file that dbt reads, and every folder (a file may be gone)."""
    if not manifest.exists():
        return False
    written = manifest.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= written for path in _read_by_dbt(project))


@lru_cache(maxsize=1)
def _parsed(manifest: Path, _written_ns: int) -> Mapping[str, Any]:
    """A manifest as it was written then; several rooms read it at each load."""
    found: Mapping[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    return found


def _compile(project: Path, target: Path) -> None:
    """Writes the manifest with the SQL of all models that can be compiled without a connection, and notes what dbt says of the others."""
    failed: dict[str, str] = {}
    while (done := _dbt_compile(project, target, failed)).returncode != 0:
        output = done.stdout + done.stderr
        if not (target / MANIFEST).exists():
            raise DbtProjectMalformed(project, output)
        # dbt stops at the first model that fails, and compiles none: the others are asked for again without it.
        found = FAILED.search(output)
        model = found[1] if found is not None else ALL
        is_new = model not in failed
        failed[model] = output.strip().splitlines()[-1].strip()
        if model == ALL or not is_new:
            break
    if failed:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        manifest["metadata"][NOT_COMPILED] = failed
        (target / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _dbt_compile(project: Path, target: Path, without: Collection[str]) -> "subprocess.CompletedProcess[str]":
    command: list[str | Path] = [
        *(PROGRAM, "--quiet", "--no-use-colors"),
        *("compile", "--full-refresh", "--no-introspect", "--no-populate-cache", "--select", "resource_type:model"),
        *(("--exclude", *without) if without else ()),
        *("--profiles-dir", project, "--target-path", target, "--log-path", target),
    ]
    return subprocess.run(  # noqa: S603 - this environment's own program
        command, cwd=project, env=environment_of_children(NOWHERE), capture_output=True, text=True, check=False
    )


def _read_by_dbt(project: Path) -> Iterator[Path]:
    yield Path(__file__)
    yield from (project / name for name in FILES)
    for name in FOLDERS:
        if (project / name).exists():
            yield project / name
            yield from (project / name).rglob("*")


if __name__ == "__main__":
    ensure_manifest(project_folder())
