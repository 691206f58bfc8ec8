"""Column lineage from SQL."""

from pipeline_assets.processing.cleaning.lineage import column_lineage

FLIGHTS, PLANES = ("cleaned", "flights"), ("cleaned", "planes")
BELOW = {
    FLIGHTS: {"flight_id": "text", "tailnum": "text", "delay": "bigint", "is_cancelled": "boolean", "at": "timestamptz"},
    PLANES: {"tailnum": "text", "seats": "bigint"},
}


def test_a_column_comes_from_all_that_its_expression_names() -> None:
    """Through common table expressions, stars and renames, and with the database's name before the tables."""
    sql = """
        with late as (select *, delay >= 15 or is_cancelled as is_late from "db"."cleaned"."flights")
        select flight_id as id, is_late from late
    """

    assert column_lineage(sql, BELOW) == {"id": ((FLIGHTS, "flight_id"),), "is_late": ((FLIGHTS, "delay"), (FLIGHTS, "is_cancelled"))}


def test_a_column_that_only_chooses_rows_is_not_told() -> None:
    """Filters, joins and orders decide which rows there are, not what is in them."""
    sql = """
        select flights.flight_id, planes.seats from cleaned.flights join cleaned.planes on flights.tailnum = planes.tailnum
        where flights.delay > 3 order by flights.at
    """

    assert column_lineage(sql, BELOW) == {"flight_id": ((FLIGHTS, "flight_id"),), "seats": ((PLANES, "seats"),)}


def test_the_newest_of_several_rows_keeps_the_lineage_of_its_columns() -> None:
    """The de-duplication of staging orders by a whole row, which is no column."""
    sql = """
        with renamed as (select flight_id, at as known_at from cleaned.flights),
        newest as (select distinct on (flight_id) * from renamed order by flight_id, known_at desc, renamed desc)
        select * from newest
    """

    assert column_lineage(sql, BELOW) == {"flight_id": ((FLIGHTS, "flight_id"),), "known_at": ((FLIGHTS, "at"),)}


def test_a_constant_comes_from_nowhere() -> None:
    """A column made of constants has no source."""
    assert column_lineage("select 1 as one from cleaned.flights", BELOW) == {"one": ()}


def test_what_cannot_be_understood_has_no_lineage() -> None:
    """A statement that is no SQL, or reads an unknown table by star, gives no lineage and no error."""
    assert column_lineage("selekt 1", BELOW) == {}
    assert column_lineage("select nothing from cleaned.flights f join cleaned.unknown u on true", BELOW) in ({}, {"nothing": ()})
