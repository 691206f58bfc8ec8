"""dbt as runs start it: it ends when the process that started it does, so that a killed run leaves none working on behind it.

dagster-dbt ends dbt with a run that is stopped; a run that is killed can end nothing. Imports little, as it is started for each run.
"""

import ctypes
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

# From <linux/prctl.h>. Other systems have no such call: there a dbt left behind works to its end, in its own transactions.
SET_SIGNAL_AT_END_OF_PARENT = 1


def main() -> None:
    """Become dbt, with the same arguments.

    Its version, which dagster-dbt asks for at every run, is printed at once: dbt itself would ask a package index for newer ones.
    """
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"{version('dbt-core')}\n")
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_SIGNAL_AT_END_OF_PARENT, signal.SIGTERM)
    dbt = Path(sys.executable).with_name("dbt")
    os.execv(dbt, [str(dbt), *sys.argv[1:]])  # noqa: S606 - this environment's own program
