"""Values of every writer in the types of contracts: whole columns as one by one, and never rounded."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.ingestion.sources.contracts import Checked, check_batch
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.sources.numbers import EXACT
from pipeline_assets.ingestion.sources.plain_json import plain_json
from pipeline_assets.ingestion.sources.text_columns import from_texts
from pipeline_assets.ingestion.sources.typed_columns import from_floats, typed
from pipeline_assets.ingestion.sources.values import read_values, value_of
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets_tests.postgres_edges import KEY, UPDATED, column, edge_rows, edges_contract, type_table

FIELDS = [
    Field(name="v", type="integer", description="Whole."),
    Field(name="v", type="number", description="Any."),
    *(
        Field(name="v", type="decimal", precision=p, scale=s, description="Exact.")
        for p, s in ((12, 2), (38, 10), (5, 5), (18, 0), (38, 38))
    ),
]
DIGITS = st.text("0123456789", min_size=1, max_size=45)
NUMBERS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-", "+"]),
    DIGITS,
    st.one_of(st.just(""), DIGITS.map(lambda found: f".{found}"), st.sampled_from([".", ".00", ".50"])),
    st.sampled_from(["", "", "", "e3", "E-4", "e400", "e-400"]),
)
TEXTS = st.one_of(NUMBERS, st.sampled_from(["nan", "Infinity", "-inf", "x", " 1", "1_0", "0x1", "--1", "1e999999999"]))
AT = "2013-05-01T12:00:00Z"
DOCS = Path(__file__).resolve().parents[4] / "docs" / "how-to" / "add-a-source.md"


def one_by_one(field: Field, texts: list[str]) -> list[Any]:
    """Each value, or why there is none."""
    values, unread = read_values(field, [value_of(field.type, text) for text in texts])
    return [unread.get(place, repr(value)) for place, value in enumerate(values)]


@given(st.sampled_from(FIELDS), st.lists(TEXTS, min_size=1, max_size=20))
def test_a_column_of_texts_is_what_its_texts_are_one_by_one(field: Field, texts: list[str]) -> None:
    """Whether Arrow or Python reads a number, the value, or what is wrong with it, is the same."""
    found, faults = from_texts(field, pa.array(texts))
    reasons = {int(row): reason for reason, mask in faults.items() for row in np.flatnonzero(mask)}

    assert [reasons.get(row, repr(value)) for row, value in enumerate(found.to_pylist())] == one_by_one(field, texts)


def is_held(text: bytes) -> bool:
    """Whether bytes are a text that every part of the platform can hold."""
    return b"\0" not in text and text.decode(errors="ignore").encode() == text


@given(st.lists(st.one_of(st.none(), st.text(), st.binary(max_size=4)), max_size=9), st.integers(0, 3), st.integers(0, 9))
def test_texts_are_held_or_broken_each_by_itself(found: list[str | bytes | None], first: int, rows: int) -> None:
    """Whatever part of a column is looked at: a NUL, or bytes that are no UTF-8, break their own row."""
    written = [text.encode() if isinstance(text, str) else text for text in found]
    part = pa.array(written, pa.binary()).view(pa.string()).slice(first, rows)
    texts, faults = from_texts(Field(name="v", type="string", description="Text."), part)

    expected = [text is not None and not is_held(text) for text in written[first : first + rows]]
    assert faults.get("wrong type", np.zeros(len(part), dtype=bool)).tolist() == expected
    kept = [None if is_broken else text for text, is_broken in zip(written[first : first + rows], expected, strict=True)]
    assert texts.cast(pa.binary()).to_pylist() == kept


@pytest.mark.parametrize(
    ("digits", "text"),
    [
        ((38, 38), "11"),
        ((38, 10), "40000000000000000000000000000"),
        ((38, 10), "-40000000000000000000000000000.5"),
        ((38, 10), "4e28"),
        ((38, 2), "4E36"),
    ],
)
def test_a_decimal_that_has_no_place_is_out_of_range(digits: tuple[int, int], text: str) -> None:
    """Regression: Arrow multiplied beyond 128 bits and went on with what was left, so 11 became 0.7915… in a decimal(38, 38)."""
    field = Field(name="v", type="decimal", precision=digits[0], scale=digits[1], description="Exact.")

    found, faults = from_texts(field, pa.array([text]))

    assert (found.to_pylist(), list(faults)) == ([None], ["out of range"])


@given(st.sampled_from(FIELDS[2:]), NUMBERS)
def test_a_decimal_is_the_number_that_is_written_or_a_fault(field: Field, text: str) -> None:
    """Every digit is kept; a number that would have to be rounded, or is too large, has no value."""
    (found,), unread = read_values(field, [value_of("decimal", text)])
    written, (precision, scale) = Decimal(text), (field.precision or 0, field.scale or 0)
    in_units = EXACT.scaleb(written, scale)
    has_place = in_units == in_units.to_integral_value(context=EXACT) and abs(in_units) < 10**precision

    assert (found is not None) == has_place
    assert found is None or (found == written and found.as_tuple().exponent == -scale)
    assert unread.get(0, "") in ([""] if has_place else ["too precise", "out of range"])


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_whole_number_keeps_its_digits_however_it_is_written(value: int) -> None:
    """As an integer, with zeros after its point, with an exponent, as a decimal: it never passes through a float."""
    field = FIELDS[0]
    texts = [str(value), f"{value}.000", f"{value}.00e0"]

    assert from_texts(field, pa.array(texts))[0].to_pylist() == [value] * 3
    assert typed(field, pa.array([Decimal(value)], pa.decimal128(38, 4)))[0].to_pylist() == [value]
    assert read_values(field, [json.loads(text, parse_float=Decimal) for text in texts]) == ([value] * 3, {})


def contract_of(*fields: Field) -> Contract:
    """A contract of a key, these fields and a time."""
    whole = edges_contract("rows")
    return Contract(**{**vars(whole), "fields": (whole.fields[0], *fields, whole.fields[-1])})


def read_json(contract: Contract, rows: list[bytes]) -> tuple[list[Any], list[Any]]:
    """The good rows and the faults of some records, plain ones as columns and the others one by one, in their order."""
    reader = plain_json(contract)
    assert reader is not None
    found = reader.read(pa.array(rows, pa.binary()))
    odd = np.setdiff1d(np.arange(len(rows)), found.places)
    parts: list[Checked] = [
        check_batch(contract, found.columns, first_position=0, original=lambda row: rows[found.places[row]]).at(found.places),
        check_json_rows(contract, [rows[place] for place in odd]).at(odd),
    ]
    good = {int(place): row for part in parts for place, row in zip(part.positions, part.good.to_pylist(), strict=True)}
    return [repr(good[place]) for place in sorted(good)], sorted((row.position, row.fault) for part in parts for row in part.broken)


@given(st.lists(st.tuples(st.sampled_from(["{}", '"{}"']), NUMBERS), min_size=1, max_size=10))
def test_decimals_and_numbers_of_json_are_the_same_as_columns_and_one_by_one(written: list[tuple[str, str]]) -> None:
    """Whether DuckDB or Python reads a record decides nothing, however many digits a number has."""
    contract = contract_of(
        Field(name="exact", type="decimal", precision=20, scale=5, description="Exact."),
        Field(name="near", type="number", description="Near."),
    )
    rows = [
        f'{{"{KEY}": {place}, "exact": {form.format(text)}, "near": {text}, "{UPDATED}": "{AT}"}}'.encode()
        for place, (form, text) in enumerate(written)
    ]
    slow = check_json_rows(contract, rows)

    good, broken = read_json(contract, rows)
    assert good == [repr(row) for row in slow.good.to_pylist()]
    assert broken == [(row.position, row.fault) for row in slow.broken]


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("1e99999999999999999999", "out of range"),
        ("-1E+99999999999999999999", "out of range"),
        ("1e-99999999999999999999", "out of range"),
        ("1e999999999999999999", "out of range"),
        ("9" * 4000, "out of range"),
        ("NaN", "not finite"),
    ],
)
def test_a_number_that_nothing_holds_breaks_its_row_however_it_is_written(written: str, fault: str) -> None:
    """Regression: an exponent beyond those of decimals ended the reading of all records, and so stopped its stream."""
    contract = contract_of(Field(name="v", type="number", description="Any."))
    rows = [f'{{"{KEY}": {place}, "v": {text}, "{UPDATED}": "{AT}"}}'.encode() for place, text in enumerate(["0.5", written, "1e2"])]

    assert [row.fault for row in check_json_rows(contract, rows).broken] == [f"v {fault}"]
    assert read_json(contract, rows)[1] == [(1, f"v {fault}")]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_a_short_float_is_the_shortest_decimal_that_it_is_the_nearest_to(values: list[float]) -> None:
    """And so the same 32-bit float: nothing is lost, and nothing is made up."""
    found = from_floats(pa.array(values, pa.float32())).to_pylist()

    assert [np.float32(one) for one in found] == [np.float32(one) for one in values]
    assert all(len(repr(one).replace("-", "").partition("e")[0].replace(".", "").strip("0")) <= 9 for one in found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (Field(name="v", type="timestamp", sentinels=(datetime(9999, 12, 31, tzinfo=UTC),), description="End."), "9999-12-31T00:00:00Z"),
        (Field(name="v", type="timestamp", sentinels=(float("inf"),), description="End."), "infinity"),
        (Field(name="v", type="number", sentinels=("N/A",), description="Level."), "N/A"),
        (Field(name="v", type="number", sentinels=(-999,), description="Level."), -999),
        (Field(name="v", type="integer", sentinels=(-1,), description="Count."), -1.0),
        (Field(name="v", type="decimal", precision=5, scale=2, sentinels=(Decimal("-9.99"),), description="Price."), "-9.990"),
        (Field(name="v", type="boolean", sentinels=("unknown",), description="Flag."), "unknown"),
        (Field(name="v", type="string", sentinels=("",), description="Note."), ""),
    ],
)
def test_a_sentinel_is_null_and_missing_where_a_value_is_required(field: Field, value: Any) -> None:
    """By whatever writer it comes; a value that is none stays."""
    row = json.dumps({KEY: 1, "v": value, UPDATED: AT}).encode()
    required = Field(**{**vars(field), "required": True})

    assert [one["v"] for one in check_json_rows(contract_of(field), [row]).good.to_pylist()] == [None]
    assert [one.fault for one in check_json_rows(contract_of(required), [row]).broken] == ["v missing"]
    assert check_json_rows(contract_of(Field(**{**vars(field), "sentinels": ()})), [row]).good.to_pylist() != [
        {KEY: 1, "v": None, UPDATED: datetime(2013, 5, 1, 12, tzinfo=UTC)}
    ]


def test_the_table_of_types_in_the_documentation_is_what_the_tests_load() -> None:
    """It is written by the same list of edges."""
    assert type_table() in DOCS.read_text()
    assert {name for row in edge_rows() for name in row.texts} >= {column(0), column(1)}
