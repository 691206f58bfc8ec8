"""Lineage of dbt models for tests: of the SQL of this project, changed or not, and of models written out in a test."""

from collections.abc import Mapping
from typing import Any

from pipeline_assets.core import names
from pipeline_assets.processing.cleaning.column_lineage import model_columns
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import DbtLineage, SourceColumn
from pipeline_assets.processing.cleaning.manifest import read_manifest

ORDERS = ("order_id", "customer", "amount", "ordered_at", "recorded_at", "_deleted_at", "_loaded_at")


def lineage_of(**models: str) -> DbtLineage:
    """The lineage of cleaned models, by name and SQL, above the raw tables `orders` and `payments`, each reading those before it."""
    sources = {f"source.p.raw.{name}": _source(name) for name in ("orders", "payments")}
    nodes: dict[str, Any] = {}
    for name, sql in models.items():
        nodes[f"model.p.{name}"] = _node(name, sql)
    parents = {name: [*sources, *list(nodes)[:position]] for position, name in enumerate(nodes)}
    manifest = {"metadata": {"project_name": "p"}, "sources": sources, "nodes": nodes, "parent_map": parents, "macros": {}}
    return DbtLineage(models=model_columns(manifest))


def _source(name: str) -> dict[str, Any]:
    return {"schema": names.RAW, "identifier": name, "columns": {name: {} for name in ORDERS}}


def _node(name: str, sql: str) -> dict[str, Any]:
    return {
        "resource_type": "model", "schema": names.CLEANED, "name": name, "alias": name, "columns": {"declared": {}}, "compiled_code": sql,
        "raw_code": sql, "original_file_path": f"models/p/cleaned/{name}.sql", "depends_on": {"macros": []},
    }  # fmt: skip


def project_lineage(changed: Mapping[str, tuple[str, str]] | None = None, whole: Mapping[str, str] | None = None) -> DbtLineage:
    """The lineage of this project's models, by their names: with a part of the SQL of some in place of another, or other SQL as a whole."""
    manifest = dict(read_manifest(project_folder()))
    manifest["nodes"] = dict(manifest["nodes"])
    for name in {*(changed or {}), *(whole or {})}:
        unique_id = next(one for one in manifest["nodes"] if one.startswith("model.") and one.endswith(f".{name}"))
        sql = manifest["nodes"][unique_id]["compiled_code"]
        old, new = (changed or {}).get(name, (sql, (whole or {}).get(name, sql)))
        assert old in sql, sql
        manifest["nodes"][unique_id] = {**manifest["nodes"][unique_id], "compiled_code": sql.replace(old, new)}
    return DbtLineage(models=model_columns(manifest))


def raw(*columns: str) -> set[SourceColumn]:
    """Columns of raw tables, written as <table>.<column>."""
    return {(names.raw(table), column) for table, _, column in (one.partition(".") for one in columns)}
