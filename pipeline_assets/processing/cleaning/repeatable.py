"""Which models of dbt give the same whenever they are built of the same rows, and so may be left as they are while those do not change.

A list of what is allowed, and not of what is not: a function or a relation that is not known may give or hold anything. Who is refused is
built each time, as before.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pipeline_assets.processing.cleaning import retention
from pipeline_assets.processing.cleaning.clocks import JINJA, called_packages, own_macros
from pipeline_assets.processing.cleaning.functions import CLOCK, CLOCK_WORDS, OF_ROWS, RANDOM, SESSIONS
from pipeline_assets.processing.cleaning.row_by_row import WITHOUT_PARENTHESES, odd_calls, odd_values, tokens_of

# A table that is added to would have its rows twice, and only dbt knows what others do.
BUILT_AS = frozenset(("view", "table"))
# The hooks of the project, each of which gives the same again.
HOOKS = frozenset(f"{{{{ {name}() }}}}" for name in (
    "lock_this", "note_made_anew", "begin_versions_anew", "drop_old_versions", "analyze_this",
))  # fmt: skip
# What Jinja reads beside the project: the environment, the clock, the warehouse.
BESIDE = re.compile("|".join([*map(re.escape, JINJA), r"\b(?:env_var|var|run_query|statement|invocation_id|modules\s*\.\s*(?!re\b))"]))
# The same in the text of a test, which is compiled by the run alone.
ODD_CALLS = re.compile(
    rf"\b(?:{'|'.join(sorted(CLOCK | RANDOM | SESSIONS))})\s*\(|\b(?:{'|'.join(sorted(WITHOUT_PARENTHESES))})\b"
    rf"|'\s*(?:{'|'.join(sorted(CLOCK_WORDS))})\s*'",
    re.IGNORECASE,
)
# Whose macros are known beside those of the project.
KNOWN_PACKAGES = frozenset(("dbt", "dbt_postgres"))


def is_repeatable(manifest: Mapping[str, Any], model: str, tests: Collection[str]) -> bool:
    """Whether a model, and the tests of it, give the same of the same rows: as far as is known, so that a doubt is a no."""
    node = manifest["nodes"][model]
    return (
        node["resource_type"] == "model"
        and node["language"] == "sql"
        and node["config"]["materialized"] in BUILT_AS
        and retention.kept_versions(node) is None
        and {hook["sql"] for when in ("pre-hook", "post-hook") for hook in node["config"][when]} <= HOOKS
        and not any(BESIDE.search(text) for text in _jinja(manifest, node))
        and all(called_packages(manifest, one) <= KNOWN_PACKAGES for one in (node, *(manifest["nodes"][test] for test in tests)))
        and _reads_declared_rows(manifest, node)
        and not any(BESIDE.search(text) or ODD_CALLS.search(text) for test in tests for text in _test(manifest, manifest["nodes"][test]))
    )


def _jinja(manifest: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[str]:
    yield str(node["raw_code"])
    yield from own_macros(manifest, node["depends_on"]["macros"])


def _test(manifest: Mapping[str, Any], test: Mapping[str, Any]) -> Iterator[str]:
    """The text of a test, of the macros that it calls, and what YAML gives them, wherever that stands."""
    yield from _jinja(manifest, test)
    yield " ".join(map(str, test["config"].values()))
    yield str((test.get("test_metadata") or {}).get("kwargs", {}))


def _reads_declared_rows(manifest: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether the SQL of a model calls only what is known, and reads only what dbt knows that it reads."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    sql = node.get("compiled_code")
    if sql is None:
        return False
    try:
        tokens, tree = tokens_of(sql), sqlglot.parse_one(sql, dialect="postgres")
    except SqlglotError:
        return False
    parents = [manifest["sources"].get(one) or manifest["nodes"][one] for one in node["depends_on"]["nodes"]]
    known = {str(parent["relation_name"]).replace('"', "") for parent in parents} | {cte.alias for cte in tree.find_all(exp.CTE)}
    read = (table for table in tree.find_all(exp.Table) if isinstance(table.this, exp.Identifier))
    is_declared = all(".".join(part.name for part in table.parts) in known for table in read)
    with_columns = {cte.alias.lower() for cte in tree.find_all(exp.CTE) if cte.args["alias"].columns}
    is_odd = any(True for _ in odd_calls(tokens, OF_ROWS | with_columns)) or any(True for _ in odd_values(tokens))
    return is_declared and not is_odd and "tablesample" not in {token.text.lower() for token in tokens}
