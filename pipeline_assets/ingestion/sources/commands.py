"""The commands `quarantine list` and `show`, and the groups `sources` and `sources propose`; later rooms add to them.

What they need is loaded when they run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_assets.core import names
from pipeline_assets.core.foreign import shown

if TYPE_CHECKING:
    from pipeline_assets.core.project import Project
    from pipeline_assets.ingestion.sources.proposals.proposal import Proposal
    from pipeline_assets.ingestion.sources.quarantine import QuarantinedRow
    from pipeline_assets.spec.contracts import Contract

SHOWN_ROWS, SAMPLED_ROWS, SHOWN_CHARACTERS = 50, 10_000, 2_000

SourceOption = Annotated[str | None, typer.Option("--source", help="Rows of this source, stream or change log only, such as weather.")]
PartitionOption = Annotated[str | None, typer.Option("--partition", help="Rows of this UTC day (YYYY-MM-DD), `snapshot` or `stream` only.")]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of the contract. Default: made from that of the source.")]
RowsOption = Annotated[int, typer.Option("--rows", min=1, help="Look at so many rows, at most.")]
OutputOption = Annotated[Path | None, typer.Option("--output", help="Write a file that there is not yet. Default: standard output.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
sources = typer.Typer(no_args_is_help=True, help="Sources as they are declared, held against what is there.")
proposals = typer.Typer(no_args_is_help=True, help="Write the contract of a source as Python code, from what a sample of it shows.")
commands = typer.Typer(no_args_is_help=True, help="Rows that broke their contract: which, why, and once more.")


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    commands.command("list")(list_rows)
    commands.command("show")(show_row)
    app.add_typer(commands, name="quarantine")
    sources.add_typer(proposals, name="propose")
    app.add_typer(sources, name="sources")


def list_rows(
    *,
    source: SourceOption = None,
    partition: PartitionOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Print at most so many rows.")] = SHOWN_ROWS,
    as_json: JsonOption = False,
) -> None:
    """List quarantined rows by source, day and position, and count them by what is wrong."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.ingestion.sources import quarantine

    check_asked(source, partition)
    settings = load_settings()
    rows = quarantine.listed(settings, source=source, partition=partition, limit=limit)
    if as_json:
        typer.echo(json.dumps([_as_json(row) for row in rows], indent=2))
    else:
        _print_rows(rows, quarantine.counted(settings, source=source, partition=partition))


def show_row(
    row_id: Annotated[int, typer.Argument(metavar="ID", help="The row's id, as `list` shows it.")], *, as_json: JsonOption = False
) -> None:
    """Show one quarantined row with its original bytes: their beginning, with signs that are no letters escaped. --json has all of them."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.ingestion.sources import quarantine

    row = _as_json(quarantine.shown(load_settings(), row_id))
    if as_json:
        typer.echo(json.dumps(row, indent=2))
    else:
        for name, value in row.items():
            typer.echo(f"{name:<15} {shown(value, SHOWN_CHARACTERS)}")


def check_asked(source: str | None, partition: str | None) -> None:
    """Raises UnknownName or UnknownDay for a source or a partition that does not exist."""
    from pipeline_assets.core.errors import UnknownDay, UnknownName

    declared = project()
    logs = [names.change_log(one.contract.name) for one in declared.sources if one.load == "changes"]
    known = [*contracts(declared), *logs]
    if source is not None and source not in known:
        raise UnknownName("source", source, known)
    if partition is None or partition in {names.SNAPSHOT, names.UNDATED, names.STREAM}:
        return
    spans = [(use_case.first_day, use_case.last_day) for use_case in declared.use_cases]
    day = _day(partition)
    if day is None or not any(first <= day <= (last or day) for first, last in spans):
        ends = [last for _, last in spans if last is not None]
        raise UnknownDay(partition, min(first for first, _ in spans), max(ends) if len(ends) == len(spans) else None)


def check_proposal(name: str | None, output: Path | None) -> None:
    """Raises ProposalRefused for a name that no contract may have, and for a file that is there."""
    from pipeline_assets.core.errors import ProposalRefused
    from pipeline_assets.core.rules.problems import NAME, NAME_RULE

    if name is not None and not NAME.fullmatch(name):
        raise ProposalRefused(name, f"--name is no name of a contract, {NAME_RULE}")
    if output is not None and output.exists():
        raise ProposalRefused(str(output), "--output is there already, and is not replaced")


def write_proposal(proposal: "Proposal", module: str, output: Path | None) -> None:
    """Writes a module, and on standard error what there is to know of it. Exit code 1 where it does not load before it was edited."""
    if output is None:
        typer.echo(module, nl=False)
    else:
        with output.open("x", encoding="utf-8") as file:
            file.write(module)
    typer.echo(f"Looked at {proposal.sample.looked_at}.", err=True)
    if proposal.left_out:
        typer.echo(f"{len(proposal.left_out)} columns were left out; the comments say why.", err=True)
    if proposal.problem:
        typer.echo(f"The proposal does not load yet: {proposal.problem}.", err=True)
        raise typer.Exit(1)


def project() -> "Project":
    """All declared use cases."""
    from pipeline_assets.core.declarations import load_project

    return load_project()


def contracts(declared: "Project") -> "Mapping[str, Contract]":
    """The contracts of all sources and streams, by name."""
    return {contract.name: contract for contract in declared.contracts}


def next_assets(declared: "Project", source: str) -> list[names.AssetName]:
    """The assets that take a source's staged rows further: the streams that it is the history of, or its lake table."""
    histories = {one.contract.name: one.history.source.contract.name for one in declared.streams if one.history is not None}
    return [names.staged(stream) for stream, history in histories.items() if history == source] or [names.lake(source)]


def _day(partition: str) -> date | None:
    try:
        day = date.fromisoformat(partition)
    except ValueError:
        return None
    return day if day.isoformat() == partition else None


def _as_json(row: "QuarantinedRow") -> dict[str, object]:
    """A row as text and numbers; bytes that are not UTF-8 are written as escapes."""
    headers = {name: (row.header(name) or b"").decode(errors="backslashreplace") for name in row.headers or {}}
    fields = asdict(row) | {"original": row.original.decode(errors="backslashreplace"), "headers": headers or None}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}


def _print_rows(rows: "Sequence[QuarantinedRow]", counts: Mapping[tuple[str, str, str], tuple[int, int]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    total = sum(count for count, _ in counts.values())
    if not total:
        typer.echo("No rows are in quarantine.")
        return
    table = Table("id", "source", "partition", "position", "field", "reason", "replayed", box=None)
    for row in rows:
        replayed = f"{row.replayed_at:%Y-%m-%d %H:%M}" if row.replayed_at is not None else ""
        place = shown(row.place) if row.place is not None else str(row.position)
        table.add_row(str(row.id), row.source, row.partition, escape(place), escape(shown(row.field)), escape(shown(row.reason)), replayed)
    summary = Table("source", "field", "reason", "rows", "replayed", box=None)
    for (source, field, reason), (count, replayed_count) in counts.items():
        summary.add_row(source, escape(shown(field)), escape(shown(reason)), str(count), str(replayed_count))
    console = Console()
    console.print(table)
    console.print(f"\n{len(rows)} of {total} rows (`--limit`). By what is wrong:\n", highlight=False)
    console.print(summary)
