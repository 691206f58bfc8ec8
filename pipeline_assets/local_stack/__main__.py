"""`python -m pipeline_assets.local_stack up|down|status|logs`: the stack without the rest of the product."""

import sys

import typer

from pipeline_assets.core.errors import PipelineError, UserInputError
from pipeline_assets.core.service_errors import errors_of_services
from pipeline_assets.core.settings import home_folder
from pipeline_assets.core.state_errors import errors_of_folders
from pipeline_assets.local_stack.commands import register

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
register(app)


def main() -> None:
    """Run a command; an error of the product is one sentence, without a trace."""
    try:
        with errors_of_folders(home_folder()), errors_of_services():
            app()
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2 if isinstance(error, UserInputError) else 1) from error


if __name__ == "__main__":
    main()
