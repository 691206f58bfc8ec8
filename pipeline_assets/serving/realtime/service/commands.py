"""The command `pipeline serve`, which runs the prediction service alone. What it needs is loaded when it runs."""

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve() -> None:
    """Run the prediction service until it is interrupted: host, port, processes and certificate by PIPELINE_SERVE_… settings.

    It needs the warehouse (for the ledger), the online store and the object store, and starts without those that are away, with what it
    had of them.
    """
    from pipeline_assets.core.settings import ServeSettings, read_own
    from pipeline_assets.serving.realtime.service.server import run

    run(read_own(ServeSettings))
