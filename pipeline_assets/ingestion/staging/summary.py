"""What a run staged, in numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline_assets.ingestion.staging.stage import Staged


def facts(staged: "Sequence[Staged]", seconds: float) -> dict[str, int | float | str]:
    """What a run staged in so many seconds; also the fields that the contract does not know, or that stood in no row of a partition."""
    rows = sum(one.manifest.rows for one in staged)
    return {
        "dagster/row_count": rows,
        "rows_broken": sum(one.manifest.broken for one in staged),
        "partitions": len(staged),
        "partitions_taken_up": sum(one.is_taken_up for one in staged),
        "files": sum(len(one.manifest.files) for one in staged),
        "bytes": sum(one.manifest.bytes for one in staged),
        "seconds": round(seconds, 3),
        "rows_per_second": round(rows / seconds) if seconds > 0 else 0,
        "fields_unknown": _named(one.unknown_fields for one in staged),
        "fields_absent": _named(one.absent_fields for one in staged),
    }


def _named(fields: Iterable[tuple[str, ...]]) -> str:
    return ", ".join(sorted({name for names in fields for name in names}))


def partition_facts(staged: "Staged") -> dict[str, int | float]:
    """Rows, files and bytes of one partition."""
    manifest = staged.manifest
    return {
        "dagster/partition_row_count": manifest.rows,
        "rows_broken": manifest.broken,
        "files": len(manifest.files),
        "bytes": manifest.bytes,
        "seconds": round(staged.seconds, 3),
    }


def reasons(staged: "Sequence[Staged]") -> dict[str, int]:
    """How many rows are broken, by what is wrong with them, the most frequent first."""
    counts: Counter[str] = Counter()
    for one in staged:
        counts.update(one.manifest.reasons)
    return dict(counts.most_common())


def empty_partitions(staged: "Sequence[Staged]") -> list[str]:
    """The partitions without any row, in order."""
    return [one.manifest.partition for one in staged if not one.manifest.rows]
