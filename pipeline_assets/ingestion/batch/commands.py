"""The command `quarantine replay`, which joins those of the sources. What it needs is loaded when it runs."""

import json
from collections.abc import Sequence
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
)

if TYPE_CHECKING:
    from pipeline_assets.ingestion.batch.replay import Replayed


def register(_app: typer.Typer) -> None:
    """Add the command to the commands of the quarantine."""
    commands.command("replay")(replay_rows)


def replay_rows(*, source: SourceOption = None, partition: PartitionOption = None, as_json: JsonOption = False) -> None:
    """Check quarantined rows against the present contracts, and stage those that keep them now."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.ingestion.batch.replay import replay

    check_asked(source, partition)
    known = contracts()
    asked = list(known.values()) if source is None else [known[source]]
    replayed = replay(load_settings(), asked, partition=partition)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in replayed], indent=2))
    else:
        _print_replayed(replayed)


def _print_replayed(replayed: "Sequence[Replayed]") -> None:
    if not replayed:
        typer.echo("No rows are waiting in quarantine.")
    for source in sorted({one.source for one in replayed}):
        own = [one for one in replayed if one.source == source]
        typer.echo(f"{source}: {sum(one.replayed for one in own)} rows staged, {sum(one.still_broken for one in own)} still broken")
        changed = [one.partition for one in own if one.replayed]
        if changed:
            typer.echo(f"  Changed: {', '.join(changed)}. Publish with:\n  {_publishing(source, changed)}")


def _publishing(source: str, partitions: Sequence[str]) -> str:
    """The command that takes changed partitions to the next assets; days in between that did not change stay as they are."""
    selection = " or ".join(f'key:"{"/".join(asset)}"' for asset in next_assets(source))
    command = f"dagster asset materialize -m pipeline_assets.definitions --select '{selection}'"
    return command if partitions[0] == names.SNAPSHOT else f"{command} --partition-range {partitions[0]}...{partitions[-1]}"
