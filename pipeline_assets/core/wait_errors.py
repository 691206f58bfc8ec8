"""The errors of waiting for Postgres (whom a statement waited for, what ended it, a server without connections), and for MLflow."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline_assets.core.errors import PipelineError, TransientError
from pipeline_assets.core.foreign import shown as foreign

SHOWN_CHARACTERS, BLOCKERS_SHOWN = 80, 3
# As in `invalid page in block 3 of relation "base/16390/24601"`.
FILE_OF_RELATION = re.compile(r"base/\d+/(\d+)")
LOCK_SECONDS, STATEMENT_SECONDS = "PIPELINE_POSTGRES_LOCK_SECONDS", "PIPELINE_POSTGRES_STATEMENT_SECONDS"


@dataclass(frozen=True)
class Blocker:
    """A session that holds a lock which another one waits for; what another role does is not shown to everybody (None)."""

    pid: int
    user: str | None
    application: str | None
    query_start: datetime | None
    query: str | None

    def __str__(self) -> str:
        since = "" if self.query_start is None else f", query since {self.query_start.isoformat(timespec='seconds')}"
        return f"pid {self.pid} (user {shown(self.user)}, application {shown(self.application)}{since}: {shown(self.query)})"


def shown(text: str | None) -> str:
    """The beginning of a text of somebody else, quoted, in one line without control characters."""
    if not text:
        return "unknown"
    line = " ".join(text.split())
    return f"'{foreign(line, SHOWN_CHARACTERS)}'"


class LockTimedOut(TransientError):
    """A statement waited for a lock for as long as the settings allow; nothing of its transaction was kept."""

    def __init__(self, setting: str, seconds: float, blockers: Sequence[Blocker]) -> None:
        self.setting, self.seconds, self.blockers = setting, seconds, tuple(blockers)
        listed = "; ".join(map(str, self.blockers[:BLOCKERS_SHOWN])) or "a session that could not be seen"
        more = f" and {len(self.blockers) - BLOCKERS_SHOWN} more" if len(self.blockers) > BLOCKERS_SHOWN else ""
        super().__init__(
            f"The database of {setting}: a statement waited {seconds:.0f} s for a lock ({LOCK_SECONDS}), held by {listed}{more}. "
            f"Nothing was written. Let that session end, or end it with `select pg_terminate_backend(<pid>)`, then try again."
        )


class StatementTimedOut(PipelineError):
    """A statement took longer than the settings allow; nothing of its transaction was kept."""

    def __init__(self, setting: str, seconds: float) -> None:
        self.setting, self.seconds = setting, seconds
        super().__init__(
            f"The database of {setting}: a statement took longer than {seconds:g} s ({STATEMENT_SECONDS}), and was ended. "
            "Nothing was written. Ask for fewer days at once, look at what slows the database, or set a longer limit."
        )


class DatabaseDamaged(PipelineError):
    """A page of a database is not what was written, by its checksum; nothing of the statement was used."""

    def __init__(self, setting: str, problem: str) -> None:
        # One driver puts its own words before the server's.
        self.setting, self.problem = setting, problem.rpartition("ERROR:")[2].partition("\n")[0].strip()
        file = FILE_OF_RELATION.search(problem)
        name = f" `select pg_filenode_relation(0, {file[1]})::regclass` names the table." if file else ""
        super().__init__(
            f"The database of {setting} is damaged: {shown(self.problem)}. Nothing was read or written.{name} An index is made "
            "anew by `reindex`, a table of the warehouse by materializing it again once it is dropped; all else comes from a backup."
        )


class DatabaseFull(TransientError):
    """A server, a database or a role has as many connections as it may have."""

    def __init__(self, setting: str, problem: str) -> None:
        self.setting, self.problem = setting, problem.rpartition("FATAL:")[2].partition("\n")[0].strip()
        super().__init__(
            f"The database of {setting} has no connection left: {shown(self.problem)}. The view pg_stat_activity shows who holds them: "
            "end those that idle, run less at once, or raise `max_connections` of the server or the CONNECTION LIMIT of the role."
        )


class TrackingUnavailable(TransientError):
    """MLflow did not answer in time, or said that it cannot now."""

    def __init__(self, url: str, problem: str) -> None:
        self.url, self.problem = url, problem
        super().__init__(f"MLflow at {url} does not answer: {foreign(problem)}. Look at its log, and at PIPELINE_MLFLOW_URL.")
