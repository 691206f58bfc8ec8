"""The errors of tables in the lake, and of what is made from them."""

from collections.abc import Mapping
from datetime import date

from pipeline_assets.core.errors import PipelineError

SHOWN = 5


class RowsLost(PipelineError):
    """Days of a table would lose rows that what is before it still has; nothing was written.

    days: rows of each day before and after, and those of each asset before the table that has more than would be left; None for a table
    without days.
    """

    def __init__(self, table: tuple[str, str], days: Mapping[date | None, tuple[int, int, Mapping[tuple[str, str], int]]]) -> None:
        self.table, self.days = table, days
        listed = [_shown(day, *found) for day, found in sorted(days.items(), key=lambda item: item[0] or date.min)]
        more = f" and {len(listed) - SHOWN} more days" if len(listed) > SHOWN else ""
        nearest = sorted({"/".join(name) for _, _, behind in days.values() for name in behind})
        super().__init__(
            f"{'.'.join(table)} would lose rows that are still there before it: {'; '.join(listed[:SHOWN])}{more}. Nothing was written. "
            f"Materialize what lies between {' and '.join(nearest)} and it for these days; if they are to go, give `may_shrink: true`."
        )


def _shown(day: date | None, before: int, after: int, behind: Mapping[tuple[str, str], int]) -> str:
    others = ", ".join(f"{'/'.join(name)} has {rows}" for name, rows in behind.items())
    return f"{'all rows' if day is None else day.isoformat()} from {before} to {after}, and {others}"
