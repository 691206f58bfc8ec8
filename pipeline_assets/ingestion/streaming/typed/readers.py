"""How the records of a stream are read as rows of its typed table: with what its registry and its database say of them."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from pipeline_assets.core.errors import SourceUnavailable
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.postgres import columns_in, connect, source_errors
from pipeline_assets.ingestion.sources.forgotten import NOTHING, Forgotten
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader, share_of
from pipeline_assets.ingestion.streaming.decoding.schema_registry import schemas_of
from pipeline_assets.ingestion.streaming.streams import ChangeLog, followed_table
from pipeline_assets.ingestion.streaming.typed.table import typed_table
from pipeline_assets.spec.sources import RecordStream

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

# The property of a typed table that keeps what its database said of the widths of its columns.
WIDTHS = "pipeline.stream.character-widths"


def reader_of(
    settings: Settings, lake: "Catalog", stream: RecordStream, streams: Sequence[RecordStream], forgotten: Forgotten = NOTHING
) -> RecordReader:
    """The reader of the records of a stream; `streams` are all that are declared, `forgotten` the keys whose records are passed over.

    Raises SourceUnavailable where a followed table was never asked for its columns, and cannot be now.
    """
    widths = _widths(settings, lake, stream) if isinstance(stream, ChangeLog) else {}
    return RecordReader(stream, share_of(stream, streams), schemas_of(settings, stream.format), widths, forgotten)


def _widths(settings: Settings, lake: "Catalog", stream: ChangeLog) -> Mapping[str, int]:
    """The width of each column of a followed table whose values are filled up with blanks; as it was where the database is away."""
    table = typed_table(lake, stream.contract)
    known = table.properties.get(WIDTHS)
    try:
        found = json.dumps(_asked(settings, stream))
    except SourceUnavailable:
        if known is None:
            raise
        found = known
    if found != known:
        with table.transaction() as transaction:
            transaction.set_properties({WIDTHS: found})
    widths: dict[str, int] = json.loads(found)
    return widths


def _asked(settings: Settings, stream: ChangeLog) -> dict[str, int]:
    origin, source = followed_table(stream.source), stream.source.contract.name
    with closing(connect(settings, source, origin.database)) as connection, source_errors(source):
        columns = columns_in(connection, origin)
    declared = {field.name for field in stream.contract.fields}
    return {name: column.width for name, column in columns.items() if column.width is not None and name in declared}
