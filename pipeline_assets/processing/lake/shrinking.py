"""Days that lose rows which the steps before them still have: refused before they are written.

A table is a function of what is before it. Where a day of it had rows and would have fewer, and what it is made from has more than would
be left, something in between is broken: a catalog that is older than its files, a join that finds nothing, a warehouse from a backup.
Rows that are gone from their source are gone from what is before the table too, and so are never held up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.lake_errors import LostRows, RowsLost
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings

# Rows of each day; of a table without days, all of its rows under None.
Counts = Mapping[date | None, int]
# Rows by day of what a table is made from, by its asset, of the days that it is asked for.
Behind = Callable[[Sequence[date | None]], Mapping[AssetName, Counts]]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How much of a day's rows may go: a `share` of them, and a few (`rows`) in any case, as a correction may move them to another day."""

    share: float
    rows: int


# A raw table is a copy, so it may lose none; what dbt makes of it may filter and merge.
COPY, DERIVED = Limit(share=0.0, rows=0), Limit(share=0.5, rows=10)


def check_kept(table: AssetName, before: Counts, after: Counts, behind: Behind, limit: Limit) -> None:
    """Raises RowsLost for days of a table that lose more rows than they may, while all that is behind it has more than would be left.

    All: of tables that are joined the one that was corrected down may be the one that counts. before, after: rows of the days that are
    written, as they are and as they would be; a day that is not there has none.
    """
    fewer = [day for day, rows in before.items() if rows - after.get(day, 0) > max(limit.rows, limit.share * rows)]
    if not fewer:
        return
    there = behind(fewer)
    lost = []
    for day in sorted(fewer, key=lambda one: one or date.min):
        left = after.get(day, 0)
        more = {"/".join(name): counts[day] for name, counts in there.items() if counts.get(day, 0) > left}
        if there and len(more) == len(there):
            lost.append(LostRows(day=day, before=before[day], after=left, behind=more))
    if lost:
        raise RowsLost(".".join(table), lost)


def staged_behind(settings: Settings, contract_name: str) -> Behind:
    """The rows of days as they are staged, of which a raw table is a copy by way of the lake."""
    from pipeline_assets.ingestion.staging.partitions import manifest_from, partition_of

    def count(days: Sequence[date | None]) -> Mapping[AssetName, Counts]:
        client = object_store(settings)
        found = {day: manifest_from(client, settings.s3_bucket, contract_name, partition_of(day)) for day in days}
        return {names.staged(contract_name): {day: manifest.rows for day, manifest in found.items() if manifest is not None}}

    return count


def lake_behind(settings: Settings, contract_names: Sequence[str]) -> Behind:
    """The rows of days in the lake's tables of some contracts, which a cleaned table is made from by way of the warehouse."""
    from pipeline_assets.processing.lake import tables

    def count(days: Sequence[date | None]) -> Mapping[AssetName, Counts]:
        known = [day for day in days if day is not None]
        span = (min(known), max(known)) if known else (None, None)
        return {names.lake(name): tables.rows_by_day(settings, names.lake(name), span) for name in contract_names}

    return count
