"""The commands of the online store: `features online build`, `run`, `show`, `status`, and `features parity`.

What they need is loaded when they run.
"""

import json
import os
import signal
import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_assets.core.foreign import LONGEST_SENTENCE, shown

if TYPE_CHECKING:
    from pipeline_assets.core.project import Project
    from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
    from pipeline_assets.model_lifecycle.feature_store.online.recomputed import ServedParity


def register(features: typer.Typer) -> None:
    """Add the commands below those of features."""
    online = typer.Typer(no_args_is_help=True, help="What features are now, kept as events come.")
    online.command()(build)
    online.command()(run)
    online.command()(show)
    online.command()(status)
    features.add_typer(online, name="online")


def build(
    *,
    table: Annotated[list[str] | None, typer.Option(help="A cleaned table whose views are built, may be repeated. Default: all.")] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Also build what is there as it is declared.")] = False,
) -> None:
    """Build the views that are not online as they are declared now, from the lake; what was read before is read until they are whole."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.feature_store.online import build as building

    settings, (_, feeds) = load_settings(), declared()
    for feed in _chosen(feeds, table):
        done = (building.build if anew else building.build_missing)(settings, feed, lambda step: typer.echo(step, err=True))
        typer.echo(
            f"{feed.name}: is online as declared." if done is None else f"{feed.name}: {done.read:,} rows of the lake, {done.come:,} kept."
        )


def run() -> None:
    """Keep the views online: take the records of topics as they come, and follow the lake's commits; until interrupted.

    Views that are not built yet are taken up once they are. What is not there is waited for. With PIPELINE_ONLINE_METRICS_PORT, Prometheus
    finds metrics on that port of loopback.
    """
    from pipeline_assets.core.settings import WorkerSettings, load_settings, read_own
    from pipeline_assets.model_lifecycle.feature_store.online.keeper import keep_online

    stopped = Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stopped.set())
    settings, (project, feeds) = load_settings(), declared()
    has_ended = keep_online(settings, feeds, project.streams, stopped, say, read_own(WorkerSettings).online_metrics_port)
    say("Ended." if has_ended else "Ended; what was in hand is undone, and taken again.")
    if not has_ended:
        # A thread that waits for a database cannot be ended; its transaction is undone with its connection.
        os._exit(0)


def say(line: str) -> None:
    """Prints a line at once, as others follow what a worker says."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def show(
    *,
    model: Annotated[str, typer.Option(help="Whose features: the name of a model.")],
    spine: Annotated[Path, typer.Option(help="Entity keys and decision_at, one row per question: a .parquet or .csv file.")],
    out: Annotated[Path | None, typer.Option(help="Where the rows go: a .parquet or .csv file. Default: a comparison is printed.")] = None,
) -> None:
    """Show the features of a model online beside offline: what both give for each row, and where they differ."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.feature_store import offline, spine_files
    from pipeline_assets.model_lifecycle.feature_store.online.compare import beside

    project, feeds = declared()
    if out is not None:
        spine_files.check_output(out)
    rows = spine_files.read_spine(spine)
    settings = load_settings()
    past = offline.historical_features(settings, project, model, rows, name=str(spine))
    found = beside(settings, project, feeds, model, rows, past, name=str(spine))
    if out is not None:
        spine_files.write_table(found.served, out)
    for feature, count in found.differing.items():
        typer.echo(f"{feature}: {count:,} of {rows.num_rows:,} rows differ")
    typer.echo(f"{rows.num_rows:,} rows, {len(found.compared):,} features: {sum(found.differing.values()):,} values differ.")
    typer.echo(f"Status by view: {json.dumps(found.statuses)}")
    if found.differing:
        raise typer.Exit(1)


def parity(
    *,
    model: Annotated[str, typer.Option(help="Whose vectors: the name of a model.")],
    sample: Annotated[int, typer.Option(min=1, help="How many of the newest that can be compared.")] = 200,
    all_: Annotated[bool, typer.Option("--all", help="Compare all that were kept.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object.")] = False,
) -> None:
    """Compute vectors that were served online again from the lake, with the rows that had been seen, and compare them bit for bit."""
    from dataclasses import asdict

    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.feature_store.online.recomputed import check_served

    project, feeds = declared()
    found = check_served(load_settings(), project, feeds, project.model(model), None if all_ else sample)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        _show_parity(found)
    if not found.is_equal:
        raise typer.Exit(1)


def _show_parity(found: "ServedParity") -> None:
    for feature, count in found.differing.items():
        typer.echo(f"{feature}: {count:,} of {found.checked:,} values differ")
        for one in (one for one in found.examples if one.feature == feature):
            served, right = shown(repr(one.served)), shown(repr(one.recomputed))
            typer.echo(f"  {json.dumps(one.entity)} at {one.decision_at}: {served} was served, {right} is right")
    for reason, count in found.unclear.items():
        typer.echo(f"{count:,} vectors cannot be compared: {reason}.")
    if found.pending:
        typer.echo(f"{found.pending:,} vectors wait for the lake to have the records that they had seen.")
    if not found.checked + found.pending + sum(found.unclear.values()):
        typer.echo(f"No vectors of {found.model} were kept.")
    typer.echo(f"{found.checked:,} vectors compared, {sum(found.differing.values()):,} values differ.")


def status(*, as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False) -> None:
    """Show what is kept online: each feed with its keys and bytes, how far it is, whether it is read, and how its workers are with it."""
    from datetime import UTC, datetime

    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.model_lifecycle.feature_store.online.facts import read_facts

    _, feeds = declared()
    found = read_facts(load_settings(), feeds, datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for one in found:
        typer.echo(
            f"{one['feed']}: {one['status']}, {one['keys']:,} keys, {one['rows']:,} rows, {one['bytes']:,} bytes of states"
            f" (at most {one['largest_state']:,} a key), known to {one['known_to']},"
            f" {one['workers']} workers, lag {one['lag']:,}, {one['rows_left_out']:,} rows left out, {one['events_per_second']:,} events/s"
        )
        if one["status"] == "live" and one["trouble"] is not None:
            typer.echo(f"  {shown(one['trouble'], LONGEST_SENTENCE)}. {one['todo']}")


def declared() -> "tuple[Project, tuple[Feed, ...]]":
    """The project, and the feeds of its views that are served online."""
    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.model_lifecycle.feature_store.online.feeds import feeds_of
    from pipeline_assets.processing.cleaning.dbt import project_folder
    from pipeline_assets.processing.cleaning.manifest import read_manifest

    project = load_project()
    return project, feeds_of(project, read_manifest(project_folder()))


def _chosen(feeds: "tuple[Feed, ...]", table: list[str] | None) -> "list[Feed]":
    from pipeline_assets.core.errors import UnknownName

    known = {feed.table.name for feed in feeds}
    for name in table or ():
        if name not in known:
            raise UnknownName("table whose views are online", name, sorted(known))
    return [feed for feed in feeds if table is None or feed.table.name in table]
