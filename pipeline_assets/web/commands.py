"""The command `pipeline webserver`, which runs Dagster's web server behind the guard. What it needs is loaded when it runs."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(webserver)


def webserver(
    *,
    workspace: Annotated[Path, typer.Option(help="The file of code locations.", exists=True, dir_okay=False)] = Path("workspace.yaml"),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 3000,
) -> None:
    """Run Dagster's web server behind a guard, until it is interrupted: hosts, login and audit log by PIPELINE_WEB_… settings.

    It needs what `dagster-webserver` needs: DAGSTER_HOME, and the environment that its dagster.yaml reads.
    """
    from pipeline_assets.core.settings import AccessSettings, WebSettings, home_folder, read_part
    from pipeline_assets.web.webserver import serve

    home = home_folder()
    serve(workspace, host, port, read_part(WebSettings, home), read_part(AccessSettings, home))
