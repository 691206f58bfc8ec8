"""Pages of Postgres that are not what was written: read, they are an error that says where and what to do, by both drivers."""

from collections.abc import Callable

import pytest

from pipeline_assets.core.connections import arrow_warehouse, warehouse
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.wait_errors import DatabaseDamaged
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import BrokenRow
from pipeline_assets_tests.flipped_pages import PAGE_BYTES, pages

TABLE = "quarantine.rows"


def by_quarantine(settings: Settings) -> object:
    """The rows as the platform lists them."""
    return quarantine.listed(settings)


def by_session(settings: Settings) -> object:
    """The rows by psycopg."""
    with warehouse(settings) as connection:
        return connection.execute(f"table {TABLE}").fetchall()


def by_arrow(settings: Settings) -> object:
    """The rows by ADBC."""
    with arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(f"table {TABLE}")
        return cursor.fetch_arrow_table().column("original").to_pylist()


@pytest.mark.parametrize("read", [by_quarantine, by_session, by_arrow])
def test_a_wrong_bit_of_a_row_on_disk_is_refused_with_its_table(isolated: Settings, read: Callable[[Settings], object]) -> None:
    """Nothing of the page is read; the error has the query that names the table, and once the bit is right the rows are as before."""
    broken = [BrokenRow(position=number, field="level", reason="wrong type", original=bytes([number]) * 1_000) for number in range(40)]
    quarantine.replace(isolated, "weather", "2013-01-01", broken, run_id="staged")
    before = read(isolated)
    with pages(isolated, isolated.home, TABLE) as found:
        with found.flipped((3 * PAGE_BYTES - 100) * 8), pytest.raises(DatabaseDamaged) as raised:
            read(isolated)
        query = str(raised.value).partition("`")[2].partition("`")[0]
        named = found.connection.execute(query.encode()).fetchone()

    assert "PIPELINE_WAREHOUSE_DSN" in str(raised.value)
    assert "invalid page in block 2" in str(raised.value)
    assert named == (TABLE,)
    assert read(isolated) == before
