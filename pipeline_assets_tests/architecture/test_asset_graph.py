"""The asset graph is a snapshot, so that a change of it is seen in review; and every asset is what a reader of the graph expects."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.definitions import defs

SNAPSHOT = Path(__file__).with_name("asset_graph.txt")
HEAVY = ("mlflow", "evidently", "xgboost", "sklearn", "matplotlib", "duckdb", "pandas")


@pytest.fixture(scope="module")
def specs() -> Sequence[dg.AssetSpec]:
    """All assets of the code location, by key."""
    return sorted(defs.resolve_all_asset_specs(), key=lambda spec: spec.key)


def _line(spec: dg.AssetSpec) -> str:
    """One asset as a line: room, key, and what it needs."""
    needs = ", ".join(sorted(dep.asset_key.to_user_string() for dep in spec.deps))
    return f"{spec.group_name}: {spec.key.to_user_string()}" + (f" <- {needs}" if needs else "")


def test_the_asset_graph_is_as_it_was(specs: Sequence[dg.AssetSpec]) -> None:
    """Assets, rooms and arrows equal the committed snapshot; rewrite the file when a change is meant."""
    found = "\n".join(sorted(_line(spec) for spec in specs)) + "\n"

    assert found == SNAPSHOT.read_text(), found


def test_the_graph_shows_all_twelve_rooms(specs: Sequence[dg.AssetSpec]) -> None:
    """Every room has at least one asset, and no asset is in any other group."""
    assert {spec.group_name for spec in specs} == set(names.ROOMS)


def test_every_asset_says_what_it_is_and_whose(specs: Sequence[dg.AssetSpec]) -> None:
    """Each asset has a description, an owner, a kind, and a key of two parts."""
    lacking = {
        spec.key.to_user_string(): [
            lack
            for lack, is_there in (
                ("description", bool(spec.description)),
                ("owner", bool(spec.owners)),
                ("kind", bool(spec.kinds)),
                ("two-level key", len(spec.key.path) == len(("schema", "table"))),
            )
            if not is_there
        ]
        for spec in specs
    }

    assert {key: lacks for key, lacks in lacking.items() if lacks} == {}


def test_the_code_location_loads_without_heavy_libraries() -> None:
    """Importing the definitions leaves out every library that only a run needs."""
    probe = f"import sys, pipeline_assets.definitions; print([name for name in {HEAVY!r} if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"
