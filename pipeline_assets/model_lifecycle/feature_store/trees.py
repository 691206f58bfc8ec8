"""Lineage as trees for a terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.tree import Tree

from pipeline_assets.core.names import PREDICTIONS

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.feature_store.description import DescribedFeature
    from pipeline_assets.model_lifecycle.feature_store.impact import Dependents, Impact
    from pipeline_assets.model_lifecycle.feature_store.origins import Origin


def feature_tree(described: "DescribedFeature") -> Tree:
    """A feature: what it is, what it is computed from, what decides its rows, and who uses it."""
    feature = described.feature
    tree = Tree(f"[bold]{feature.name}[/]  {escape(feature.description)}")
    facts = {
        "view": feature.view,
        "entity": feature.entity,
        "type": feature.type,
        "aggregate": feature.aggregate,
        "window": feature.window,
        "freshness": feature.freshness,
        "owner": feature.owner,
        "current value only": ", ".join(feature.current_value_only),
    }
    tree.add(", ".join(f"{name} {value}" for name, value in facts.items() if value))
    below = tree.add("computed from" if described.computed_from else "computed from no column: rows as such count")
    for origin in described.computed_from:
        _add_origin(below, origin)
    _add_columns(tree.add("its rows decided by"), described.rows_decided_by)
    users = tree.add("used by" if described.used_by else "used by no model")
    for user in described.used_by:
        users.add(f"model {user.model} ({user.use_case}, {user.owner}): {escape(user.question)}").add(f"table {user.predictions}")
    return tree


def impact_tree(impact: "Impact") -> Tree:
    """A column: where it comes from, and all that depends on it."""
    tree = Tree(f"[bold]{_origin(impact.column)}[/]")
    if impact.is_empty:
        tree.add("nothing depends on it")
    _add_dependents(tree, "computed from it", impact.computed_from_it)
    _add_dependents(tree, "its rows kept, joined or distinguished by it", impact.rows_decided_by_it)
    if not impact.models and not impact.is_empty:
        tree.add("no feature, label, model or prediction depends on it")
    if impact.models:
        models = tree.add("models that learn from any of that")
        for model, table in impact.models.items():
            models.add(f"{model}, whose {PREDICTIONS} stand in {table}")
    for table, reason in impact.unread.items():
        tree.add(f"[yellow]not known through {table}, whose SQL cannot be read: {escape(reason)}[/]")
    return tree


def _add_dependents(tree: Tree, title: str, found: "Dependents") -> None:
    if found.is_empty:
        return
    branch = tree.add(title)
    parts: Mapping[str, Mapping[str, Sequence[str]]] = {
        "dbt columns": found.columns,
        "labels": found.labels,
        "decisions": found.decisions,
        "slices": found.slices,
    }
    for name, columns in parts.items():
        if columns:
            _add_columns(branch.add(name), columns)
    if found.features:
        features = branch.add("features")
        for feature in found.features:
            features.add(feature)


def _add_columns(tree: Tree, columns: Mapping[str, Sequence[str]]) -> None:
    for table, names in columns.items():
        tree.add(f"{table}: {', '.join(names)}")


def _add_origin(tree: Tree, origin: "Origin") -> None:
    branch = tree.add(_origin(origin))
    for below in origin.computed_from:
        _add_origin(branch, below)


def _origin(origin: "Origin") -> str:
    facts = [escape(fact) for fact in (origin.type, origin.source, origin.description) if fact]
    rows = ", over other rows" if origin.of_other_rows else ""
    computed = f" = {escape(origin.expression)}" if origin.expression else ""
    return f"{origin.column}{computed}{rows}" + (f"  ({'; '.join(facts)})" if facts else "")
