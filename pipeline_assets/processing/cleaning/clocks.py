"""Where the SQL of a dbt model, or the Jinja around it, takes the time of the wall clock."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlglot import exp

from pipeline_assets.processing.cleaning.functions import CLOCK, CLOCK_WORDS

FUNCTIONS = (exp.CurrentDate, exp.CurrentDatetime, exp.CurrentTime, exp.CurrentTimestamp, exp.Localtime, exp.Localtimestamp)
JINJA = ("run_started_at", "datetime.now", "datetime.utcnow", "datetime.today", "date.today")


def clocks_in_sql(parsed: exp.Expr, dialect: str) -> tuple[str, ...]:
    """Each construct of a query that gives the time at which it runs, as it is written; `age` of one time counts from today."""
    found = (node for node in parsed.walk() if _is_clock(node))
    return tuple(dict.fromkeys(node.sql(dialect, comments=False) for node in found))


def _is_clock(node: exp.Expr) -> bool:
    if isinstance(node, FUNCTIONS):
        return True
    if isinstance(node, exp.Cast):
        is_word = isinstance(node.this, exp.Literal) and node.this.name.strip().lower() in CLOCK_WORDS
        return is_word and node.to.is_type(*exp.DataType.TEMPORAL_TYPES)
    name = node.name.lower() if isinstance(node, exp.Anonymous) else ""
    return name in CLOCK and (name != "age" or len(node.expressions) == 1)


def clocks_in_jinja(manifest: Mapping[str, Any], node: Mapping[str, Any]) -> tuple[str, ...]:
    """What the Jinja of a model, and of the macros of its project that it calls, says of the wall clock."""
    texts = [str(node.get("raw_code") or ""), *own_macros(manifest, node["depends_on"]["macros"])]
    return tuple(word for word in JINJA if any(word in text for text in texts))


def own_macros(manifest: Mapping[str, Any], called: list[str]) -> Iterator[str]:
    """The texts of macros of the project, with those that they call; dbt's own are not its business."""
    own = manifest["metadata"]["project_name"]
    yield from (macro["macro_sql"] for macro in _called(manifest, called) if macro["package_name"] == own)


def called_packages(manifest: Mapping[str, Any], node: Mapping[str, Any]) -> set[str]:
    """The packages other than the project whose macros a model or test calls, by macros of the project or by itself."""
    found = {macro["package_name"] for macro in _called(manifest, node["depends_on"]["macros"])}
    return found - {manifest["metadata"]["project_name"]}


def _called(manifest: Mapping[str, Any], called: list[str]) -> Iterator[Mapping[str, Any]]:
    """Macros that are called, and those that macros of the project among them call."""
    own, seen, left = manifest["metadata"]["project_name"], set[str](), list(called)
    while left:
        macro = manifest["macros"].get(name := left.pop())
        if macro is not None and name not in seen:
            seen.add(name)
            left += macro["depends_on"]["macros"] if macro["package_name"] == own else []
            yield macro
