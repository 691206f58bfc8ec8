"""Rows of files: CSV, JSON lines and Parquet, read part by part, each broken row with the line that it begins in."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.core.errors import SourceChanged, SourceRefused
from pipeline_assets.ingestion.batch import file_rows
from pipeline_assets.ingestion.batch.file_rows import OpenFile, parts
from pipeline_assets.ingestion.sources.json_rows import check_objects
from pipeline_assets.ingestion.sources.values import value_of
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import CsvFile, FileFormat, JsonLines, ParquetFile
from pipeline_assets_tests.readings import READINGS, reading

COLUMNS = tuple(field.name for field in READINGS.fields)
HEADER = ",".join(COLUMNS).encode() + b"\n"
LINE = b"a1,indoor,3,0.5,true,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z\n"
NOTES = replace(
    READINGS,
    fields=(*READINGS.fields, Field(name="note", type="string", description="Note.")),
    broken_share=1.0,
)
Broken = list[tuple[int, str, bytes]]


def read(content: bytes, written: FileFormat, contract: Contract = READINGS) -> tuple[list[dict[str, Any]], Broken]:
    """The good rows in their order, and of the broken ones line, fault and bytes."""
    good, broken = list[tuple[int, dict[str, Any]]](), Broken()
    for number, part in enumerate(parts(OpenFile(contract=contract, path="in.csv", content=pa.BufferReader(content), day=None), written)):
        for checked in part.checked:
            good += [(number << 32 | int(at), row) for at, row in zip(checked.positions, checked.good.to_pylist(), strict=True)]
            broken += [(int(part.lines[row.position]), row.fault, row.original) for row in checked.broken]
    return [row for _, row in sorted(good, key=lambda one: one[0])], sorted(broken)


VALUES = st.one_of(
    st.sampled_from(
        ["", "1", "-3", "0.5", "1e3", "true", "indoor", "2013-05-01T12:00:00Z", "2013-02-30T00:00:00Z", "2013-05-01 12:00:00+02:00"]
    ),
    st.sampled_from(["nan", "0x1F", "+1", " 1", "1,5", "9" * 30, "1e999", "2013-05-01", "2013-05-01T12:00:00.1234567Z"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8),
)


@given(
    st.lists(st.tuples(*[VALUES] * 8), max_size=12),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([40, 300, 1_000_000]),
)
def test_csv_of_any_writer_is_read_as_its_values(rows: list[tuple[str, ...]], quoting: int, end: str, block: int) -> None:
    """Whatever is quoted and wherever a block ends, each row has the values that were written, judged as if they had come one by one."""
    written = io.StringIO()
    writer = csv.writer(written, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    names = [field.name for field in NOTES.fields]
    writer.writerows([names, *rows])
    types = {field.name: field.type for field in NOTES.fields}
    objects = [{name: value_of(types[name], text) for name, text in zip(names, row, strict=True)} for row in rows]
    expected = check_objects(NOTES, objects, [b""] * len(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_rows, "BLOCK_BYTES", block)
        good, broken = read(written.getvalue().encode(), CsvFile(), NOTES)

    assert good == expected.good.to_pylist()
    assert [fault for _, fault, _ in broken] == [row.fault for row in expected.broken]


@given(st.lists(st.sampled_from([b"a", b'"', b",", b"\n", b"\r", b"\xff", b"\0", b" ", b"x\n"]), max_size=30).map(b"".join))
def test_what_is_read_as_whole_columns_is_what_is_read_row_by_row(content: bytes) -> None:
    """Bytes of any kind: the quick way takes a block only where Python's CSV reads the same."""
    contract = replace(
        READINGS, fields=(Field(name="one", type="string", description="1"), Field(name="two", type="string", description="2"))
    )
    block = content.removesuffix(b"\n")
    quick = file_rows.plain_csv(contract, ["one", "two"], block, ",")
    opened = OpenFile(contract=contract, path="x", content=pa.BufferReader(b""), day=None)
    slow = file_rows.csv_rows(file_rows.Lines(file=opened, block_bytes=1, is_last=True), block.split(b"\n"), ",")

    assert quick is None or [list(row.values()) for row in quick.to_pylist()] == [row.values for row in slow]


@pytest.mark.parametrize(
    ("odd", "fault"),
    [
        (b'a1,"indoor,3\n', "not a CSV line"),
        (b'a1,"x"y,3,0.5,true,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z\n', "not a CSV line"),
        (b"a1,indoor,3\n", "not a CSV line"),
        (LINE.replace(b"a1", b"\xff"), "not a CSV line"),
        (LINE.replace(b",3,", b",0x3,"), "level wrong type"),
        (LINE.replace(b",3,", b"," + b"9" * 5000 + b","), "level out of range"),
        (LINE.replace(b"0.5", b"1e999"), "value out of range"),
        (LINE.replace(b"05-01T12:00", b"02-30T12:00"), "read_at wrong type"),
        (LINE.replace(b"12:00:00Z", b"12:00:00"), "read_at without zone"),
        (LINE.replace(b"a1", b"a\0"), "sensor wrong type"),
    ],
)
def test_an_odd_line_of_csv_breaks_its_row_only(odd: bytes, fault: str) -> None:
    """The lines before and after it are rows as ever, and it is found by its number and its bytes."""
    good, broken = read(HEADER + LINE * 2 + odd + LINE.replace(b"indoor", b'"indoor"') * 3, CsvFile())

    assert [row["sensor"] for row in good] == ["a1"] * 5
    assert broken == [(4, fault, odd.removesuffix(b"\n"))]


def test_a_quoted_value_may_have_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of several lines counts from its first, also where a block ends in it, and the rows after it keep their numbers."""
    monkeypatch.setattr(file_rows, "BLOCK_BYTES", 70)
    noted = b'a1,indoor,3,0.5,true,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z,"one\n\n""two"", three"\n'
    good, broken = read(HEADER.replace(b"\n", b",note\n") + noted * 2 + b"short\n", CsvFile(), NOTES)

    assert [row["note"] for row in good] == ['one\n\n"two", three'] * 2
    assert broken == [(8, "not a CSV line", b"short")]


def test_a_mark_of_byte_order_is_no_part_of_the_first_value() -> None:
    """Neither of the first column's name, nor of the first value where a file has no such line, nor of the first JSON object."""
    mark = b"\xef\xbb\xbf"
    object_ = json.dumps(reading(), default=datetime.isoformat).encode()

    assert len(read(mark + HEADER + LINE, CsvFile())[0]) == 1
    assert read(mark + LINE, CsvFile(columns=COLUMNS))[0][0]["sensor"] == "a1"
    assert len(read(mark + object_, JsonLines())[0]) == 1


def test_columns_may_come_in_any_order_and_with_others() -> None:
    """By the names of the first line; a file of the header alone has no rows, and an empty one neither."""
    content = b"colour;sent_at;read_at;is_valid;value;level;kind;sensor\nred;2013-05-01T12:05:00Z;2013-05-01T12:00:00Z;;;;;b2\n"
    good, broken = read(content, CsvFile(delimiter=";"))

    assert [(row["sensor"], row["kind"], row["read_at"]) for row in good] == [("b2", None, datetime(2013, 5, 1, 12, tzinfo=UTC))]
    assert broken == []
    assert read(HEADER, CsvFile()) == read(b"", CsvFile()) == ([], [])


@pytest.mark.parametrize(
    ("content", "error", "named"),
    [
        (HEADER.replace(b"level,", b""), SourceChanged, r"'level' \(integer\) has no column in 'in\.csv'"),
        (HEADER.replace(b"level", b"kind"), SourceRefused, "names the column 'kind' twice"),
        (HEADER.decode().encode("utf-16"), SourceRefused, "is UTF-16, expected UTF-8"),
        (HEADER.decode().encode("utf-16-be"), SourceRefused, "is UTF-16 or UTF-32, expected UTF-8"),
        (gzip.compress(HEADER, mtime=0), SourceRefused, r"is compressed by gzip and not called \.gz, expected UTF-8"),
        (b"PK\x03\x04" + bytes(20), SourceRefused, "is a zip archive or a workbook, expected UTF-8"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(content: bytes, error: type[Exception], named: str) -> None:
    """The error has the file, and what is wrong with it."""
    with pytest.raises(error, match=named):
        read(content, CsvFile())


def test_a_row_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held of a row is bounded."""
    monkeypatch.setattr(file_rows, "LONGEST_ROW_BYTES", 2_000_000)
    with pytest.raises(SourceRefused, match="row of more than 2,000,000 bytes in line 2"):
        read(HEADER + b"x" * 5_000_000, CsvFile())


def test_json_lines_keep_their_numbers_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain and odd objects, empty lines and broken ones, however the file is cut into blocks."""
    monkeypatch.setattr(file_rows, "JSON_BLOCK_BYTES", 100)
    fine = json.dumps(reading(), default=datetime.isoformat).encode()
    nested = fine[:-1] + b', "more": {"deep": [1]}}'
    lines = [fine, b"", b"  ", nested, b"{broken", fine.replace(b'"level": 3', b'"level": 99'), b'{"a": 1, "a": 2}', fine]
    good, broken = read(b"\r\n".join(lines), JsonLines())

    assert good == [reading()] * 3
    assert broken == [(5, "not a JSON object", lines[4]), (6, "level out of range", lines[5]), (7, "a repeated field", lines[6])]


def parquet(**columns: pa.Array) -> bytes:
    """A file of one fine row, but for these columns."""
    row = pa.Table.from_pylist([reading()])
    for name, column in columns.items():
        row = row.set_column(row.column_names.index(name), name, column)
    sink = io.BytesIO()
    pq.write_table(row, sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("column", "found", "expected"),
    [
        ("level", pa.array([7], pa.uint64()), 7),
        ("level", pa.array([3], pa.int8()), 3),
        ("kind", pa.array(["indoor"], pa.large_string()), "indoor"),
        ("kind", pa.array(["outdoor"]).dictionary_encode(), "outdoor"),
        ("kind", pa.array(["indoor"], pa.string_view()), "indoor"),
        ("kind", pa.nulls(1), None),
        ("value", pa.array([2], pa.int32()), 2.0),
        ("value", pa.array([0.25], pa.float32()), 0.25),
        ("read_at", pa.array([1_367_409_600_000_001_000], pa.timestamp("ns", "UTC")), datetime(2013, 5, 1, 12, 0, 0, 1, UTC)),
        ("read_at", pa.array([1_367_409_600], pa.timestamp("s", "Europe/Berlin")), datetime(2013, 5, 1, 12, tzinfo=UTC)),
    ],
)
def test_columns_of_parquet_may_be_of_a_smaller_type(column: str, found: pa.Array, expected: object) -> None:
    """Each value is what it was."""
    good, broken = read(parquet(**{column: found}), ParquetFile())

    assert [row[column] for row in good] == [expected]
    assert broken == []


@pytest.mark.parametrize(
    ("column", "found", "reason", "written"),
    [
        ("level", pa.array([2**63], pa.uint64()), "out of range", b'"level": 9223372036854775808'),
        ("read_at", pa.array([1_367_409_600_000_000_001], pa.timestamp("ns", "UTC")), "wrong type", b'"read_at": '),
        ("sensor", pa.array(["a\0b"]), "wrong type", b'"sensor": "a\\u0000b"'),
        ("sensor", pa.array([b"\xff1"]).view(pa.string()), "wrong type", b'"sensor": "\xff1"'),
    ],
)
def test_a_value_that_does_not_fit_breaks_its_row(column: str, found: pa.Array, reason: str, written: bytes) -> None:
    """A whole number beyond 64 bits, a time between two microseconds, a text that is none: nothing is rounded.

    Regression: texts with a NUL, which Postgres does not take, and with bytes that are no UTF-8, were staged as good.
    """
    good, broken = read(parquet(**{column: found}), ParquetFile())

    assert good == []
    assert [(line, fault) for line, fault, _ in broken] == [(1, f"{column} {reason}")]
    assert written in broken[0][2]


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ("read_at", pa.array([datetime(2013, 5, 1)], pa.timestamp("us"))),  # noqa: DTZ001 - a column without a zone
        ("level", pa.array([3.0])),
        ("value", pa.array(["0.5"])),
        ("is_valid", pa.array([1])),
    ],
)
def test_a_column_of_another_kind_stops_the_source(column: str, found: pa.Array) -> None:
    """By name, with the file and what stands in it."""
    with pytest.raises(SourceChanged, match=rf"'{column}' is .*, expected .* in 'in\.csv'"):
        read(parquet(**{column: found}), ParquetFile())


def test_a_column_that_stands_twice_stops_the_source() -> None:
    """Regression: it was an error of the library, without source and file."""
    row = pa.Table.from_pylist([reading()])
    sink = io.BytesIO()
    pq.write_table(row.append_column("kind", row.column("kind")), sink)

    with pytest.raises(SourceChanged, match=r"'kind' \(string\) has two columns in 'in\.csv'"):
        read(sink.getvalue(), ParquetFile())


def test_lines_of_several_row_groups_go_on() -> None:
    """A row of Parquet has its number in the file, whichever row group it is in."""
    rows: Sequence[dict[str, Any]] = [reading(level=99 if number == 7 else 5, sensor=f"s{number}") for number in range(10)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, row_group_size=3)
    good, broken = read(sink.getvalue(), ParquetFile())

    assert [row["sensor"] for row in good] == [f"s{number}" for number in range(10) if number != 7]
    assert [(line, fault) for line, fault, _ in broken] == [(8, "level out of range")]


def repeated(text: str, rows: int) -> bytes:
    """A file of Parquet in which a dictionary has the text of all rows once."""
    places = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))
    row = pa.Table.from_pylist([reading()])
    table = pa.table({name: places if name == "sensor" else pa.repeat(row[name][0], rows) for name in row.column_names})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def test_a_text_that_is_too_long_is_refused_before_a_dictionary_repeats_it() -> None:
    """Regression: 20 KB that say a terabyte were decoded, until memory was gone."""
    content = repeated("x" * 16_000_001, 65_536)
    with pytest.raises(SourceRefused, match=r"file 'in\.csv' has a row of more than 16,000,000 bytes"):
        read(content, ParquetFile())

    assert len(content) < 20_000


def test_long_texts_that_a_dictionary_repeats_come_in_parts_that_fit_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part has little more than its share of bytes, of which all parts together have many times as much; no row is lost."""
    monkeypatch.setattr(file_rows, "PART_BYTES", 50_000)
    content = repeated("x" * 1_000, 10_000)
    file = OpenFile(contract=READINGS, path="in.parquet", content=pa.BufferReader(content), day=None)
    found = [(len(part.lines), *part.lines[[0, -1]].tolist()) for part in parts(file, ParquetFile())]

    assert max(count for count, _, _ in found) <= 51
    assert [first for _, first, _ in found] == [1, *(last + 1 for _, _, last in found[:-1])]
    assert found[-1][2] == 10_000
