"""The lineage of the columns of dbt models, from cleaned tables down to the columns of raw tables, which are those of contracts.

`column_lineage.py` reads it off the compiled SQL; it is kept beside the manifest, and read again from there until the manifest changes.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pipeline_assets.core.names import AssetName
from pipeline_assets.processing.cleaning.manifest import ensure_manifest, read_manifest

# Whoever reads lineage otherwise makes other files of it.
MAKERS = ("lineage.py", "column_lineage.py", "clocks.py")

SourceColumn = tuple[AssetName, str]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ColumnOrigin:
    """The columns of tables that one column is computed from.

    same_row: those whose value of the same row counts. other_rows: those that come by a window, an aggregate or a query of its own alone.
    expression: how it is computed, in SQL without the names of tables; empty where it is only renamed.
    """

    expression: str = ""
    same_row: tuple[SourceColumn, ...] = ()
    other_rows: tuple[SourceColumn, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelColumns:
    """The columns of a dbt model by name; `file` is that of its SQL, from the dbt project on.

    decided_by: the columns of tables by which its rows are joined, kept or grouped. joined: pairs of these that joins want equal.
    clocks: what of it takes the time of the wall clock.
    unread: why its SQL could not be read, so that its columns have no origins; None where it could.
    """

    columns: Mapping[str, ColumnOrigin]
    file: str = ""
    decided_by: tuple[SourceColumn, ...] = ()
    joined: tuple[tuple[SourceColumn, SourceColumn], ...] = ()
    clocks: tuple[str, ...] = ()
    unread: str | None = None


@dataclass(frozen=True, kw_only=True)
class Behind:
    """What is behind a column, however many tables lie between.

    same_row: columns of raw tables that it is computed from in the same row. computed: those, and what comes of other rows. decided: the
    columns that decide rows on the way.
    """

    same_row: frozenset[SourceColumn] = frozenset()
    computed: frozenset[SourceColumn] = frozenset()
    decided: frozenset[SourceColumn] = frozenset()


@dataclass(frozen=True, kw_only=True)
class DbtLineage:
    """The models of a dbt project by their tables."""

    models: Mapping[AssetName, ModelColumns] = field(default_factory=dict)

    def origin(self, column: SourceColumn) -> ColumnOrigin | None:
        """What a column of a model is computed from; None where no model has it, as for those of raw tables."""
        table, name = column
        model = self.models.get(table)
        return None if model is None else model.columns.get(name)

    def read_by(self, table: AssetName) -> dict[str, tuple[SourceColumn, ...]]:
        """By column of a model, the columns of other tables that it is computed from; nothing for a table that no model builds."""
        model = self.models.get(table)
        return {} if model is None else {name: self.parents((table, name)) for name in model.columns}

    def behind(self, columns: Iterable[SourceColumn]) -> Behind:
        """The columns of raw tables behind columns of models; a column that no model has is its own origin."""
        found = reached(((column, True) for column in columns), self._in_row)
        made = {column for column, _ in found if self.origin(column) is not None}
        roots = [(column, is_same_row) for column, is_same_row in found if column not in made]
        decided = (by for table in {table for table, _ in made} for by in self.models[table].decided_by)
        return Behind(
            same_row=frozenset(column for column, is_same_row in roots if is_same_row),
            computed=frozenset(column for column, _ in roots),
            decided=frozenset(one for one in reached(decided, self.parents) if self.origin(one) is None),
        )

    def parents(self, column: SourceColumn) -> tuple[SourceColumn, ...]:
        """The columns that one is computed from directly."""
        origin = self.origin(column)
        return () if origin is None else (*origin.same_row, *origin.other_rows)

    def tables_below(self, table: AssetName) -> tuple[AssetName, ...]:
        """A table and all models that it reads columns of, directly or through others; the nearest first."""
        return tuple(one for one in reached([table], self._tables_read) if one in self.models)

    def _in_row(self, node: tuple[SourceColumn, bool]) -> list[tuple[SourceColumn, bool]]:
        """The parents of a column, each with whether it reaches the value within a row."""
        column, is_same_row = node
        origin = self.origin(column) or ColumnOrigin()
        return [*((one, is_same_row) for one in origin.same_row), *((one, False) for one in origin.other_rows)]

    def _tables_read(self, table: AssetName) -> list[AssetName]:
        model = self.models.get(table)
        if model is None:
            return []
        read = (column for columns in self.read_by(table).values() for column in columns)
        return sorted({parent for parent, _ in (*read, *model.decided_by)})


def reached(first: Iterable[T], further: Callable[[T], Iterable[T]]) -> list[T]:
    """All that some nodes of a graph lead to, themselves among it, each once; the nearest first."""
    found = dict.fromkeys(first)
    left = deque(found)
    while left:
        new = [one for one in further(left.popleft()) if one not in found]
        left += dict.fromkeys(new)
        found |= dict.fromkeys(new)
    return list(found)


def read_lineage(dbt_project: Path) -> DbtLineage:
    """The lineage of a dbt project; read off its compiled SQL first (a second) where it is not kept yet. Raises DbtProjectMalformed."""
    manifest = ensure_manifest(dbt_project)
    return _kept(dbt_project, manifest.with_name("column_lineage.json"), manifest.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _kept(dbt_project: Path, kept: Path, _written_ns: int) -> DbtLineage:
    manifest = read_manifest(dbt_project)
    origin = {"manifest": manifest["metadata"]["invocation_id"], "sqlglot": version("sqlglot"), "code": _code()}
    found = load(kept, origin)
    if found is None:
        from pipeline_assets.processing.cleaning.column_lineage import model_columns

        found = DbtLineage(models=model_columns(manifest))
        store(kept, origin, found)
    return found


def _code() -> str:
    """A digest of the code that finds lineage, and that keeps it."""
    return sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in MAKERS)).hexdigest()[:16]


def load(kept: Path, origin: Mapping[str, object]) -> DbtLineage | None:
    """What is kept, if it was made from this manifest; None where it was not, or cannot be read."""
    try:
        document = json.loads(kept.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if document.get("origin") != origin:
        return None
    return DbtLineage(models={(one["schema"], one["table"]): _model(one) for one in document["models"]})


def _model(one: Mapping[str, Any]) -> ModelColumns:
    columns = {
        name: ColumnOrigin(
            expression=found["expression"], same_row=_columns(found["same_row"]), other_rows=_columns(found["other_rows"])
        )
        for name, found in one["columns"].items()
    }  # fmt: skip
    return ModelColumns(
        columns=columns,
        file=one["file"],
        decided_by=_columns(one["decided_by"]),
        joined=tuple((left, right) for left, right in map(_columns, one["joined"])),
        clocks=tuple(one["clocks"]),
        unread=one["unread"],
    )


def _columns(listed: Iterable[Any]) -> tuple[SourceColumn, ...]:
    return tuple(((schema, table), column) for (schema, table), column in listed)


def store(kept: Path, origin: Mapping[str, object], found: DbtLineage) -> None:
    """Puts the file in place whole: two processes may write it at once."""
    models = [{"schema": schema, "table": table, **asdict(model)} for (schema, table), model in found.models.items()]
    written = kept.with_name(f"{kept.stem}-{os.getpid()}.json")
    written.write_text(json.dumps({"origin": origin, "models": models}), encoding="utf-8")
    written.replace(kept)
