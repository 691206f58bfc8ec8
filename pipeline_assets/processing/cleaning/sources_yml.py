"""The dbt sources of a use case, written from its contracts: `models/<use_case>/sources.yml` is this module's output.

Freshness is judged by `_loaded_at`, the wall-clock time at which a raw row was copied. The times of the contract itself are event times:
by the wall clock a replay of 2013 would be stale for ever, however promptly it is loaded.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_use_case
from pipeline_assets.processing.cleaning.raw_schema import LOADED_AT, SQL_TYPES
from pipeline_assets.processing.cleaning.raw_tables import RawTable, tables_of
from pipeline_assets.spec.use_case import UseCase

HEADER = """\
# Made from the contracts in pipeline_assets/use_cases/{use_case}; do not edit. After a change of a contract run:
# python -m pipeline_assets.processing.cleaning.sources_yml {use_case}
"""
PERIODS = {"day": timedelta(days=1), "hour": timedelta(hours=1), "minute": timedelta(minutes=1)}


def render_sources(use_case: UseCase) -> str:
    """The text of `sources.yml`: one source `raw` with a table per contract that reaches the lake."""
    source = {
        "name": names.RAW,
        "schema": names.RAW,
        "description": "Copies of the lake's tables, one per contract, for dbt to read.",
        "tables": [_table(table) for table in tables_of(use_case)],
    }
    text = yaml.safe_dump({"sources": [source]}, sort_keys=False, allow_unicode=True, width=120)
    return HEADER.format(use_case=use_case.name) + text


def sources_path(project: Path, use_case: UseCase) -> Path:
    """Where the rendered text belongs."""
    return project / "models" / use_case.name / "sources.yml"


def _table(table: RawTable) -> dict[str, Any]:
    contract = table.contract
    loaded_at = {"name": LOADED_AT, "data_type": SQL_TYPES["timestamp"], "description": "When the row was copied, by the wall clock."}
    columns = [{"name": f.name, "data_type": SQL_TYPES[f.type], "description": f.description} for f in contract.fields]
    return {
        "name": contract.name,
        "description": contract.description,
        "config": {
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


if __name__ == "__main__":
    from pipeline_assets.processing.cleaning.dbt import PROJECT

    for name in sys.argv[1:]:
        chosen = load_use_case(name)
        sources_path(PROJECT, chosen).write_text(render_sources(chosen), encoding="utf-8")
