"""All streams of a use case: those it declares, and the change log of each table that it follows."""

from dataclasses import dataclass

from pipeline_assets.core import names
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.ingestion.streaming.staged.changes import COMMITTED_AT, LSN, OPERATION, SNAPSHOT, TRANSACTION, UNTOLD, log_contract
from pipeline_assets.spec.sources import DebeziumChange, PostgresTable, RecordStream, Source
from pipeline_assets.spec.use_case import UseCase


@dataclass(frozen=True, kw_only=True)
class ChangeLog(RecordStream):
    """The changes of the table of a source."""

    source: Source


def record_streams(use_case: UseCase) -> tuple[RecordStream, ...]:
    """The declared streams, then the change logs in the order of their sources."""
    return (*use_case.streams, *(change_log(source) for source in followed(use_case)))


def followed(use_case: UseCase) -> tuple[Source, ...]:
    """The sources whose changes are followed."""
    return tuple(source for source in use_case.sources if source.load == "changes")


def change_log(source: Source) -> ChangeLog:
    """The stream of a table's changes, as Debezium tells them."""
    table = followed_table(source)
    return ChangeLog(
        source=source,
        contract=log_contract(source.contract),
        topic=names.changes_topic(table.database, table.schema, table.table),
        format=DebeziumChange(
            operation=OPERATION, lsn=LSN, committed_at=COMMITTED_AT, transaction=TRANSACTION, snapshot=SNAPSHOT, untold=UNTOLD
        ),
    )


def followed_table(source: Source) -> PostgresTable:
    """The table of a source that is followed; the declarations allow no other origin."""
    if not isinstance(source.origin, PostgresTable):
        raise UnknownName("origin of changes", type(source.origin).__name__, [PostgresTable.__name__])
    return source.origin
