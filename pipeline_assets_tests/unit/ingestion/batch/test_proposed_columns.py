"""Columns of Postgres and of Parquet as fields: their types, and numbers without digits by what their values show."""

import pyarrow as pa
import pytest

from pipeline_assets.ingestion.batch.proposals import files, tables
from pipeline_assets.ingestion.batch.proposals.tables import CatalogColumn
from pipeline_assets.ingestion.sources.postgres_types import Column
from pipeline_assets.spec.sources import PostgresTable


def catalog_column(kind: str, modifier: int = -1) -> CatalogColumn:
    """A column as the catalog has it."""
    return CatalogColumn(name="a", type=Column(kind, modifier), shown=kind, is_required=False, description="", labels=[], checks=[])


def numeric(precision: int, scale: int) -> int:
    """How the catalog writes the digits of `numeric`."""
    return (precision << 16 | scale & 0x7FF) + 4


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (catalog_column("bigint"), ("integer", None, None)),
        (catalog_column("real"), ("number", None, None)),
        (catalog_column("jsonb"), ("string", None, None)),
        (catalog_column("numeric", numeric(12, 0)), ("integer", None, None)),
        (catalog_column("numeric", numeric(20, 0)), ("decimal", 20, 0)),
        (catalog_column("numeric", numeric(9, 2)), ("decimal", 9, 2)),
        (catalog_column("numeric", numeric(5, -3)), ("integer", None, None)),
        (catalog_column("numeric", numeric(2, 6)), ("decimal", 6, 6)),
        (catalog_column("date"), (None, None, None)),
    ],
)
def test_a_column_of_a_table_has_the_type_that_the_catalog_says(
    column: CatalogColumn, expected: tuple[str | None, int | None, int | None]
) -> None:
    """What no field holds has the reason, and what to do."""
    found = tables.field_type(column)

    assert (found.type, found.precision, found.scale) == expected
    assert (found.reason != "") == (found.type is None)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", None, "-20"], ("integer", None, None)),
        (["1.5", "2"], ("number", None, None)),
        (["9223372036854775808", "1"], ("decimal", 38, 0)),
        (["12345678901234567.25"], ("decimal", 38, 2)),
        ([None], ("number", None, None)),
        (["NaN", "1"], (None, None, None)),
        (["1e400"], (None, None, None)),
    ],
)
def test_numbers_without_digits_are_what_their_values_show(
    texts: list[str | None], expected: tuple[str | None, int | None, int | None]
) -> None:
    """They come as texts, of which no digit is lost."""
    column = tables.field_type(catalog_column("numeric"))

    found = tables._filled(column, catalog_column("numeric"), pa.array(texts, pa.string()))  # noqa: SLF001 - what a table gives

    assert (found.type, found.precision, found.scale) == expected
    assert (found.reason != "") == (found.type is None)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.int16(), "integer"),
        (pa.float32(), "number"),
        (pa.decimal128(9, 2), "decimal"),
        (pa.decimal128(12, 0), "integer"),
        (pa.decimal256(60, 2), "number"),
        (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.timestamp("ns", "Europe/Berlin"), "timestamp"),
        (pa.timestamp("us"), None),
        (pa.date32(), None),
        (pa.null(), None),
    ],
)
def test_a_column_of_parquet_has_the_type_that_holds_all_its_values(kind: pa.DataType, expected: str | None) -> None:
    """Times without a zone and days name no instant."""
    assert files.field_type("a", kind).type == expected


def test_what_is_read_of_a_table_is_bounded_and_quoted() -> None:
    """Texts are cut off, numbers come with all their digits, and a large table is sampled."""
    origin = PostgresTable(database="d", table='o"s', schema="S")
    columns = [(tables.field_type(each), each) for each in (catalog_column("text"), catalog_column("numeric"), catalog_column("bigint"))]

    statement = tables._select(origin, 2.5, columns, 10)  # noqa: SLF001 - what the database is asked

    assert (
        statement
        == 'select left("a"::text, 1000) as "c0", "a"::text as "c1", "a" as "c2" from "S"."o""s" tablesample system (2.5) limit 10'
    )
