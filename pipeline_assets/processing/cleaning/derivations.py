"""How the rows of a cleaned table follow from those of one raw table: the compiled SQL of dbt itself, as temporary views of any Postgres.

A session of the online store makes the raw rows at hand a temporary view, and each model from staging to the cleaned table one above it,
with the text that dbt compiled. Only the names of relations are others. So there is no second derivation that could differ.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

from pipeline_assets.core import names
from pipeline_assets.core.errors import NotDerivable
from pipeline_assets.processing.cleaning.dbt import SESSION
from pipeline_assets.processing.cleaning.manifest import ALL, NOT_COMPILED

VERSIONS_OF = "versions_of"
# dbt makes a table with the declared types of its columns, whatever its query has; a view has those of its query.
AS_TABLE = ("table", "incremental")
BUILT_AS = ("view", *AS_TABLE)
KNOWN_AT = "known_at"


class Step(NamedTuple):
    """A model: its relation as dbt writes it, its name, which the temporary view has, and its SQL."""

    relation: str
    name: str
    sql: str


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """The chain of models from a raw table to a cleaned one.

    table: the cleaned table. source: the contract of the raw one, whose relation is `raw_relation`. steps: the models in order, the
    cleaned one last. keys: columns of the cleaned table that identify a row, whatever version of it; none where its model has no
    `unique_key`. key_of_raw: the columns of the raw table by which its versions belong together, all of which have to be at hand for a
    key; None where it is not known.
    """

    table: str
    source: str
    raw_relation: str
    steps: tuple[Step, ...]
    keys: tuple[str, ...]
    key_of_raw: tuple[str, ...] | None

    @property
    def raw_name(self) -> str:
        """The name of the temporary view of raw rows."""
        return _name_of(self.raw_relation)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all that the rows depend on: another text of a model is another derivation."""
        found = sha256()
        for part in (self.table, self.source, *self.keys, *(part for step in self.steps for part in (step.name, local(self, step.sql)))):
            found.update(part.encode() + b"\0")
        return found.hexdigest()


class Chain(NamedTuple):
    """The models from the one above a raw table to a cleaned one, as dbt's nodes, and the raw table; None where there is no such one."""

    models: tuple[Mapping[str, Any], ...]
    raw: Mapping[str, Any] | None
    problems: tuple[tuple[str, str], ...]


def derivation_of(manifest: Mapping[str, Any], table: str) -> Derivation:
    """How the rows of a cleaned table, by its name, are derived. Whether they are row by row `row_by_row.problems` says.

    Raises NotDerivable where there is no chain of compiled models from exactly one raw table.
    """
    chain = chain_of(manifest, table)
    if chain.raw is None or chain.problems:
        raise NotDerivable(table, [f"model '{model}' {problem}" for model, problem in chain.problems])
    cleaned, raw = chain.models[-1], chain.raw
    key = cleaned["config"].get("unique_key") or ()
    keys = tuple(one for one in ([key] if isinstance(key, str) else key) if one != KNOWN_AT)
    return Derivation(
        table=table,
        source=raw["name"],
        raw_relation=raw["relation_name"],
        steps=tuple(Step(model["relation_name"], model["name"], as_built(model)) for model in chain.models),
        keys=keys,
        key_of_raw=_key_of_raw(manifest, chain.models, raw, keys),
    )


def statements(derivation: Derivation, raw_view_sql: str) -> list[str]:
    """What a session executes once: its settings, a temporary view of the raw rows by the given select, and one of each model above it.

    The last has the name of the cleaned table. The select has the columns of the raw table, in their order and of their types, and gives
    all stored versions of each key (`key_of_raw`) of which it gives any. It may read temporary tables that are filled anew each time.
    """
    settings = [f"set {name} to '{value}'" for name, value in SESSION.items()]
    views = [(derivation.raw_name, raw_view_sql), *((step.name, local(derivation, step.sql)) for step in derivation.steps)]
    return [*settings, *(f"create temporary view {quoted(name)} as\n{sql}" for name, sql in views)]


def local(derivation: Derivation, sql: str) -> str:
    """The SQL of a model with the relations of the chain as those of the session."""
    for relation in (derivation.raw_relation, *(step.relation for step in derivation.steps)):
        sql = sql.replace(relation, f"pg_temp.{quoted(_name_of(relation))}")
    return sql


def quoted(name: str) -> str:
    """A name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def chain_of(manifest: Mapping[str, Any], table: str) -> Chain:
    """The models from a raw table to a cleaned one, and what keeps them from being a chain, by the name of the model."""
    model = next((node for node in manifest["nodes"].values() if _is_cleaned(node, table)), None)
    models: list[Mapping[str, Any]] = []
    problems: list[tuple[str, str]] = [] if model is not None else [(table, "is not a cleaned model of dbt")]
    raw = None
    while model is not None:
        models.insert(0, model)
        problems += [(model["name"], problem) for problem in _problems_of(manifest, model)]
        parents = model["depends_on"]["nodes"]
        raw = manifest["sources"].get(parents[0]) if len(parents) == 1 else None
        model = manifest["nodes"].get(parents[0]) if len(parents) == 1 else None
    found = [one["name"] for one in (*models, *([raw] if raw is not None else []))]
    problems += [(name, "has the name of another relation of its chain") for name in sorted({one for one in found if found.count(one) > 1})]
    return Chain(tuple(models), raw, tuple(problems))


def as_built(model: Mapping[str, Any]) -> str:
    """The query whose rows a model has when dbt has built it: those of a table are cast to its declared types."""
    sql: str = model["compiled_code"]
    if model["config"]["materialized"] not in AS_TABLE or not model["config"].get("contract", {}).get("enforced"):
        return sql
    columns = ", ".join(f"{_column(one)}::{one['data_type']} as {_column(one)}" for one in model["columns"].values())
    return f"select {columns}\nfrom (\n{sql}\n) as model_subq"


def versions_block(manifest: Mapping[str, Any], sql: str, relation: str) -> "re.Match[str] | None":
    """Where the SQL of a model has what the macro `versions_of` renders for a relation, to the letter; the group `key` has its key."""
    macro = manifest["macros"].get(f"macro.{manifest['metadata']['project_name']}.{VERSIONS_OF}")
    if macro is None:
        return None
    from jinja2 import Environment

    key, known_at = "the_key_of_versions", "the_known_at_of_versions"
    made = Environment(autoescape=False).from_string(macro["macro_sql"]).module  # noqa: S701 - SQL
    text = re.escape(str(getattr(made, VERSIONS_OF)(rows=relation, key=[key], known_at=known_at)))
    one = r'(?:[a-z_][a-z0-9_]*|"[^"]+")'
    for name, pattern in ((key, rf"(?P<key>{one}(?:, {one})*)"), (known_at, f"(?P<known_at>{one})")):
        text = text.replace(name, pattern, 1).replace(name, f"(?P={'key' if name == key else 'known_at'})")
    return re.search(text, sql)


def _problems_of(manifest: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a model from being one of a chain."""
    parents, config = model["depends_on"]["nodes"], model["config"]
    if config["materialized"] not in BUILT_AS or model["language"] != "sql":
        yield f"is built as {config['materialized']} in {model['language']}, expected SQL as {', '.join(BUILT_AS)}"
    elif model.get("compiled_code") is None:
        failed = manifest["metadata"].get(NOT_COMPILED, {})
        words = failed.get(model["name"]) or failed.get(ALL) or "it was not asked to"
        yield f"cannot be compiled by dbt without a connection, as where it queries the warehouse or asks `is_incremental()` ({words})"
    if config.get("sql_header"):
        yield "has a sql_header"
    if len(parents) != 1:
        yield f"reads {len(parents)} relations ({', '.join(one.rpartition('.')[2] for one in parents)}), expected one"
    elif parents[0] in manifest["sources"] and manifest["sources"][parents[0]]["schema"] != names.RAW:
        yield f"reads {manifest['sources'][parents[0]]['relation_name']}, expected a raw table"


def _key_of_raw(
    manifest: Mapping[str, Any], models: Sequence[Mapping[str, Any]], raw: Mapping[str, Any], keys: tuple[str, ...]
) -> tuple[str, ...] | None:
    """The key of the versions, by the macro; without it the key of the cleaned table, where the raw table has columns of that name."""
    block = versions_block(manifest, models[0]["compiled_code"], raw["relation_name"])
    if block is not None:
        return tuple(one.strip('"') for one in block["key"].split(", "))
    return keys if keys and set(keys) <= raw["columns"].keys() else None


def _is_cleaned(node: Mapping[str, Any], table: str) -> bool:
    return bool(node["resource_type"] == "model" and node["schema"] == names.CLEANED and node["name"] == table)


def _column(column: Mapping[str, Any]) -> str:
    return quoted(column["name"]) if column.get("quote") else str(column["name"])


def _name_of(relation: str) -> str:
    """The last part of the name of a relation, as dbt writes it: `"db"."schema"."name"`."""
    return relation.rpartition('."')[2].removesuffix('"')
