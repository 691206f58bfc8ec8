"""Tables that follow their declaration, in a catalog of one file."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog

from pipeline_assets.core.errors import SchemaConflict, TableMismatch
from pipeline_assets.core.iceberg import tables_of, time_column
from pipeline_assets.processing.lake.catalog import table_for_arrow, table_for_contract
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets_tests.lake_rows import TRIPS, trips

NOTE = Field(name="note", type="string", description="What the driver wrote.")
TIMES = pa.timestamp("us", tz="UTC")
DERIVED = pa.schema([pa.field("trip_id", pa.string(), nullable=False), pa.field("asked_at", TIMES), pa.field("rate", pa.float64())])


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog in a folder of its own."""
    with SqlCatalog("lake", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/lake") as catalog:
        yield catalog


def with_field(contract: Contract, name: str, **changes: object) -> Contract:
    """The contract with one field changed."""
    changed = tuple(replace(field, **changes) if field.name == name else field for field in contract.fields)  # type: ignore[arg-type]
    return replace(contract, fields=changed)


def test_a_table_is_typed_and_described_by_its_contract(lake: Catalog) -> None:
    """Types, order, nulls, descriptions, key and the day of the event time are those of the contract."""
    table = table_for_contract(lake, TRIPS, by_day=True)

    assert [(f.name, str(f.field_type), f.required, f.doc) for f in table.schema().fields][:4] == [
        ("trip_id", "string", True, "Identifier of the trip."),
        ("began_at", "timestamptz", True, "When the trip began."),
        ("recorded_at", "timestamptz", True, "When the row was written."),
        ("seats", "long", False, "Seats taken; null if not counted."),
    ]
    assert table.schema().identifier_field_names() == {"trip_id"}
    assert [(str(field.transform), field.name) for field in table.spec().fields] == [("day", "began_at_day")]
    assert time_column(table) == "began_at"
    assert table.name_mapping() is not None


def test_a_snapshots_table_has_no_partitions(lake: Catalog) -> None:
    """A source that is loaded whole is kept whole."""
    assert time_column(table_for_contract(lake, TRIPS, by_day=False)) is None


def test_an_unchanged_contract_changes_nothing(lake: Catalog) -> None:
    """Asking for the table again is no commit."""
    first = table_for_contract(lake, TRIPS, by_day=True)

    assert table_for_contract(lake, TRIPS, by_day=True).metadata_location == first.metadata_location


def test_a_contract_may_add_relax_and_retell(lake: Catalog) -> None:
    """A new optional field, a required one made optional and a new description follow, and the name mapping knows them."""
    table_for_contract(lake, TRIPS, by_day=True)
    changed = with_field(trips(TRIPS.name, NOTE), "is_return", required=False, description="Whether it went back.")
    table = table_for_contract(lake, changed, by_day=True)
    mapping = table.name_mapping()

    assert table.schema().find_field("note").optional
    assert table.schema().find_field("is_return").optional
    assert table.schema().find_field("is_return").doc == "Whether it went back."
    assert mapping is not None
    assert {"note": table.schema().find_field("note").field_id}.items() <= {f.names[0]: f.field_id for f in mapping.root}.items()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (with_field(TRIPS, "seats", type="string"), "field 'seats' is string, but long in the table"),
        (with_field(TRIPS, "fare", required=True), "field 'fare' is required, but older rows may hold null"),
        (replace(TRIPS, fields=tuple(f for f in TRIPS.fields if f.name != "fare")), "field 'fare' is gone from the declaration"),
        (trips(TRIPS.name, replace(NOTE, required=True)), "field 'note' is new and required"),
    ],
)
def test_a_contract_may_not_retype_tighten_drop_or_demand(lake: Catalog, changed: Contract, problem: str) -> None:
    """What would lose rows or their meaning is an error that names table and field; the table stays."""
    before = table_for_contract(lake, TRIPS, by_day=True)
    with pytest.raises(SchemaConflict, match=f"Table 'lake.trips' does not fit its declaration: {problem}"):
        table_for_contract(lake, changed, by_day=True)

    assert tables_of(lake, "lake")[0].metadata_location == before.metadata_location


def test_all_problems_are_named_at_once(lake: Catalog) -> None:
    """Two fields changed, two fields named."""
    table_for_contract(lake, TRIPS, by_day=True)
    changed = with_field(with_field(TRIPS, "seats", type="number"), "is_return", type="string")
    with pytest.raises(SchemaConflict) as conflict:
        table_for_contract(lake, changed, by_day=True)

    assert sorted(conflict.value.problems) == ["is_return", "seats"]


def test_days_cannot_be_given_or_taken_later(lake: Catalog) -> None:
    """A table by day is not taken for one without days, nor the other way round."""
    table_for_contract(lake, TRIPS, by_day=True)
    with pytest.raises(SchemaConflict, match="field 'began_at' partitions by day the table alone"):
        table_for_contract(lake, TRIPS, by_day=False)
    table_for_contract(lake, trips("buses"), by_day=False)
    with pytest.raises(SchemaConflict, match="field 'began_at' partitions by day the declaration alone"):
        table_for_contract(lake, trips("buses"), by_day=True)


def test_a_derived_table_takes_its_columns_from_arrow(lake: Catalog) -> None:
    """Strings, integers, floats, booleans and times of any width become the lake's five types; the time is required."""
    schema = pa.schema([("key", pa.large_string()), ("asked_at", TIMES), ("n", pa.uint32()), ("x", pa.float32()), ("b", pa.bool_())])
    table = table_for_arrow(lake, ("features", "view"), schema, "asked_at")

    assert [str(field.field_type) for field in table.schema().fields] == ["string", "timestamptz", "long", "double", "boolean"]
    assert [field.name for field in table.schema().fields if field.required] == ["asked_at"]


def test_a_derived_table_only_grows(lake: Catalog) -> None:
    """Columns may come and optional ones may go unmade, but none is dropped, and what is required may turn optional only."""
    table_for_arrow(lake, ("features", "view"), DERIVED, "asked_at")
    other = pa.schema([pa.field("trip_id", pa.string()), pa.field("asked_at", TIMES), pa.field("count", pa.int64(), nullable=False)])
    table = table_for_arrow(lake, ("features", "view"), other, "asked_at")
    again = table_for_arrow(lake, ("features", "view"), DERIVED, "asked_at")

    assert table.schema().column_names == ["trip_id", "asked_at", "rate", "count"]
    assert [field.name for field in again.schema().fields if field.required] == ["asked_at"]


def test_a_derived_table_keeps_types_and_required_columns(lake: Catalog) -> None:
    """A retyped column, a required one that is gone and a type the lake does not keep are errors that name them."""
    table_for_arrow(lake, ("features", "view"), DERIVED, "asked_at")
    with pytest.raises(SchemaConflict, match="field 'rate' is string, but double in the table"):
        table_for_arrow(lake, ("features", "view"), DERIVED.set(2, pa.field("rate", pa.string())), "asked_at")
    with pytest.raises(SchemaConflict, match="field 'trip_id' is gone from the declaration"):
        table_for_arrow(lake, ("features", "view"), DERIVED.remove(0), "asked_at")
    with pytest.raises(TableMismatch, match="has column 'at' of type timestamp"):
        table_for_arrow(lake, ("features", "view"), DERIVED.append(pa.field("at", pa.timestamp("us"))), "asked_at")


def test_tables_are_listed_by_name(lake: Catalog) -> None:
    """A namespace nothing was written to has no tables, which is no error."""
    for name in ("trips", "buses"):
        table_for_contract(lake, trips(name), by_day=True)

    assert [table.name() for table in tables_of(lake, "lake")] == [("lake", "buses"), ("lake", "trips")]
    assert tables_of(lake, "features") == []
