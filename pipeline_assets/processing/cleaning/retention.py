"""How long a cleaned table keeps versions of rows that count no more: declared beside its model, applied by `macros/keeps_versions.sql`.

    config:
      meta:
        keeps_versions: 400 days

Without it versions are kept for ever.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline_assets.core import connections, names
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings

KEEPS_VERSIONS = "keeps_versions"
# As in the macro, which dbt also runs where nobody asked this module: whole days, up to some centuries.
WHOLE_DAYS = re.compile(r"[1-9][0-9]{0,4} days?")
KNOWN_AT, SUPERSEDED_AT = "known_at", "superseded_at"


def kept_versions(model: Mapping[str, Any]) -> object:
    """What a model of dbt's manifest declares; None where it keeps versions for ever."""
    return model["config"].get("meta", {}).get(KEEPS_VERSIONS)


def problems(project: Project, manifest: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """What is wrong with the retention of a model of dbt's manifest, each with what is expected; nothing where it declares none.

    Only a table with the times of its versions can have one, and whoever reads it must count each version until it was superseded: others
    would miss those that are deleted. So would a table of dbt that joins them: its rows of before would change when they are built again.
    """
    model = manifest["nodes"][name]
    keeps = kept_versions(model)
    if keeps is None:
        return
    if not isinstance(keeps, str) or not WHOLE_DAYS.fullmatch(keeps):
        yield f"is {keeps!r}", "whole days, such as '400 days'"
    if model["config"]["materialized"] == "view":
        yield "is set for a view", "a table, from which rows can be deleted"
    missing = [column for column in (KNOWN_AT, SUPERSEDED_AT) if column not in model["columns"]]
    if missing:
        yield f"is set without {' and '.join(missing)}", f"a table of all versions, with the columns {KNOWN_AT} and {SUPERSEDED_AT}"
    for reader, superseded_at in _readers(project, model["name"]):
        if superseded_at != SUPERSEDED_AT:
            yield f"is set, but for {reader} every version counts for ever", f"superseded_at='{SUPERSEDED_AT}' where it is read"
    for table in _tables_above(manifest, name):
        yield f"is set, but table '{table}' of dbt reads its versions", "its staging model to be read there, which has all of them"


def _tables_above(manifest: Mapping[str, Any], name: str) -> list[str]:
    """The models that read a model and keep rows of their own; a view reads it anew each time."""
    children = (manifest["nodes"].get(child, {}) for child in manifest["child_map"][name])
    return [node["name"] for node in children if node.get("resource_type") == "model" and node["config"]["materialized"] != "view"]


def _readers(project: Project, table: str) -> Iterator[tuple[str, str | None]]:
    """Who reads a cleaned table, and the column that ends each version for them."""
    for view in project.views:
        if view.source.name == table:
            yield f"view '{view.name}'", view.source.superseded_at
    for model in project.models:
        if model.observations.table == table:
            versions = model.observations.versions
            yield f"the observations of model '{model.name}'", None if versions is None else versions.superseded_at
        if model.label.table == table:
            yield f"the label of model '{model.name}'", model.label.superseded_at


def versions_since(settings: Settings, table: str) -> datetime | None:
    """Since when (UTC) the warehouse keeps all versions of a cleaned table; None where it does for ever, or dbt has not built it."""
    from psycopg.sql import SQL, Identifier

    query = SQL("select since from {} where table_name = %s").format(Identifier(*names.VERSIONS_SINCE))
    with connections.warehouse(settings) as connection:
        if connection.execute("select to_regclass(%s)", [".".join(names.VERSIONS_SINCE)]).fetchone() == (None,):
            return None
        found = connection.execute(query, [table]).fetchone()
    return None if found is None else found[0].astimezone(UTC)
