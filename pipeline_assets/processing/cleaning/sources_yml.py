"""The dbt sources of the use cases, written from their contracts: `models/<use_case>/sources.yml` is this module's output.

All files define tables of the one source `raw`, so that `source('raw', <contract>)` is right in every folder; dbt accepts a table once, and
so the contract that several use cases share stands in the file of the first of them. `event_time` marks what is loaded by the day.

Freshness is judged by `_loaded_at`, the wall-clock time at which a raw row was copied. The times of the contract itself are event times:
by the wall clock a replay of 2013 would be stale for ever, however promptly it is loaded.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from pipeline_assets.core import names
from pipeline_assets.core.declarations import read_project
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import read_code_settings
from pipeline_assets.processing.cleaning.raw_schema import LOADED_AT, SQL_TYPES, sql_type
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.use_case import UseCase

HEADER = """\
# Made from the contracts of use case {use_case}; do not edit. After a change of a contract run:
# python -m pipeline_assets.processing.cleaning.sources_yml {use_case}
"""
PERIODS = {"day": timedelta(days=1), "hour": timedelta(hours=1), "minute": timedelta(minutes=1)}


def write_sources(project: Project, dbt_project: Path, use_case: UseCase) -> Path:
    """Writes the sources of a use case and returns the file; a use case whose contracts all stand in others' files has an empty list."""
    path = sources_path(dbt_project, use_case)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_sources(project, use_case), encoding="utf-8")
    return path


def render_sources(project: Project, use_case: UseCase) -> str:
    """The text of `sources.yml`: a table of source `raw` per contract that reaches the lake and of which the use case is the home."""
    own = [(contract, by_day) for contract, by_day in project.lake_contracts if project.home_of(contract) is use_case]
    source = {
        "name": names.RAW,
        "schema": names.RAW,
        "description": "Copies of the lake's tables, one per contract, for dbt to read.",
        "tables": [_table(contract, by_day=by_day) for contract, by_day in own],
    }
    text = yaml.safe_dump({"sources": [source] if own else []}, sort_keys=False, allow_unicode=True, width=120)
    return HEADER.format(use_case=use_case.name) + text


def sources_path(dbt_project: Path, use_case: UseCase) -> Path:
    """Where the rendered text belongs."""
    return dbt_project / "models" / use_case.name / "sources.yml"


def _table(contract: Contract, *, by_day: bool) -> dict[str, Any]:
    loaded_at = {"name": LOADED_AT, "data_type": SQL_TYPES["timestamp"], "description": "When the row was copied, by the wall clock."}
    columns = [{"name": f.name, "data_type": sql_type(f), "description": f.description} for f in contract.fields]
    return {
        "name": contract.name,
        "description": contract.description,
        "config": {
            **({"event_time": contract.event_at} if by_day else {}),
            "loaded_at_field": LOADED_AT,
            "freshness": {"warn_after": _period(contract.freshness), "error_after": None},
            "meta": {"owner": contract.owner, "contract_version": contract.version},
        },
        "columns": [*columns, loaded_at],
    }


def _period(span: timedelta) -> dict[str, Any]:
    """A length of time as dbt counts it, in the largest unit that divides it; parts of a minute are rounded up."""
    minutes = -(-span // PERIODS["minute"])
    unit = next(unit for unit, size in PERIODS.items() if minutes * PERIODS["minute"] % size == timedelta(0))
    return {"count": minutes * PERIODS["minute"] // PERIODS[unit], "period": unit}


def main(chosen: list[str]) -> None:
    """Writes the sources of the named use cases (none named: of all). Homes are found among all, whichever are chosen."""
    settings = read_code_settings()
    project = read_project(settings.model_copy(update={"use_cases": None}))
    for use_case in [project.use_case(name) for name in chosen] if chosen else project.use_cases:
        sys.stdout.write(f"{write_sources(project, settings.dbt_project, use_case)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
