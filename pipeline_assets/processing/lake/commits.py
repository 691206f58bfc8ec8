"""One snapshot that puts files in the place of others, planned again when another writer was faster."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import stamina

from pipeline_assets.core.errors import LakeBusy

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

RETRYING = stamina.RetryingCaller(attempts=6, wait_initial=0.05, wait_max=2.0, wait_jitter=0.1)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Change:
    """Files that leave the table and files that enter it; their bytes are not touched. `properties` are set with them (None: removed)."""

    remove: "Sequence[DataFile]"
    add: "Sequence[DataFile]"
    properties: Mapping[str, str | None] = field(default_factory=dict)


def replace_files(
    table: "Table",
    rows: "BooleanExpression",
    plan: "Callable[[Table], Change]",
    properties: Mapping[str, str | None] = MappingProxyType({}),
) -> Change:
    """Commit what `plan` makes of the table as one snapshot, and give it back; no snapshot if the change is empty and there is one.

    So a table to which no row was written has a snapshot too: that it is empty is known, and it can be read.

    `properties` of the table are set (None: removed) in the same commit, so that they are true of the rows that it leaves.

    Another writer's commit is taken up if it touched other rows. If it touched some of `rows`, the plan is made anew from the table as it
    is then, so that two writers of one day never leave both their files. Raises LakeBusy after some attempts.
    """
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    def commit() -> Change:
        change = plan(table)
        wanted = {**properties, **change.properties}
        new = {name: value for name, value in wanted.items() if table.properties.get(name) != value}
        if change.remove or change.add or table.current_snapshot() is None:
            _overwrite(table, rows, change, new)
        elif new:
            _set(table, new)
        return change

    return _retried(table, (CommitFailedException, ValidationException), commit)


def tag_snapshot(table: "Table", snapshot_id: int, tag: str) -> None:
    """Names a snapshot by a tag, where it has none of that name yet; raises LakeBusy if other writers always came first."""
    from pyiceberg.exceptions import CommitFailedException

    def commit() -> None:
        if tag not in table.refs():
            table.manage_snapshots().create_tag(snapshot_id, tag).commit()

    _retried(table, (CommitFailedException,), commit)


def _retried(table: "Table", conflicts: tuple[type[Exception], ...], commit: Callable[[], T]) -> T:
    """What a commit gives, made anew from the table as it is then when another writer was faster; LakeBusy after some attempts."""

    def attempt() -> T:
        table.refresh()
        return commit()

    try:
        return RETRYING(conflicts, attempt)
    except conflicts as error:
        raise LakeBusy(".".join(table.name()), str(error)) from error


def _overwrite(table: "Table", rows: "BooleanExpression", change: Change, properties: Mapping[str, str | None]) -> None:
    from pipeline_assets.processing.lake.transactions import OnceMade

    removed, kept = _split(properties)
    with OnceMade(table) as transaction:
        if removed:
            transaction.remove_properties(*removed)
        if kept:
            transaction.set_properties(kept)
        # Files are dropped by name, so no data is read or rewritten. The predicate is what the catalog's other commits are checked against.
        with transaction.update_snapshot().overwrite() as snapshot:
            snapshot.delete_by_predicate(rows)
            for file in change.remove:
                snapshot.delete_data_file(file)
            for file in change.add:
                snapshot.append_data_file(file)


def _set(table: "Table", properties: Mapping[str, str | None]) -> None:
    """Properties alone, refused if another writer has changed the rows since the table was read."""
    from pyiceberg.table.refs import MAIN_BRANCH
    from pyiceberg.table.update import AssertRefSnapshotId, RemovePropertiesUpdate, SetPropertiesUpdate

    removed, kept = _split(properties)
    current = table.current_snapshot()
    unchanged = AssertRefSnapshotId(ref=MAIN_BRANCH, **{"snapshot-id": None if current is None else current.snapshot_id})
    table.catalog.commit_table(table, (unchanged,), (RemovePropertiesUpdate(removals=removed), SetPropertiesUpdate(updates=kept)))
    table.refresh()


def _split(properties: Mapping[str, str | None]) -> tuple[list[str], dict[str, str]]:
    """The names of those to remove, and those to set."""
    kept = {name: value for name, value in properties.items() if value is not None}
    return [name for name in properties if name not in kept], kept
