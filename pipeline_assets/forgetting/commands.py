"""The commands of forgetting: `features forget` and `features forgotten`. What they need is loaded when they run."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline_assets.forgetting.job import Declared, Plan
    from pipeline_assets.forgetting.ledger import Proof


def register(features: typer.Typer) -> None:
    """Add the commands below those of features."""
    features.command()(forget)
    features.command()(forgotten)


def forget(
    entity: Annotated[str, typer.Argument(help="The entity, as its views declare it.")],
    key: Annotated[list[str], typer.Argument(help="Its key: a value for each of its key columns, in their order.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object.")] = False,
) -> None:
    """Remove an entity from everything that is kept, and do not take it in again; what was removed is kept as a proof."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.forgetting import job

    settings, declared = load_settings(), _declared()
    if dry_run or not yes:
        with _progress() as on_step:
            found = job.plan(settings, declared, entity, key, on_step)
        _show_plan(found, as_json=as_json and dry_run)
        if dry_run:
            return
        typer.confirm("Remove all of this for good?", abort=True, err=True)
    with _progress() as on_step:
        proof, path = job.forget(settings, declared, entity, key, on_step)
    typer.echo(proof.to_json() if as_json else _in_words(proof, path))


def forgotten(*, as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False) -> None:
    """Show the proofs of what was forgotten: when, from how many places, and which models had seen it."""
    from pipeline_assets.core.settings import load_settings
    from pipeline_assets.forgetting.ledger import proofs

    found = proofs(load_settings())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for one in found:
        seen = ", ".join(f"{model} {', '.join(map(str, each))}" for model, each in one["model_versions"].items() if each) or "none"
        rows = sum(held["rows"] for held in one["places"].values())
        typer.echo(f"{one['id']}: {one['entity']}, {one['done_at']}, {rows:,} rows of {len(one['places'])} places, seen by models: {seen}")


def _declared() -> "Declared":
    from pipeline_assets.core.declarations import load_project
    from pipeline_assets.forgetting.job import Declared
    from pipeline_assets.model_lifecycle.feature_store.online.feeds import feeds_of
    from pipeline_assets.processing.cleaning.dbt import project_folder
    from pipeline_assets.processing.cleaning.lineage import read_lineage
    from pipeline_assets.processing.cleaning.manifest import read_manifest

    project = load_project()
    return Declared(project=project, dbt=read_lineage(project_folder()), feeds=feeds_of(project, read_manifest(project_folder())))


def _show_plan(found: "Plan", *, as_json: bool) -> None:
    columns = {".".join(table): [", ".join(one) for one in each] for table, each in found.identity.columns.items()}
    if as_json:
        typer.echo(json.dumps({"known_by": columns, "held": {name: asdict(one) for name, one in found.held.items()}}, indent=2))
        return
    typer.echo("Known by:")
    for table, each in columns.items():
        typer.echo(f"  {table}: {' or '.join(each)}")
    typer.echo("Would be removed:" if found.held else "Nothing of it is kept.")
    for name, held in found.held.items():
        typer.echo(f"  {name}: {held.rows:,} rows, {held.files:,} files, {held.snapshots:,} snapshots")


def _in_words(proof: "Proof", path: str) -> str:
    counts = ((name, held["rows"], held["files"], held["snapshots"]) for name, held in proof.places.items())
    lines = [f"{name}: {rows:,} rows, {files:,} files, {snapshots:,} snapshots" for name, rows, files, snapshots in counts]
    for model, each in proof.model_versions.items():
        lines.append(f"Model {model} had seen it in versions: {', '.join(map(str, each)) or 'none'}")
    lines += [f"Left to maintenance, as it may be of a run: {one}" for one in proof.left]
    lines += [f"Not gone through, as nobody declares it: {one}" for one in proof.undeclared]
    lines += [f"Its records may stand in topic {topic} until the broker drops them; they are not taken in again." for topic in proof.topics]
    return "\n".join([*lines, f"Forgotten. Proof: {path}"])


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on standard error; one line that is written over on a terminal."""
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    if not console.is_terminal:
        yield lambda step: console.print(step, highlight=False, markup=False)
        return
    with console.status("Starting") as status:
        yield status.update
