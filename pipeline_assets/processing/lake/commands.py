"""The commands `audit lake`, which joins that of the sources, and `lake rebuild`. What they need is loaded when they run."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_assets.core.foreign import LONGEST_SENTENCE, shown
from pipeline_assets.ingestion.sources.commands import JsonOption
from pipeline_assets.ingestion.streaming.commands import audit

if TYPE_CHECKING:
    from pipeline_assets.processing.lake.audit import LakeVerdict

lake = typer.Typer(no_args_is_help=True, help="Mend tables of the lake.")


def register(app: typer.Typer) -> None:
    """Add the commands to the app, and to the audits."""
    audit.command("lake")(audit_lake)
    lake.command("rebuild")(rebuild)
    app.add_typer(lake, name="lake")


def audit_lake(
    *,
    table: Annotated[str | None, typer.Option(metavar="NAME", help="A table as `<namespace>.<name>`; without it all.")] = None,
    sample: Annotated[int, typer.Option(metavar="N", min=1, help="Look at one data file in N, others each day.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Hold every object of the lake against its seal: which days of which tables are damaged, and what to do? Exit code 1 if any is.

    All objects of all snapshots and all staged partitions are read; nothing is written.
    """
    from datetime import UTC, datetime

    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.processing.lake import audit as lake_audit

    found = []
    for verdict in lake_audit.audit_lake(load_settings(), lake_audit.Sample.on(datetime.now(UTC).date(), sample), asked=table):
        found.append(verdict)
        if not as_json:
            _print(verdict)
    if as_json:
        typer.echo(json.dumps([asdict(verdict) for verdict in found], indent=2))
    if any(verdict.problems for verdict in found):
        raise typer.Exit(1)


def _print(verdict: "LakeVerdict") -> None:
    days = f", {len(verdict.days)} days damaged" if verdict.days else ""
    old = f", {verdict.old} damaged of earlier snapshots alone" if verdict.old else ""
    typer.echo(f"{'WRONG' if verdict.problems else 'ok':<6}{shown(verdict.table):<44}{verdict.objects:>12,} objects{days}{old}")
    for problem in verdict.problems:
        typer.echo(f"      {shown(problem, LONGEST_SENTENCE)}")


def rebuild(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table as `<namespace>.<name>`.")],
) -> None:
    """Take a table whose metadata are damaged out of the catalog, so that materializing its asset makes it anew from what is before it.

    Its objects stay until the maintenance deletes them. Refused for a table whose metadata are whole, and for landed records, which nothing
    is before.
    """
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.processing.lake.rebuild import take_out

    typer.echo(take_out(load_settings(), table))
