"""All streams of the project: those that are declared, and the change log of each table that is followed."""

from dataclasses import dataclass

from pipeline_assets.core import names
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.project import Project, tables_of
from pipeline_assets.core.versions import in_table
from pipeline_assets.ingestion.streaming.staged.change_log import (
    ABSENT,
    BROKEN,
    BROKEN_FIELD,
    COMMITTED_AT,
    LSN,
    OPERATION,
    SNAPSHOT,
    TRANSACTION,
    log_contract,
)
from pipeline_assets.spec.sources import DebeziumChange, EventStream, PostgresTable, RecordStream, Source
from pipeline_assets.spec.use_case import UseCase


@dataclass(frozen=True, kw_only=True)
class ChangeLog(RecordStream):
    """The changes of the table of a source."""

    source: Source


def record_streams(project: Project) -> tuple[RecordStream, ...]:
    """The declared streams, then the change logs in the order of their sources; each once, whichever use cases share it."""
    return (*project.streams, *(change_log(source) for source in followed(project)))


def followed(project: Project) -> tuple[Source, ...]:
    """The sources whose changes are followed."""
    return tuple(source for source in project.sources if source.load == "changes")


def home_of(project: Project, stream: RecordStream) -> UseCase:
    """The use case that a stream belongs to, or the platform; a change log belongs to that of its source."""
    return project.home_of(stream.source.contract if isinstance(stream, ChangeLog) else stream.contract)


def streams_behind(project: Project, use_case: UseCase) -> tuple[EventStream, ...]:
    """The streams whose events may change the vectors of a use case: its own, and those of use cases that read a table which it reads.

    Of the platform, which has no vectors, its own.
    """
    tables = tables_of(use_case).keys()
    beside = [one for one in project.homes if one == use_case or tables & tables_of(one).keys()]
    declared = {stream.contract.name for one in beside for stream in one.streams}
    return tuple(stream for stream in project.streams if stream.contract.name in declared)


def change_log(source: Source) -> ChangeLog:
    """The stream of a table's changes, as Debezium emits them."""
    table = followed_table(source)
    return ChangeLog(
        source=source,
        contract=log_contract(in_table(source)),
        topic=names.changes_topic(table.database, table.schema, table.table),
        format=DebeziumChange(
            operation=OPERATION, lsn=LSN, committed_at=COMMITTED_AT, transaction=TRANSACTION, snapshot=SNAPSHOT, absent=ABSENT
        ),
    )


def broken_field(stream: RecordStream) -> str | None:
    """The field that is not null in rows of a stream that stand for records in quarantine; None where it has no such rows."""
    return BROKEN if BROKEN_FIELD in stream.contract.fields else None


def followed_table(source: Source) -> PostgresTable:
    """The table of a source that is followed; the declarations allow no other origin."""
    if not isinstance(source.origin, PostgresTable):
        raise UnknownName("origin of changes", type(source.origin).__name__, [PostgresTable.__name__])
    return source.origin
