"""MLflow's server as one process, with the arguments of the command `mlflow`.

`mlflow server` starts the server as a child and waits for it, with all of MLflow in memory a second time (230 MB). Here it becomes the
server, once it has made the first user.
"""

from collections.abc import Mapping, Sequence
from os import execve
from typing import NoReturn

from pipeline_assets.core.settings import environment_of_children


def become(command: Sequence[str], *, extra_env: Mapping[str, str], **_: object) -> NoReturn:
    """Replaces this process by the server that MLflow would start."""
    execve(command[0], list(command), environment_of_children(dict(extra_env)))  # noqa: S606 - the command is MLflow's own


def main() -> None:
    """Runs the command."""
    from mlflow import server
    from mlflow.cli import cli

    server._exec_cmd = become  # type: ignore[attr-defined,assignment]  # noqa: SLF001 - there is no option for it; a test counts processes
    cli.main()


if __name__ == "__main__":
    main()
