"""The errors of tables in the lake, and of what is made from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from pipeline_assets.core.errors import PipelineError

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class LostRows:
    """Rows of a day (None: of a table without days) before and after, and those of each asset behind the table that has more, by key."""

    day: date | None
    before: int
    after: int
    behind: Mapping[str, int]

    def __str__(self) -> str:
        others = ", ".join(f"{asset} has {rows}" for asset, rows in self.behind.items())
        return f"{self.day or 'all rows'} from {self.before} to {self.after}, and {others}"


class RowsLost(PipelineError):
    """Days of a table would lose rows that what is before it still has; the table was left as it is."""

    def __init__(self, table: str, days: Sequence[LostRows]) -> None:
        self.table, self.days = table, tuple(days)
        more = f" and {len(self.days) - SHOWN} more days" if len(self.days) > SHOWN else ""
        nearest = " and ".join(sorted({asset for lost in self.days for asset in lost.behind}))
        shown = "; ".join(map(str, self.days[:SHOWN]))
        super().__init__(
            f"{table} would lose rows that are still there before it: {shown}{more}. It is left as it was. "
            f"Materialize what lies between {nearest} and it for these days; if they are to go, give `may_shrink: true`."
        )
