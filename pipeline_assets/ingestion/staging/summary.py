"""What a run staged, in numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING

from pipeline_assets.core import names

if TYPE_CHECKING:
    from pipeline_assets.ingestion.staging.stage import Staged


def facts(staged: "Sequence[Staged]", seconds: float) -> dict[str, int | float | str]:
    """What a run staged in so many seconds; also the fields that the contract does not know, or that stood in no row of a partition."""
    staged_rows = rows(staged)
    return {
        "rows": staged_rows,
        "rows_broken": sum(one.manifest.broken for one in staged),
        "partitions": len(staged),
        "partitions_taken_up": sum(one.is_taken_up for one in staged),
        "files": sum(len(one.manifest.files) for one in staged),
        "bytes": sum(one.manifest.bytes for one in staged),
        "seconds": round(seconds, 3),
        "rows_per_second": round(staged_rows / seconds) if seconds > 0 else 0,
        "fields_unknown": _named(one.unknown_fields for one in staged),
        "fields_absent": _named(one.absent_fields for one in staged),
    }


def _named(fields: Iterable[tuple[str, ...]]) -> str:
    return ", ".join(sorted({name for names in fields for name in names}))


def rows(staged: "Sequence[Staged]") -> int:
    """The rows that kept the contract."""
    return sum(one.manifest.rows for one in staged)


def by_day(staged: "Sequence[Staged]") -> dict[date, dict[str, int | float]]:
    """The rows of each day, and how many were broken."""
    manifests = (one.manifest for one in staged)
    return {date.fromisoformat(one.partition): {names.PARTITION_ROWS: one.rows, "rows_broken": one.broken} for one in manifests}


def reasons(staged: "Sequence[Staged]") -> dict[str, int]:
    """How many rows are broken, by what is wrong with them, the most frequent first."""
    counts: Counter[str] = Counter()
    for one in staged:
        counts.update(one.manifest.reasons)
    return dict(counts.most_common())


def empty_partitions(staged: "Sequence[Staged]") -> list[str]:
    """The partitions without any row, in order."""
    return [one.manifest.partition for one in staged if not one.manifest.rows]
