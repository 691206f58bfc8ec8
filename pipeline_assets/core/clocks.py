"""The clock of a use case: the time on the wall, or how far its past has been replayed.

A replay is of this machine, so its clock is a file below the home of the stack, written by whoever replays. Where there is none, the days
of a use case decide: while they last its clock is that on the wall, and once they have ended nothing newer is awaited.
"""

import os
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from pipeline_assets.core.state_errors import StateFileDamaged

FOLDER = "clocks"


def replayed_to(home: Path, use_case: str) -> datetime | None:
    """Until when (UTC, exclusive) the past of a use case was replayed on this machine; None where it is not replayed.

    Raises StateFileDamaged.
    """
    path = home / FOLDER / use_case
    try:
        return datetime.fromisoformat(path.read_text(encoding="utf-8").strip()).astimezone(UTC)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StateFileDamaged(path, "has no time", "Write one such as 2013-07-01T00:00:00+00:00, or delete it") from error


def replay(home: Path, use_case: str, last: date) -> None:
    """Notes that the past of a use case was replayed to the end of a day (UTC); a clock that is further stays, a damaged one does not."""
    end, before = datetime.combine(last + timedelta(days=1), time(), UTC), None
    with suppress(StateFileDamaged):
        before = replayed_to(home, use_case)
    if before is not None and before >= end:
        return
    path = home / FOLDER / use_case
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{use_case}.{os.getpid()}.new")
    draft.write_text(end.isoformat() + "\n", encoding="utf-8")
    draft.rename(path)


def is_live(last_day: date | None, today: date) -> bool:
    """Whether days still come by the clock on the wall, whose last one is `last_day` (UTC, inclusive; None: open end)."""
    return last_day is None or today <= last_day


def clock_of(home: Path, use_case: str, last_day: date | None, now: datetime) -> datetime | None:
    """The clock of a use case whose days last until `last_day` (UTC, inclusive; None: open end); None once they have ended."""
    replayed = replayed_to(home, use_case)
    if replayed is not None:
        return replayed
    return now if is_live(last_day, now.date()) else None
