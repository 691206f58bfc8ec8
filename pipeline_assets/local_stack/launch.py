"""Starts one service detached from its starter. Run as a script: the order comes as JSON on standard input.

The process that becomes the service writes its own pid file before it does so: a starter that is killed half way leaves no service behind
that nobody knows. Standard library and psutil only, for this runs once per service.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil


def main() -> None:
    """Leave a child behind that turns into the service, and end."""
    order = json.load(sys.stdin)
    if os.fork() == 0:
        become_service(order)


def become_service(order: dict[str, Any]) -> None:
    """Replace this process by the service: own session, output to its log, pid file, folder, user; never returns."""
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(source, target)
    write_pid_file(Path(order["pid_file"]), order["record"])
    os.chdir(order["folder"])
    if order["user"] is not None:
        os.setgroups([])
        os.setgid(order["user"])
        os.setuid(order["user"])
    os.execv(order["command"][0], order["command"])  # noqa: S606 - the order comes from the stack itself


def write_pid_file(path: Path, record: dict[str, Any]) -> None:
    """Put pid and start time of this process beside what the starter wants remembered; the file appears whole or not at all."""
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump({**record, "pid": os.getpid(), "created_at": psutil.Process().create_time()}, file)
    draft.rename(path)


if __name__ == "__main__":
    main()
