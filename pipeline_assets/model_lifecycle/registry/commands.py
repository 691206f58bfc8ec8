"""The commands of the registry: `models list`, `history`, `promote`, `rollback`, `training-set`. What they need is loaded when they run."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_assets.core.errors import UserInputError
from pipeline_assets.core.names import train

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline_assets.model_lifecycle.registry.ledger import Entry
    from pipeline_assets.spec.models import Model

NAME = typer.Argument(help="Name of a model; may be left out where there is one only.", show_default=False)
ANY = typer.Argument(help="Name of a model. Default: all.", show_default=False)
JSON = typer.Option("--json", help="Print JSON.")
REASON = typer.Option(help="Why; it stays in the ledger.")
LIVE_FROM = typer.Option(help="Event time from which it counts, ISO 8601 with a zone. Default: the end of the newest day of vectors.")
WHY = "why, by whom, when"
FACTS = ("version", "state", "as of")
HISTORY = ("action", "version", "live from", WHY)
STYLES = {"promote": "green", "rollback": "yellow", "reject": "red"}


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    models = typer.Typer(no_args_is_help=True, help="Which version of a model is live, since when, and why.")
    models.command("list")(list_versions)
    for command in (history, promote, rollback, training_set):
        models.command()(command)
    app.add_typer(models, name="models")


def list_versions(name: Annotated[str | None, ANY] = None, *, as_json: Annotated[bool, JSON] = False) -> None:
    """Show the versions of a model, or of all models: state, training time and figures on the hold-out."""
    from pipeline_assets.core.settings import load_settings

    chosen = _declared() if name is None else [_model(name)]
    settings = load_settings()
    listed = {model.name: _versions(settings, model) for model in chosen}
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
        return
    for model in chosen:
        rows = [_version_cells(model.gate.metric, row) for row in listed[model.name]]
        _print(model.name, f"No version yet. Run the job {train(model.name)} first.", _version_columns(model), rows)


def history(name: Annotated[str | None, NAME] = None, *, as_json: Annotated[bool, JSON] = False) -> None:
    """Show every decision on a model, newest first: what went live, from which event time on, by whom, and why."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.registry import ledger

    model = _model(name)
    entries = ledger.history(load_settings(), model)
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2, default=datetime.isoformat))
        return
    _print(model.name, "Nothing was ever decided.", HISTORY, [_entry_cells(entry) for entry in reversed(entries)])


def promote(
    name: Annotated[str, typer.Argument(help="Name of a model.")],
    version: Annotated[int, typer.Argument(min=1, help="The version that is to go live.")],
    *,
    reason: Annotated[str, REASON],
    force: Annotated[bool, typer.Option("--force", help="Although the gate rejected it.")] = False,
    live_from: Annotated[str | None, LIVE_FROM] = None,
) -> None:
    """Make a version live by hand."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.registry import by_hand

    model, since = _model(name), _instant(live_from)
    entry = by_hand.promote(load_settings(), model, version, actor=getuser(), reason=reason, is_forced=force, live_from=since)
    _show_live(model, entry)


def rollback(
    name: Annotated[str | None, NAME] = None,
    *,
    to: Annotated[int | None, typer.Option(min=1, help="The version to go back to. Default: the one that was live before.")] = None,
    reason: Annotated[str, REASON] = "Rolled back by hand.",
    live_from: Annotated[str | None, LIVE_FROM] = None,
) -> None:
    """Make the version live again that was live before."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.registry import by_hand

    model, since = _model(name), _instant(live_from)
    _show_live(model, by_hand.roll_back(load_settings(), model, actor=getuser(), reason=reason, to=to, live_from=since))


def training_set(
    name: Annotated[str, typer.Argument(help="Name of a model.")],
    *,
    out: Annotated[Path, typer.Option(help="Where the rows go: a .parquet or .csv file.")],
    version: Annotated[int | None, typer.Option(min=1, help="The version that was learned from it.")] = None,
    digest: Annotated[str | None, typer.Option("--id", help="SHA-256 of a training set, as Dagster shows it.")] = None,
) -> None:
    """Write the vectors and labels that a version was learned from, as they were then, whatever was corrected since."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.feature_store import spine_files
    from pipeline_assets.model_lifecycle.registry import versions
    from pipeline_assets.model_lifecycle.training import archive

    model, settings = _model(name), load_settings()
    spine_files.check_output(out)
    if (version is None) == (digest is None):
        raise UserInputError("Give either --version or --id: one of them says which training set is meant.")
    chosen = versions.load(settings, model, version).contract.training_set_sha256 if version is not None else digest
    record = archive.find(settings, model, digest=chosen)
    spine_files.write_table(archive.read(settings, record), out)
    typer.echo(f"{record.rows:,} rows as of {record.as_of.isoformat()}, training set {record.sha256}: {out}")


def _declared() -> "tuple[Model, ...]":
    from pipeline_assets.core.declarations import load_project

    return load_project().models


def _model(name: str | None) -> "Model":
    """The declared model of that name, or the only one; raises UnknownName, or UserInputError where no name says which of several."""
    from pipeline_assets.core.declarations import load_project

    if name is not None:
        return load_project().model(name)
    known = _declared()
    if len(known) != 1:
        raise UserInputError(f"Name one of the {len(known)} models: {', '.join(model.name for model in known)}.")
    return known[0]


def _instant(text: str | None) -> datetime | None:
    from pipeline_assets.model_lifecycle.training.inputs import parse_instant

    return parse_instant("--live-from", text)


def _versions(settings: Any, model: "Model") -> list[dict[str, Any]]:
    """The versions with their state: live, previous, rejected, or as they stand."""
    from pipeline_assets.model_lifecycle.registry import ledger, versions

    entries = ledger.history(settings, model)
    line = ledger.ancestry(entries)
    states: dict[int, str] = {entry.version: _state(entry) for entry in entries}
    states |= dict.fromkeys(line[:-1], "was live") | dict.fromkeys(line[-2:-1], "previous") | dict.fromkeys(line[-1:], "live")
    return [{**asdict(each), "state": states.get(each.version, "not judged")} for each in versions.registered(settings, model)]


def _state(entry: "Entry") -> str:
    return "rejected" if entry.action == "reject" else "rolled back"


def _version_columns(model: "Model") -> tuple[str, ...]:
    """The metric of the model's gate, that of the baseline, and the calibration error, which every task has."""
    return (*FACTS, model.gate.metric, "baseline", "calibration")


def _version_cells(metric: str, row: dict[str, Any]) -> list[str]:
    found = [row["metrics"].get(name) for name in (metric, f"baseline_{metric}", "calibration_error")]
    figures = ["–" if value is None else f"{value:.4f}" for value in found]
    state = {"live": "[bold green]live[/]", "rejected": "[red]rejected[/]"}.get(row["state"], row["state"])
    return [str(row["version"]), state, row["as_of"][:16].replace("T", " "), *figures]


def _entry_cells(entry: "Entry") -> list[str]:
    from rich.markup import escape

    action = f"[{STYLES[entry.action]}]{entry.action}[/]"
    before = "" if entry.previous_version is None else f" (was {entry.previous_version})"
    why = f"{escape(entry.reason)}\n[dim]{escape(entry.actor)}, {entry.recorded_at:%Y-%m-%d %H:%M}[/]"
    since = "" if entry.action == "reject" else f"{entry.live_from:%Y-%m-%d %H:%M}"
    return [action, f"{entry.version}{before}", since, why]


def _print(title: str, empty: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console

    table = _table(title, columns)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if table.row_count:
        console.print(table)
    else:
        console.print(f"[bold]{title}[/]: {empty}")


def _table(title: str, columns: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        is_figure = column not in {*FACTS, *HISTORY}
        table.add_column(column, overflow="fold", no_wrap=column != WHY, justify="right" if is_figure else "left")
    return table


def _show_live(model: "Model", entry: "Entry") -> None:
    before = "nothing" if entry.previous_version is None else f"version {entry.previous_version}"
    typer.echo(f"{model.name}: version {entry.version} is live from {entry.live_from.isoformat()} on; before it was {before}.")
    typer.echo(f"To score with it, materialize packages/{model.name} and predictions/{model.name}.")
