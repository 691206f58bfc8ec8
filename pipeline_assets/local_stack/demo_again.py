"""Whether a demo would come out as the last one did: by its code, its world's events and databases, and the versions that are live."""

import hashlib
import json
from pathlib import Path
from typing import Any

import psycopg

from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.settings import ROOT, Settings
from pipeline_assets.ingestion.streaming.capture.topics import end_offsets
from pipeline_assets.local_stack.demo import SUMMARY
from pipeline_assets.local_stack.worlds import Demo, World
from pipeline_assets.model_lifecycle.registry.ledger import live_version

CODE = ("pipeline_assets/**/*.py", "simulator/**/*.py", "simulator/**/*.toml", "uv.lock")
DBT = ("dbt_project.yml", "models/**/*", "macros/**/*", "tests/**/*", "seeds/**/*")
# Grows with every row that is written; a restart after a crash sets it back, which counts as a change.
WRITTEN = "select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint from pg_stat_user_tables"


def state_of(settings: Settings, world: World, demo: Demo) -> dict[str, Any]:
    """What the demo is made from, in the form of `made_from` of `demo.json`: equal where nothing is new.

    What is in the REST services of a world is its code. Days that came to the lake by other ways are no part of it.
    """
    project = load_project()
    topics = sorted(stream.topic for stream in project.use_case(demo.use_case).streams)
    offsets = {f"{topic}/{partition}": offset for (topic, partition), offset in sorted(end_offsets(settings, topics).items())}
    written = {name: _rows_written(settings.databases[name].get_secret_value()) for name in sorted(world.databases)}
    live = {name: live_version(settings, project.model(name)) for name in demo.models}
    return {"code": code_hash(ROOT), "demo": demo.model_dump(mode="json"), "offsets": offsets, "rows_written": written, "live": live}


def made_alike(home: Path, state: dict[str, Any]) -> dict[str, Any] | None:
    """The last summary where it was made from the same and all of it was right; None where it was not, or cannot be read."""
    try:
        made: dict[str, Any] = json.loads((home / SUMMARY).read_text(encoding="utf-8"))
        differing = [*(one["differing_values"] for one in made["online"]), *(one["differing"] for one in made["live"])]
        is_right = not any(differing) and all(one["passed"] for one in made["stream"]["audited"].values())
        return made if made["made_from"] == state and is_right else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def is_settled(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether nobody wrote to the world's databases, or changed the code, while a demo was made."""
    return all(before[part] == after[part] for part in ("code", "rows_written"))


def code_hash(root: Path) -> str:
    """SHA-256 (hex) of the names and contents of all files that a demo depends on."""
    found = hashlib.sha256()
    files = [file for pattern in (*CODE, *(f"dbt_project/{part}" for part in DBT)) for file in root.glob(pattern) if file.is_file()]
    for file in sorted(set(files)):
        found.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()


def _rows_written(dsn: str) -> int:
    with psycopg.connect(dsn, connect_timeout=10) as connection:
        row = connection.execute(WRITTEN).fetchone()
    return 0 if row is None else int(row[0])
