"""The `pipeline` command: the local stack, the demo, and what has no place in Dagster. Everything else is `dagster` and `dg`."""

import signal
import sys

import typer
from rich.console import Console
from rich.markup import escape

from pipeline_assets.alerts import commands as alerts
from pipeline_assets.core.errors import PipelineError, UserInputError
from pipeline_assets.core.foreign import log_safely
from pipeline_assets.core.service_errors import errors_of_services
from pipeline_assets.core.settings import home_folder
from pipeline_assets.core.state_errors import errors_of_folders
from pipeline_assets.forgetting import commands as forgetting
from pipeline_assets.ingestion.batch import commands as proposals
from pipeline_assets.ingestion.sources import commands as quarantine
from pipeline_assets.ingestion.streaming import commands as replay
from pipeline_assets.local_stack import commands as local_stack
from pipeline_assets.local_stack import demo_command as demo
from pipeline_assets.model_lifecycle.feature_store import commands as features
from pipeline_assets.model_lifecycle.registry import commands as models
from pipeline_assets.processing.lake import commands as lake
from pipeline_assets.serving.realtime.access import commands as serve_keys
from pipeline_assets.serving.realtime.log import commands as explain
from pipeline_assets.serving.realtime.service import commands as service
from pipeline_assets.web import commands as web

USAGE_ERROR = 2
FAILURE = 1

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="A data and ML platform as one Dagster project.", pretty_exceptions_enable=False
)
for part in (local_stack, demo, models, quarantine, proposals, replay, lake, service, serve_keys, explain, web, alerts):
    part.register(app)
forgetting.register(features.register(app))


def main() -> None:
    """Runs the command; an error of the product is one sentence on standard error, exit code 2 where the user can mend it, else 1.

    SIGTERM ends a command as Ctrl-C does: what it has the database do is cancelled, and waits in no queue for a lock any more.
    """
    log_safely()
    signal.signal(signal.SIGTERM, _end)
    try:
        with errors_of_folders(home_folder()), errors_of_services():
            app()
    except PipelineError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False)
        sys.exit(USAGE_ERROR if isinstance(error, UserInputError) else FAILURE)


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)
