"""The commands `quarantine replay`, which joins those of the sources, and `verify`. What they need is loaded when they run."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from pipeline_assets.core import names
from pipeline_assets.ingestion.sources.commands import (
    JsonOption,
    PartitionOption,
    SourceOption,
    check_asked,
    commands,
    contracts,
    next_assets,
    streams,
    use_cases,
)

if TYPE_CHECKING:
    from pipeline_assets.ingestion.batch.replay import Replayed


def register(app: typer.Typer) -> None:
    """Add the commands to the app and to those of the quarantine."""
    commands.command("replay")(replay_rows)
    app.command("verify")(verify)


def verify(*, as_json: JsonOption = False) -> None:
    """Hold every topic and every followed table against the lake: is anything lost, doubled or different? Exit code 1 if so.

    Nothing is written. What is on its way is waited for, some minutes at most.
    """
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.ingestion.streaming.audit import audit as integrity

    settings, found = load_settings(), []
    for verdict in (verdict for use_case in use_cases() for verdict in integrity.verify(settings, use_case)):
        found.append(verdict)
        if not as_json:
            typer.echo(f"{'WRONG' if verdict.problems else 'ok':<6}{verdict.subject:<44}{verdict.compared:>12,} {verdict.unit}")
            for problem in verdict.problems:
                typer.echo(f"      {problem}")
    if as_json:
        typer.echo(json.dumps([asdict(verdict) for verdict in found], indent=2))
    if any(verdict.problems for verdict in found):
        raise typer.Exit(1)


def replay_rows(*, source: SourceOption = None, partition: PartitionOption = None, as_json: JsonOption = False) -> None:
    """Check quarantined rows against the present contracts, and take in those that keep them now."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.ingestion.batch.replay import replay
    from pipeline_assets.ingestion.streaming.typed.replay import replay_records

    check_asked(source, partition)
    settings, known = load_settings(), contracts()
    asked = list(known.values()) if source is None else [known[source]]
    staged = replay(settings, asked, partition=partition)
    own = [stream for stream in streams() if stream.contract in asked and partition in {None, names.STREAM}]
    typed = replay_records(settings, own, streams())
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in (*staged, *typed)], indent=2))
        return
    if not staged and not typed:
        typer.echo("No rows are waiting in quarantine.")
    _print_replayed(staged, "staged", next_assets)
    _print_replayed(typed, "typed", lambda name: [names.staged(name)])


def _print_replayed(replayed: "Sequence[Replayed]", done: str, next_of: Callable[[str], list[names.AssetName]]) -> None:
    for source in sorted({one.source for one in replayed}):
        own = [one for one in replayed if one.source == source]
        typer.echo(f"{source}: {sum(one.replayed for one in own)} rows {done}, {sum(one.still_broken for one in own)} still broken")
        changed = [one.partition for one in own if one.replayed]
        if changed:
            typer.echo(f"  Changed: {', '.join(changed)}. Publish with:\n  {_publishing(next_of(source), changed)}")


def _publishing(assets: Sequence[names.AssetName], partitions: Sequence[str]) -> str:
    """The command that takes changed partitions to the next assets; days in between that did not change stay as they are."""
    selection = " or ".join(f'key:"{"/".join(asset)}"' for asset in assets)
    command = f"dagster asset materialize -m pipeline_assets.definitions --select '{selection}'"
    return command if partitions[0] == names.SNAPSHOT else f"{command} --partition-range {partitions[0]}...{partitions[-1]}"
