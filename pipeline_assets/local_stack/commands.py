"""The commands of the local stack: `up`, `down`, `status`, `logs`. Each module behind them is loaded when its command runs."""

import json
import sys
from typing import Annotated

import typer

from pipeline_assets.core.errors import UnknownName, UserInputError
from pipeline_assets.core.foreign import shown_lines
from pipeline_assets.core.settings import home_folder

FOLLOW_LINES, MOST_CHARACTERS = 40, 1_000_000


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    for command in (up, down, status, logs):
        app.command()(command)


def up(*, service: Annotated[list[str] | None, typer.Option(help="Start this service only; may be repeated.")] = None) -> None:
    """Start all services of the local stack and wait until they work. What runs already stays as it is.

    Services whose settings have changed are restarted, once the runs that have begun have ended: PIPELINE_RUN_WAIT_SECONDS at most,
    600 by default. Runs that have not ended by then fail, and are retried.
    """
    from pipeline_assets.local_stack import stack
    from pipeline_assets.local_stack.display import show_links, watching

    with watching("Starting services") as watch:
        stack.up(home_folder(), only=known_names(service), watch=watch)
    show_links(stack.status(home_folder()))


def down(
    *,
    service: Annotated[list[str] | None, typer.Option(help="Stop this service only; may be repeated.")] = None,
    purge: Annotated[bool, typer.Option("--purge", help="Delete all data of the stack as well.")] = False,
) -> None:
    """Stop all services of the local stack; their data stays unless --purge is given."""
    from pipeline_assets.local_stack import stack
    from pipeline_assets.local_stack.display import watching

    if service and purge:
        raise UserInputError("--purge deletes the data of all services; leave --service out.")
    with watching("Stopping services") as watch:
        stack.down(home_folder(), only=known_names(service), purge=purge, watch=watch)


def status(*, as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False) -> None:
    """Show each service: its state, process, address and memory. Exit code 1 if one is not running."""
    from dataclasses import asdict

    from pipeline_assets.local_stack import stack
    from pipeline_assets.local_stack.display import show_status

    found = stack.status(home_folder())
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        show_status(found)
    if any(each.state in ("stopped", "dead") for each in found):
        raise typer.Exit(1)


def logs(
    name: Annotated[str, typer.Argument(help="Name of a service, as `status` shows it.")],
    lines: Annotated[int, typer.Option(min=1, help="How many of the last lines.")] = FOLLOW_LINES,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what is written, until interrupted.")] = False,
) -> None:
    """Print the last lines of a service's log, with signs that are no letters escaped."""
    from pipeline_assets.local_stack import processes

    known_names([name])
    typer.echo(shown_lines(processes.tail(home_folder(), name, lines=lines), MOST_CHARACTERS))
    if follow:
        for text in processes.followed(home_folder(), name):
            sys.stdout.write(shown_lines(text, MOST_CHARACTERS))
            sys.stdout.flush()


def known_names(asked: list[str] | None) -> list[str] | None:
    """The names of the services asked for, None where none are; raises UnknownName for one that the stack does not have."""
    from pipeline_assets.local_stack import stack

    known = stack.names()
    for name in asked or []:
        if name not in known:
            raise UnknownName("service", name, known)
    return asked or None
