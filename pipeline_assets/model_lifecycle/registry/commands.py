"""The commands of the registry: `models list`, `history`, `promote`, `rollback`, `shadow`, `canary`, `stop`, `training-set`, `alias-…`.

What they need is loaded when they run.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline_assets.core.accounts import account_name
from pipeline_assets.core.errors import UserInputError
from pipeline_assets.core.foreign import LONGEST_SENTENCE, shown
from pipeline_assets.core.names import train
from pipeline_assets.ingestion.streaming.commands import audit

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
STYLES = {"promote": "green", "rollback": "yellow", "reject": "red", "shadow": "cyan", "canary": "cyan", "return": "yellow"}


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    models = typer.Typer(no_args_is_help=True, help="Which version of a model is live, since when, and why.")
    models.command("list")(list_versions)
    for command in (history, promote, rollback, shadow, canary, stop, training_set):
        models.command()(command)
    for of_aliases in (alias_drift, alias_adopt, alias_undo):
        models.command()(of_aliases)
    app.add_typer(models, name="models")
    audit.command("parts")(audit_parts)


def audit_parts(*, as_json: Annotated[bool, JSON] = False) -> None:
    """After a restore: do staged files, catalog, warehouse, ledger and MLflow belong together? Exit code 1 if not.

    Rows are counted by day, and versions by number; nothing is written. Each line says what to do.
    """
    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.registry import parts
    from pipeline_assets.processing.cleaning.parts import apart

    settings, project = load_settings(), load_project()
    of_rows = [str(one) for one in apart(settings, project)]
    of_models = [problem for model in project.models for problem in parts.problems(settings, model)]
    found = [*of_rows, *of_models]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for problem in found:
            typer.echo(f"WRONG {problem}")
        typer.echo("" if found else "ok    All parts belong together.")
    if found:
        raise typer.Exit(1)


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
    entry = by_hand.promote(load_settings(), model, version, actor=account_name(), reason=reason, is_forced=force, live_from=since)
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
    _show_live(model, by_hand.roll_back(load_settings(), model, actor=account_name(), reason=reason, to=to, live_from=since))


def shadow(
    name: Annotated[str, typer.Argument(help="Name of a model.")],
    version: Annotated[int, typer.Argument(min=1, help="The version that is to be tried.")],
    *,
    reason: Annotated[str, REASON],
) -> None:
    """Have a version score live requests unseen: it is logged, and the live one answers."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.registry import by_hand

    model = _model(name)
    _show_tried(model, by_hand.shadow(load_settings(), model, version, actor=account_name(), reason=reason))


def canary(
    name: Annotated[str, typer.Argument(help="Name of a model.")],
    version: Annotated[int, typer.Argument(min=1, help="The version that is to be tried.")],
    *,
    reason: Annotated[str, REASON],
    share: Annotated[float | None, typer.Option(help="Share of entities, between 0 and 1. Default: the model's first step.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Although the gate rejected it.")] = False,
) -> None:
    """Have a version answer a share of entities, or another share than now; it steps on, goes live or returns by itself."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.registry import by_hand

    model = _model(name)
    entry = by_hand.canary(load_settings(), model, version, share=share, actor=account_name(), reason=reason, is_forced=force)
    _show_tried(model, entry)


def stop(
    name: Annotated[str | None, NAME] = None,
    *,
    reason: Annotated[str, REASON] = "Stopped by hand.",
) -> None:
    """End a shadow or a canary: the live version answers alone."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.registry import by_hand

    model = _model(name)
    entry = by_hand.stop(load_settings(), model, actor=account_name(), reason=reason)
    typer.echo(f"{model.name}: version {entry.version} is tried no more; version {entry.previous_version} answers alone.")


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
    if version is not None:
        contract = versions.load(settings, model, version).contract
        path, chosen = contract.training_set, contract.training_set_sha256
    else:
        record = archive.find(settings, model, digest=digest)
        path, chosen = record.path, record.sha256
    rows = archive.read_path(settings, path, chosen)
    spine_files.write_table(rows, out)
    typer.echo(f"{rows.num_rows:,} rows of the training set {chosen}: {out}")


def alias_drift(name: Annotated[str | None, ANY] = None, *, as_json: Annotated[bool, JSON] = False) -> None:
    """Show where MLflow's aliases name other versions than the ledger, which counts. Exit code 1 if some do."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.registry import aliases

    chosen, settings = _declared() if name is None else (_model(name),), load_settings()
    found = [(model, aliases.alias_drift(settings, model)) for model in chosen]
    if as_json:
        typer.echo(json.dumps({model.name: [asdict(one) for one in drifted] for model, drifted in found}, indent=2))
    else:
        for model, drifted in found:
            typer.echo(f"{model.name}: {shown(aliases.in_words(model, drifted), LONGEST_SENTENCE)}")
    if any(drifted for _, drifted in found):
        raise typer.Exit(1)


def alias_adopt(
    name: Annotated[str, typer.Argument(help="Name of a model.")],
    *,
    reason: Annotated[str, REASON],
    force: Annotated[bool, typer.Option("--force", help="Although the gate rejected it.")] = False,
) -> None:
    """Make the version live that somebody gave the alias `champion` in MLflow."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.registry import aliases

    model = _model(name)
    _show_live(model, aliases.adopt(load_settings(), model, actor=account_name(), reason=reason, is_forced=force))


def alias_undo(name: Annotated[str, typer.Argument(help="Name of a model.")]) -> None:
    """Set MLflow's aliases back to what the ledger says."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.registry import aliases

    model = _model(name)
    found = aliases.undo(load_settings(), model)
    undone = shown("; ".join(map(str, found)), LONGEST_SENTENCE)
    typer.echo(f"{model.name}: {f'undone: {undone}' if found else 'the aliases were those of the ledger'}.")


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
    """The versions with their state: live, previous, rejected, tried, or as they stand; no candidate: registered in MLflow by hand."""
    from pipeline_assets.model_lifecycle.registry import ledger, versions

    entries = ledger.history(settings, model)
    line = ledger.ancestry(entries)
    states: dict[int, str] = {entry.version: _state(entry) for entry in entries}
    states |= dict.fromkeys(line[:-1], "was live") | dict.fromkeys(line[-2:-1], "previous") | dict.fromkeys(line[-1:], "live")
    tried = ledger.trial(entries)
    if tried is not None:
        states[tried.version] = "shadow" if tried.share is None else f"canary {_percent(tried.share)}"
    registered = versions.registered(settings, model)
    unjudged = {each.version: "not judged" if each.as_of is not None else "no candidate" for each in registered}
    return [{**asdict(each), "state": states.get(each.version, unjudged[each.version])} for each in registered]


def _state(entry: "Entry") -> str:
    return {"reject": "rejected", "promote": "rolled back", "rollback": "rolled back"}.get(entry.action, "was tried")


def _percent(share: float) -> str:
    return f"{share * 100:g} %"


def _version_columns(model: "Model") -> tuple[str, ...]:
    """The metric of the model's gate, that of the baseline, and the calibration error, which every task has."""
    return (*FACTS, model.gate.metric, "baseline", "calibration")


def _version_cells(metric: str, row: dict[str, Any]) -> list[str]:
    found = [row["metrics"].get(name) for name in (metric, f"baseline_{metric}", "calibration_error")]
    figures = ["–" if value is None else f"{value:.4f}" for value in found]
    state = {"live": "[bold green]live[/]", "rejected": "[red]rejected[/]"}.get(row["state"], row["state"])
    as_of = "–" if row["as_of"] is None else row["as_of"][:16].replace("T", " ")
    return [str(row["version"]), state, as_of, *figures]


def _entry_cells(entry: "Entry") -> list[str]:
    from rich.markup import escape

    action = f"[{STYLES[entry.action]}]{entry.action}[/]"
    if entry.share is not None:
        action += f" {_percent(entry.share)}"
    beside = "was" if entry.action in {"promote", "rollback"} else "live:"
    before = "" if entry.previous_version is None else f" ({beside} {entry.previous_version})"
    reason, actor = (escape(shown(text, LONGEST_SENTENCE)) for text in (entry.reason, entry.actor))
    why = f"{reason}\n[dim]{actor}, {entry.recorded_at:%Y-%m-%d %H:%M}[/]"
    since = f"{entry.live_from:%Y-%m-%d %H:%M}" if entry.action in {"promote", "rollback"} else ""
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


def _show_tried(model: "Model", entry: "Entry") -> None:
    does = "scores live requests unseen" if entry.share is None else f"answers {_percent(entry.share)} of entities"
    typer.echo(f"{model.name}: version {entry.version} {does} beside version {entry.previous_version}, once the service has its package.")
    typer.echo(f"To make that, materialize packages/{model.name} with the configuration `version: {entry.version}`.")


def _show_live(model: "Model", entry: "Entry") -> None:
    before = "nothing" if entry.previous_version is None else f"version {entry.previous_version}"
    typer.echo(f"{model.name}: version {entry.version} is live from {entry.live_from.isoformat()} on; before it was {before}.")
    typer.echo(f"To score with it, materialize packages/{model.name} and predictions/{model.name}.")
