"""Writes what product and local stack are made of, as CycloneDX JSON: wheels from `uv.lock`, jars from `jars.json`, with their hashes.

`make sbom` runs it. Wheels are written by `uv export`. A jar may have others in it; those that say so by Maven's own notes are listed in
it, so jars that are not on this machine yet are downloaded, and checked, first.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from pipeline_assets.core.settings import read_stack_settings
from pipeline_assets.local_stack.downloads import Artifact, fetch
from pipeline_assets.local_stack.java import LOCK, needed

ROOT = Path(__file__).resolve().parents[1]
NOTES = "pom.properties"
# What `pyproject.toml` has nobody install.
NEVER = {"name": "uv:package:marker", "value": "sys_platform == 'never'"}
Component = dict[str, Any]


def main() -> None:
    """Write the file, and say what is in it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--uv", default="uv", help="the program uv")
    options.add_argument("--jars", type=Path, default=ROOT / ".pipeline" / "jars", help="where downloaded jars are kept")
    options.add_argument("--output", type=Path, default=ROOT / "sbom.cdx.json")
    asked = options.parse_args()
    found = wheels(asked.uv)
    jars = [component(jar, folder) for jar, folder in at_hand(asked.jars)]
    count, inside = len(found["components"]), sum(len(jar["components"]) for jar in jars)
    found["components"] += jars
    asked.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{asked.output}: {count} wheels, {len(jars)} jars with {inside} libraries in them\n")


def wheels(uv: str) -> dict[str, Any]:
    """The document that uv makes of its lock file, without what only developers install."""
    command = (uv, "export", "--project", str(ROOT), "--frozen", "--quiet", "--no-dev", "--format", "cyclonedx1.5")
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603
    return without(found, {one["bom-ref"] for one in found["components"] if NEVER in one.get("properties", [])})


def without(found: dict[str, Any], left_out: AbstractSet[str]) -> dict[str, Any]:
    """The document without some components, by their references."""
    kept = [one for one in found["components"] if one["bom-ref"] not in left_out]
    needs = [{**one, "dependsOn": [each for each in one.get("dependsOn", []) if each not in left_out]} for one in found["dependencies"]]
    return {**found, "components": kept, "dependencies": [one for one in needs if one["ref"] not in left_out]}


def at_hand(jars: Path) -> list[tuple[Artifact, Path]]:
    """Each jar once, with its folder; those that are not there yet are downloaded."""
    wanted = needed(jars, json.loads(LOCK.read_text(encoding="utf-8")))
    fetch(wanted, read_stack_settings().maven_url, lambda _progress: None)
    return list({jar.path: (jar, folder) for jar, folder in wanted}.values())


def component(jar: Artifact, folder: Path) -> Component:
    """A jar, and the libraries in it."""
    *group, name, version, file = jar.path.split("/")
    classifier = file.removeprefix(f"{name}-{version}").removesuffix(".jar").removeprefix("-")
    own = library(".".join(group), name, version, f"?classifier={classifier}" if classifier else "")
    inside = sorted(coordinates_in(folder / jar.name) - {(own["group"], name, version)})
    nested = [library(*each) for each in inside]
    for each in nested:
        each["bom-ref"] = f"{own['purl']}#{each['purl']}"
    return {**own, "hashes": [{"alg": "SHA-256", "content": jar.sha256}], "components": nested}


def library(group: str, name: str, version: str, qualifiers: str = "") -> Component:
    """A library of Maven."""
    purl = f"pkg:maven/{group}/{name}@{version}{qualifiers}"
    return {"type": "library", "bom-ref": purl, "group": group, "name": name, "version": version, "purl": purl}


def coordinates_in(jar: Path) -> set[tuple[str, str, str]]:
    """Group, name and version of each library that a jar has Maven's notes of."""
    with ZipFile(jar) as archive:
        return {found for name in archive.namelist() if name.endswith(f"/{NOTES}") for found in noted(archive.read(name))}


def noted(notes: bytes) -> Iterator[tuple[str, str, str]]:
    """The coordinates in one file of notes; none where they are not complete."""
    pairs = dict(line.split("=", 1) for line in notes.decode("latin-1").split() if "=" in line)
    if {"groupId", "artifactId", "version"} <= pairs.keys():
        yield pairs["groupId"], pairs["artifactId"], pairs["version"]


if __name__ == "__main__":
    main()
