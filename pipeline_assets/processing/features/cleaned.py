"""Cleaned tables as features read them: from the lake, each at one snapshot, no more of them than the asked days can see."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.errors import NotMaterialized, UnknownName, VersionsNotKept
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.lake import tables
from pipeline_assets.spec.features import CleanedTable
from pipeline_assets.spec.models import Observations, Versions

# Snapshots by "<namespace>.<table>" of the lake.
Snapshots = Mapping[str, int]
NEWEST: Snapshots = {}


def snapshots_of(settings: Settings, read: Sequence[AssetName], given: Snapshots = NEWEST) -> dict[str, int]:
    """The snapshot at which each of these lake tables is read: that given for it, else the newest.

    Raises UnknownName for a given table that is none of them, NotMaterialized for a table that nothing was written to.
    """
    tables_read = {".".join(table): table for table in read}
    for name in given:
        if name not in tables_read:
            raise UnknownName("table that is read here", name, list(tables_read))
    return {name: given[name] if name in given else _newest(settings, table) for name, table in tables_read.items()}


def among(given: Snapshots, read: Sequence[AssetName]) -> Snapshots:
    """The given snapshots of these tables, without those of others that a larger step reads as well."""
    return {name: given[name] for name in map(".".join, read) if name in given}


def _newest(settings: Settings, table: AssetName) -> int:
    found = tables.snapshot_id(settings, table)
    if found is None:
        raise NotMaterialized("/".join(table))
    return found


def read_events(
    settings: Settings,
    table: CleanedTable,
    columns: Sequence[str],
    bounds: tuple[datetime | None, datetime],
    snapshots: Snapshots,
    decided_from: datetime,
) -> pa.RecordBatchReader:
    """The rows of a cleaned table that happened from the first of `bounds` on (None: ever) and before the second, whenever they were known.

    Columns: those asked for, the table's times and the columns that break ties, each once. Times are microseconds in UTC. In no order.
    They are for decisions at `decided_from` and later; raises VersionsNotKept where the table no longer keeps what counted then.
    """
    name = names.cleaned(table.name)
    if table.superseded_at is not None:
        refuse_before_kept(settings, name, decided_from)
    superseded = () if table.superseded_at is None else (table.superseded_at,)
    wanted = list(dict.fromkeys((*columns, table.event_at, table.known_at, *superseded, *table.order_by)))
    return tables.read_between(settings, name, table.event_at, bounds, wanted, snapshots[".".join(name)])


def read_observations(
    settings: Settings, asked: Observations, first: date, last: date, snapshots: Snapshots, columns: Sequence[str] | None = None
) -> pa.Table:
    """The observations with decision_at in the days `first` to `last` (UTC, inclusive), by (decision_at, keys), text by its bytes.

    All columns, or those named and what they are ordered by. Times are microseconds in UTC. Of versions those that were decided. Raises
    VersionsNotKept where the table no longer keeps all that counted on the first day.
    """
    name = names.cleaned(asked.table)
    if asked.versions is not None:
        refuse_before_kept(settings, name, midnight(first))
    of_versions = () if asked.versions is None else (asked.versions.known_at, asked.versions.superseded_at, asked.versions.version)
    wanted = None if columns is None else list(dict.fromkeys((*asked.keys, asked.decision_at, *columns, *of_versions)))
    bounds = midnight(first), midnight(last + timedelta(days=1))
    rows = tables.read_between(settings, name, asked.decision_at, bounds, wanted, snapshots[".".join(name)]).read_all()
    decided = rows if asked.versions is None else rows.filter(_was_decided(rows, asked.decision_at, asked.versions))
    return decided.take(pc.sort_indices(decided, decision_order(asked)))


def refuse_before_kept(settings: Settings, table: AssetName, decided_from: datetime) -> None:
    """Raises VersionsNotKept if a decision at `decided_from` could need a version of a row that the table no longer keeps.

    A decision at t needs the versions that count then, all of them superseded after t or never. The table keeps those that were superseded
    after its `versions_since`. So each decision from that instant on has all that it needs, however far its windows look back: of an event
    of long before it counts the version that counts at t.
    """
    since = tables.versions_since(settings, table)
    if since is not None and decided_from < since:
        raise VersionsNotKept(".".join(table), decided_from, since)


def _was_decided(rows: pa.Table, decision_at: str, versions: Versions) -> pa.ChunkedArray:
    """Whether each version counted at its decision; a key's first also does where it was known only later."""
    decided = rows[decision_at]
    was_known = pc.or_(pc.less_equal(rows[versions.known_at], decided), pc.equal(rows[versions.version], 1))
    return pc.and_(was_known, pc.fill_null(pc.greater(rows[versions.superseded_at], decided), fill_value=True))


def decision_order(asked: Observations) -> list[tuple[str, str]]:
    """By (decision_at, keys), as Arrow sorts."""
    return [(name, "ascending") for name in (asked.decision_at, *asked.keys)]


def midnight(day: date) -> datetime:
    """The beginning of a UTC day."""
    return datetime.combine(day, time(), UTC)
