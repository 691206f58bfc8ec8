"""The lineage of all columns as one page: from each field of a source on to predictions, and from each feature back to its sources."""

from collections.abc import Sequence
from html import escape
from io import StringIO
from itertools import groupby
from typing import NamedTuple

from rich.console import Console
from rich.tree import Tree

from pipeline_assets.model_lifecycle.feature_store.description import describe_all
from pipeline_assets.model_lifecycle.feature_store.impact import impact_of
from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage
from pipeline_assets.model_lifecycle.feature_store.trees import feature_tree, impact_tree
from pipeline_assets.processing.cleaning.references import References

# Lines longer than this are broken.
WIDTH = 400
STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}"
    "pre{font-size:13px;line-height:1.35;overflow-x:auto;margin:.3rem 0 1rem 1rem}"
    "summary{cursor:pointer;font-family:ui-monospace,monospace}"
    "h2{margin-top:2.5rem}h3{margin-bottom:.3rem}nav a{margin-right:1rem;white-space:nowrap}"
)


class Group(NamedTuple):
    """A contract or a view with the trees of its columns by name; `kind` is the first part of its anchor."""

    kind: str
    name: str
    trees: Sequence[tuple[str, Tree]]


def lineage_page(lineage: ProjectLineage, references: References) -> str:
    """A whole HTML page without scripts, which loads nothing; all that comes from declarations is escaped."""
    sources, views = _sources(lineage), _views(lineage, references)
    links = "".join(f'<a href="#{_anchor(group)}">{escape(group.name)}</a> ' for group in (*sources, *views))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Column lineage</title><style>{STYLE}</style></head><body><h1>Column lineage</h1>"
        "<p>From the fields of sources by way of raw tables, dbt, features, labels and training sets to predictions.</p>"
        f"<nav>{links}</nav>"
        f"<h2>Sources: what depends on each field</h2>{''.join(map(_group, sources))}"
        f"<h2>Features: what each is computed from, and who uses it</h2>{''.join(map(_group, views))}"
        "</body></html>\n"
    )


def _sources(lineage: ProjectLineage) -> list[Group]:
    return [
        Group("source", one.name, [(field.name, impact_tree(impact_of(lineage, f"{one.name}.{field.name}"))) for field in one.fields])
        for one in lineage.project.contracts
    ]


def _views(lineage: ProjectLineage, references: References) -> list[Group]:
    found = groupby(describe_all(lineage, references), lambda one: one.feature.view)
    return [Group("view", view, [(one.feature.name, feature_tree(one)) for one in features]) for view, features in found]


def _anchor(group: Group) -> str:
    return escape(f"{group.kind}-{group.name}", quote=True)


def _group(group: Group) -> str:
    found = "".join(f"<details><summary>{escape(name)}</summary><pre>{escape(_text(tree))}</pre></details>" for name, tree in group.trees)
    return f'<section id="{_anchor(group)}"><h3>{escape(group.name)}</h3>{found}</section>'


def _text(tree: Tree) -> str:
    """A tree as a terminal would show it, without colours."""
    text = StringIO()
    Console(file=text, width=WIDTH, force_terminal=False, color_system=None, soft_wrap=True).print(tree, highlight=False)
    return text.getvalue().rstrip()
