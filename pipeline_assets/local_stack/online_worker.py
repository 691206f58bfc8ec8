"""The stream worker of the online store: it keeps the views online, and needs no Dagster."""

import socket
from functools import partial
from pathlib import Path

from pipeline_assets.local_stack import processes
from pipeline_assets.local_stack.plan import (
    KAFKA,
    ONLINE_WORKER,
    POSTGRES,
    S3,
    Description,
    Ending,
    Plan,
    Service,
    has,
    private_folder,
    product_settings,
    program,
    setting,
)

DSN = setting("online_dsn")
CONNECT_SECONDS = 3
HAS_TABLE = "select to_regclass('online.workers') is not null"
HAS_REPORTED = "select exists (select from online.workers where starts_with(worker, %s) and seen_at >= to_timestamp(%s))"


def service(plan: Plan) -> Service:
    """The worker; it works once it has reported to the online store. It starts in a folder that has no `.env` of another stack."""
    folder = plan.home / ONLINE_WORKER
    return Service(
        name=ONLINE_WORKER,
        command=(program("pipeline"), "features", "online", "run"),
        folder=folder,
        environment=product_settings(plan),
        is_ready=partial(has_reported, plan.home, plan.settings[DSN]),
        prepare=partial(_make, folder),
    )


def has_reported(home: Path, dsn: str, since: float) -> bool:
    """The process that runs now has reported since a time (seconds since 1970)."""
    import psycopg

    known = processes.running(home, ONLINE_WORKER)
    if known is None:
        return False
    worker = f"{socket.gethostname()}:{known.pid}:"
    try:
        with psycopg.connect(dsn, connect_timeout=CONNECT_SECONDS) as connection:
            is_there = connection.execute(HAS_TABLE).fetchone() == (True,)
            return is_there and connection.execute(HAS_REPORTED, (worker, since)).fetchone() == (True,)
    except psycopg.Error:
        return False


def _make(folder: Path) -> None:
    private_folder(folder)


DESCRIPTION = Description(
    name=ONLINE_WORKER,
    build=service,
    # Who has the store has its workers: one from here, of another version maybe, should not change it.
    is_elsewhere=has(DSN),
    needs=(POSTGRES, S3, KAFKA),
    # It gives what is in hand five seconds.
    ending=Ending(seconds=8.0),
)
