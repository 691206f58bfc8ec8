"""The columns of cleaned tables, as the YAML files beside the dbt models declare them: they are written there and nowhere else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

ColumnKind = Literal["string", "integer", "number", "boolean", "timestamp", "date", "other"]
Columns = Mapping[str, ColumnKind]
Tables = Mapping[str, Columns]

# The types of Postgres that features, keys and labels can be read from; all others are `other`, timestamps without a zone among them.
KINDS: Mapping[str, ColumnKind] = {
    "text": "string", "varchar": "string", "character varying": "string", "char": "string", "character": "string",
    "smallint": "integer", "integer": "integer", "int": "integer", "bigint": "integer",
    "real": "number", "double precision": "number", "float": "number", "numeric": "number", "decimal": "number",
    "boolean": "boolean", "bool": "boolean",
    "timestamptz": "timestamp", "timestamp with time zone": "timestamp", "date": "date",
}  # fmt: skip


def cleaned_models(dbt_project: Path) -> dict[str, Columns]:
    """The columns of all cleaned models of a dbt project (`models/<use_case>/cleaned/*.yml`), by name; a file that is no YAML has none."""
    models: dict[str, Columns] = {}
    for file in sorted((dbt_project / "models").glob("*/cleaned/*.yml")):
        for model in _listed(file):
            models[model["name"]] = {column["name"]: kind_of(str(column.get("data_type", ""))) for column in model.get("columns", ())}
    return models


def kind_of(data_type: str) -> ColumnKind:
    """The kind of a type of Postgres, whatever its length or precision."""
    return KINDS.get(data_type.lower().partition("(")[0].strip(), "other")


def _listed(file: Path) -> list[dict[str, Any]]:
    import yaml

    # The loader in C takes a tenth of the time, and is missing where PyYAML was built without it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - both are safe loaders
    return list((found or {}).get("models", ()))
