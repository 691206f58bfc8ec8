"""Commands of Dagster, each in a process of its own that is forked from one which has loaded the code location once.

The process is like that of `python -m dagster …` and can be killed like it, without the four seconds that it takes to import.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["dagster._cli", "pipeline_assets.definitions", __name__])


@dataclass(frozen=True, kw_only=True)
class Run:
    """A command that was started, and the file with all that it prints."""

    process: ForkServerProcess
    log: Path

    def comes_to(self, text: str) -> bool:
        """Returns once the text stands in the log, or else the process has ended: whether it does."""
        while not (found := text in self.log.read_text(errors="replace")) and self.process.exitcode is None:
            self.process.join(0.02)
        return found

    def wait(self, seconds: float) -> int:
        """The exit code once the process has ended, minus the signal that ended it; it is killed if it takes longer."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


def start(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Run:
    """Starts a command of Dagster with this environment alone in a folder, in which its log is kept."""
    log = folder / "run.log"
    log.write_text("")
    process = FORKS.Process(target=_become, args=(tuple(command), folder, dict(environment), log))
    process.start()
    return Run(process=process, log=log)


def _become(command: tuple[str, ...], folder: Path, environment: dict[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["dagster", *command]
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)
