"""Whether others changed days of a table while they were being read."""

from datetime import date

from pipeline_assets.core import connections
from pipeline_assets.core.iceberg import Identifier, open_table
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.lake import files


def has_changed(settings: Settings, identifier: Identifier, first: date, last: date, snapshot_id: int) -> bool:
    """Whether the days `first` to `last` (UTC, inclusive) hold something else by now than at a snapshot; not where the table is gone."""
    with connections.catalog(settings) as catalog:
        table = open_table(catalog, identifier)
        return table is not None and files.has_changed(table, files.rows_of_days(table, first, last), snapshot_id)
