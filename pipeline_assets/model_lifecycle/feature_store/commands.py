"""The commands of the feature store: what `pipeline features` lists, shows and computes. What they need is loaded when they run."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_assets.core.names import FEATURE_HASH, LINEAGE_PATH
from pipeline_assets.model_lifecycle.feature_store.online import commands as online

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage
    from pipeline_assets.model_lifecycle.feature_store.listing import ListedFeature
    from pipeline_assets.model_lifecycle.feature_store.old_days import OldDay
    from pipeline_assets.processing.cleaning.references import References

STALE_COLUMNS = ("day", "rows that differ, at most", "gained", "lost", "columns", "inputs changed")


def register(app: typer.Typer) -> typer.Typer:
    """Add the commands to the app; the group that they are in, for those that are below it and later on the way of a row."""
    features = typer.Typer(no_args_is_help=True, help="What features there are, and what they were at any time.")
    features.command("list")(list_features)
    features.command()(show)
    features.command()(impact)
    features.command()(lineage)
    features.command()(historical)
    features.command()(stale)
    features.command()(online.parity)
    online.register(features)
    app.add_typer(features, name="features")
    return features


def list_features(
    text: Annotated[str, typer.Argument(help="Only those with this text in their name, source or description.")] = "",
    *,
    model: Annotated[str | None, typer.Option(help="Only those that a model uses.")] = None,
    view: Annotated[str | None, typer.Option(help="Only those of a view, or of the request.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False,
) -> None:
    """Show each feature with its description, by its view: source, freshness, models that use it, and owner."""
    from dataclasses import asdict

    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.model_lifecycle.feature_store import listing
    from pipeline_assets.processing.cleaning.models import read_models

    project = load_project()
    listed = listing.chosen(listing.list_features(project, read_models(project).references), text, model, view)
    if as_json:
        typer.echo(json.dumps([asdict(feature) for feature in listed], indent=2))
    else:
        _show(listed)


def show(
    name: Annotated[str, typer.Argument(help="A feature, or a view for all of its features.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False,
) -> None:
    """Show a feature: its declaration, the way down to dbt columns and sources, and the models that use it with their predictions."""
    from dataclasses import asdict

    from pipeline_assets.model_lifecycle.feature_store import description, trees

    lineage, references = _lineage()
    found = description.describe(lineage, references, name)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    for one in found:
        _console().print(trees.feature_tree(one), highlight=False)


def impact(
    column: Annotated[str, typer.Argument(help="<contract>.<field>, <dbt model>.<column> or <schema>.<table>.<column>.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object.")] = False,
) -> None:
    """Show every dbt column, feature, label, model and table of predictions that depends on a column, or that nothing does."""
    from dataclasses import asdict

    from pipeline_assets.model_lifecycle.feature_store import impact, trees

    lineage, _ = _lineage()
    found = impact.impact_of(lineage, column)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        _console().print(trees.impact_tree(found), highlight=False)


def lineage(*, out: Annotated[Path, typer.Option(help="The HTML file; its folder must be there.")] = Path("lineage.html")) -> None:
    """Write one page with the lineage of all columns: from each field of a source on to predictions, and from each feature back."""
    from pipeline_assets.model_lifecycle.feature_store.lineage_page import lineage_page

    out.write_text(lineage_page(*_lineage()), encoding="utf-8")
    typer.echo(f"Wrote {out}. The web server shows the same page at {LINEAGE_PATH}.")


def _lineage() -> "tuple[ProjectLineage, References]":
    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage
    from pipeline_assets.processing.cleaning.dbt import project_folder
    from pipeline_assets.processing.cleaning.lineage import read_lineage
    from pipeline_assets.processing.cleaning.models import read_models

    project = load_project()
    return ProjectLineage(project=project, dbt=read_lineage(project_folder())), read_models(project).references


def historical(
    *,
    model: Annotated[str, typer.Option(help="Whose features: the name of a model.")],
    spine: Annotated[Path, typer.Option(help="Entity keys and decision_at, one row per question: a .parquet or .csv file.")],
    out: Annotated[Path, typer.Option(help="Where the rows go, in their order, with their features: a .parquet or .csv file.")],
) -> None:
    """Compute for each row of a spine what every feature was at its decision_at, from what was known by then."""
    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.feature_store import offline, spine_files

    project = load_project()
    declared = project.model(model)
    spine_files.check_output(out)
    rows = spine_files.read_spine(spine)
    notices: list[str] = []
    with _progress(offline.steps(declared) + 1) as on_step:
        found = offline.historical_features(
            load_settings(), project, model, rows, name=str(spine), on_step=on_step, on_notice=notices.append
        )
        on_step(f"Writing {out}")
        spine_files.write_table(found, out)
    _report(f"{found.num_rows:,} rows with {found.num_columns - rows.num_columns} features: {out}", notices)


def stale(
    *,
    model: Annotated[str, typer.Option(help="Whose vectors: the name of a model.")],
    first: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (UTC). Default: the first with vectors.")] = None,
    last: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day (UTC). Default: the last with vectors.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False,
) -> None:
    """Show exactly the days whose vectors would come out otherwise if they were made again, as a version came late for them."""
    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.core.names import build_features
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.feature_store import old_days

    project, settings = load_project(), load_settings()
    declared = project.model(model)
    days = old_days.days_in_question(settings, declared, first and first.date(), last and last.date())
    with _progress(old_days.steps(days)) as on_step:
        found = list(old_days.stale_days(settings, project, declared, days, on_step))
    if as_json:
        typer.echo(json.dumps([_stale_facts(one) for one in found], indent=2))
        return
    _show_stale(found, f"{len(found)} of {len(days)} days whose inputs have changed are stale")
    if found:
        job = build_features(project.home_of_model(declared).name)
        _report(f"Materialize them again by the job {job}.", [])


def _stale_facts(one: "OldDay") -> dict[str, object]:
    parity = one.parity
    return {
        "day": str(parity.day),
        "rows": parity.rows,
        "differing": dict(parity.differing),
        "decisions_gained": parity.gained,
        "decisions_lost": parity.lost,
        "inputs_changed": list(one.inputs_changed),
    }


def _show_stale(found: "Sequence[OldDay]", title: str) -> None:
    from rich.table import Table

    table = Table(*STALE_COLUMNS, title=title, title_justify="left", header_style="bold", row_styles=("", "dim"))
    for one in found:
        parity = one.parity
        most = max(parity.differing.values(), default=0)
        columns = ", ".join(name for name in parity.differing if name != FEATURE_HASH)
        counts = (f"{most:,} of {parity.rows:,}", str(parity.gained), str(parity.lost))
        table.add_row(str(parity.day), *counts, columns, ", ".join(one.inputs_changed))
    _console().print(table)


def _show(listed: "Sequence[ListedFeature]") -> None:
    from itertools import groupby

    from rich.table import Table

    console = _console()
    console.print(f"{len(listed)} features", style="bold", highlight=False)
    for heading, features in groupby(listed, _heading):
        table = Table(title=f"\n{heading}", title_justify="left", title_style="bold", box=None, show_header=False)
        for one in features:
            table.add_row(one.name, one.description)
        console.print(table, highlight=False)


def _heading(one: "ListedFeature") -> str:
    """What the features of a view have in common."""
    by = f" by {one.entity}" if one.entity is not None else ""
    age = f", whose newest row may be {one.freshness} old" if one.freshness is not None else ""
    now = f", of which the present alone is known ({', '.join(one.current_value_only)})" if one.current_value_only else ""
    return f"{one.view}{by}, from {one.source}{age}{now}; used by {', '.join(one.models) or 'no model'}; {one.owner}"


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    """A bar on standard error, and the function that names the next step and moves the bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Starting", total=steps)
        begun = iter(range(steps))
        yield lambda step: progress.update(task, description=step, completed=next(begun, steps))


def _report(done: str, notices: Sequence[str]) -> None:
    """What was done on standard output, notices on standard error."""
    from rich.console import Console

    _console().print(done, highlight=False, markup=False)
    for notice in notices:
        Console(stderr=True, soft_wrap=True).print(notice, style="yellow", highlight=False, markup=False)


def _console() -> "Console":
    """Standard output; without a terminal as wide as the widest row, so that nothing is cut off in a pipe."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    return console if console.is_terminal else Console(width=240, soft_wrap=True)
