"""The commands `streams accept-loss`, `audit sources`, and three that join those of the sources.

`quarantine replay`, `sources preflight` and `sources propose topic` are these. What they need is loaded when they run.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_assets.core import names
from pipeline_assets.core.accounts import account_name
from pipeline_assets.core.foreign import LONGEST_SENTENCE, shown, shown_lines
from pipeline_assets.ingestion.sources.commands import (
    SAMPLED_ROWS,
    JsonOption,
    NameOption,
    OutputOption,
    PartitionOption,
    RowsOption,
    SourceOption,
    check_asked,
    check_proposal,
    commands,
    contracts,
    next_assets,
    project,
    proposals,
    sources,
    write_proposal,
)

if TYPE_CHECKING:
    from pipeline_assets.ingestion.batch.replay import Replayed
    from pipeline_assets.spec.sources import RecordStream, Source

audit = typer.Typer(no_args_is_help=True, help="Reconcile what is in one place with what should be there.")

streams = typer.Typer(no_args_is_help=True, help="Have a stream go on.")


def register(app: typer.Typer) -> None:
    """Add the commands to the app, to those of the quarantine and to those of the sources."""
    commands.command("replay")(replay_rows)
    sources.command("preflight")(preflight)
    proposals.command("topic")(propose_topic)
    audit.command("sources")(audit_sources)
    streams.command("accept-loss")(accept_loss)
    app.add_typer(audit, name="audit")
    app.add_typer(streams, name="streams")


def audit_sources(*, as_json: JsonOption = False) -> None:
    """Reconcile every topic and every followed table with the lake: is anything lost, duplicated or different? Exit code 1 if so.

    Nothing is written. Records in flight are waited for, some minutes at most.
    """
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.ingestion.streaming.audit.audit import verify

    found = []
    try:
        for verdict in verify(load_settings(), project()):
            found.append(verdict)
            if not as_json:
                held = f", {verdict.in_quarantine:,} in quarantine" if verdict.in_quarantine else ""
                typer.echo(f"{'WRONG' if verdict.problems else 'ok':<6}{verdict.subject:<44}{verdict.compared:>12,} {verdict.unit}{held}")
                for line in (*verdict.problems, *verdict.accepted):
                    typer.echo(f"      {shown(line, LONGEST_SENTENCE)}")
    finally:
        if as_json:
            typer.echo(json.dumps([asdict(verdict) for verdict in found], indent=2))
    if any(verdict.problems for verdict in found):
        raise typer.Exit(1)


def accept_loss(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic, as `pipeline audit sources` names it.")],
    partition: Annotated[int, typer.Argument(metavar="PARTITION", min=0, help="Number of the partition.")],
    first: Annotated[int, typer.Argument(metavar="FROM", min=0, help="The first offset that is lost.")],
    last: Annotated[int, typer.Argument(metavar="TO", min=0, help="The last offset that is lost.")],
    *,
    reason: Annotated[str, typer.Option(help="Why they are lost, for those who come after.")],
) -> None:
    """Accept that records of a topic are lost for good: its typing goes on after them, and the audit shows them for ever."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.ingestion.streaming.landing.losses import Claim, accept
    from pipeline_assets.ingestion.streaming.streams import record_streams

    if not reason.strip():
        raise typer.BadParameter("it is empty; say why they are lost", param_hint="--reason")
    claim = Claim(topic=topic, partition=partition, first_offset=first, last_offset=last, reason=reason, actor=account_name())
    typer.echo(f"topic {topic}: {accept(load_settings(), record_streams(project()), claim)}")


def preflight(*, as_json: JsonOption = False) -> None:
    """Judge whether the changes of each followed table can be followed rightly, and say what to do where not. Exit code 1 if so.

    The catalogs of the databases are read, and nothing is changed.
    """
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.ingestion.streaming.capture.connectors import connectors_of, examined

    settings = load_settings()
    found = [verdict for one in connectors_of(project()) if (verdict := examined(settings, one)) is not None]
    obstacles = [one for verdict in found for one in verdict.obstacles]
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in obstacles], indent=2))
    else:
        for table in (table for verdict in found for table in verdict.accepted):
            typer.echo(f"ok    {table.database} {shown(table.schema)}.{shown(table.table)}")
        for obstacle in obstacles:
            typer.echo(f"WRONG {shown_lines(obstacle, LONGEST_SENTENCE)}")
    if obstacles:
        raise typer.Exit(1)


def propose_topic(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic whose records are JSON objects.")],
    *,
    name: NameOption = None,
    rows: RowsOption = SAMPLED_ROWS,
    output: OutputOption = None,
) -> None:
    """Propose the contract of a topic, from its newest records."""
    from pipeline_assets.core.settings import BrokerSettings, home_folder, read_part
    from pipeline_assets.ingestion.streaming.proposals import propose_topic as proposal_of

    check_proposal(name, output)
    write_proposal(*proposal_of(read_part(BrokerSettings, home_folder()), topic, name, rows), output)


def replay_rows(*, source: SourceOption = None, partition: PartitionOption = None, as_json: JsonOption = False) -> None:
    """Check quarantined rows against the present contracts, and take in those that keep them now."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.ingestion.batch.replay import replay
    from pipeline_assets.ingestion.sources import quarantine
    from pipeline_assets.ingestion.streaming.streams import followed, record_streams
    from pipeline_assets.ingestion.streaming.typed.replay import replay_records

    check_asked(source, partition)
    settings, declared = load_settings(), project()
    streams, asked = record_streams(declared), set(contracts(declared)) if source is None else {source}
    tables = {names.change_log(one.contract.name): one.contract.name for one in followed(declared)}
    # The rows of a followed table are those that its log leaves, and come from nowhere else.
    everything: list[Source | RecordStream] = [*declared.sources, *declared.streams]
    batches = [one for one in everything if one.contract.name in asked - set(tables.values())]
    staged = replay(settings, batches, partition=partition)
    own = [one for one in streams if asked & {one.contract.name, tables.get(one.contract.name)} and partition in {None, names.STREAM}]
    typed = replay_records(settings, own, streams)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in (*staged, *typed)], indent=2))
        return
    merged = [table for table in tables.values() if table in asked and quarantine.counted(settings, source=table)]
    if not staged and not typed and not merged:
        typer.echo("No rows to replay are in quarantine.")
    _print_replayed(staged, "staged", lambda name: next_assets(declared, name))
    _print_replayed([one for one in typed if one.source not in tables], "typed", lambda name: [names.staged(name)])
    _print_changes([one for one in typed if one.source in tables], tables, merged)


def _print_replayed(replayed: "Sequence[Replayed]", done: str, next_of: Callable[[str], Sequence[names.AssetName]]) -> None:
    for source, own in _by_source(replayed).items():
        typer.echo(f"{source}: {sum(one.replayed for one in own)} rows {done}, {sum(one.still_broken for one in own)} still broken")
        changed = [one.partition for one in own if one.replayed]
        if changed:
            typer.echo(f"  Changed: {', '.join(changed)}. Publish with:\n  {_publishing(next_of(source), changed)}")


def _print_changes(replayed: "Sequence[Replayed]", tables: Mapping[str, str], merged: Sequence[str]) -> None:
    """Prints what became of the changes of followed tables, and how each that has rows in quarantine is merged again."""
    changed = dict.fromkeys(merged)
    for source, own in _by_source(replayed).items():
        typer.echo(f"{source}: {sum(one.replayed for one in own)} changes typed, {sum(one.still_broken for one in own)} still broken")
        changed |= {tables[source]: None}
    for table in changed:
        typer.echo(f"  {table} is merged again from its changes, under the present contract, with:")
        typer.echo(f"  {_publishing([names.staged(table)], [names.SNAPSHOT])}")


def _by_source(replayed: "Sequence[Replayed]") -> "dict[str, list[Replayed]]":
    return {source: [one for one in replayed if one.source == source] for source in sorted({one.source for one in replayed})}


def _publishing(assets: Sequence[names.AssetName], partitions: Sequence[str]) -> str:
    """The command that takes changed partitions to the next assets; days in between that did not change stay as they are."""
    selection = " or ".join(f'key:"{"/".join(asset)}"' for asset in assets)
    command = f"dagster asset materialize -m pipeline_assets.definitions --select '{selection}'"
    return command if partitions[0] == names.SNAPSHOT else f"{command} --partition-range {partitions[0]}...{partitions[-1]}"
