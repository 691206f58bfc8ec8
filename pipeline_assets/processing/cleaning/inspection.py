"""The state of the warehouse's tables: how many rows of some days they hold."""

from datetime import UTC, date, datetime, time, timedelta

from pipeline_assets.core import connections
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings


def count_rows(settings: Settings, table: AssetName, event_at: str, days: tuple[date, date]) -> dict[date | None, int]:
    """How many rows of a table have their `event_at` on each of `days` (UTC, inclusive); a day without rows is left out."""
    from psycopg import sql

    day = sql.SQL("({} at time zone 'UTC')::date").format(sql.Identifier(event_at))
    statement = sql.SQL("select {day}, count(*) from {table} where {event_at} >= %s and {event_at} < %s group by 1").format(
        day=day, table=sql.Identifier(*table), event_at=sql.Identifier(event_at)
    )
    start, end = (datetime.combine(on, time(), UTC) for on in (days[0], days[1] + timedelta(days=1)))
    with connections.warehouse(settings) as connection:
        return {on: int(rows) for on, rows in connection.execute(statement, (start, end))}
