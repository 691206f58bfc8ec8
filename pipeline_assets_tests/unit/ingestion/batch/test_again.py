"""Broken rows that are read again from their bytes: as the source writes them, with the columns that their own file named."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.ingestion.batch import file_rows
from pipeline_assets.ingestion.batch.again import check_again
from pipeline_assets.ingestion.batch.file_rows import OpenFile, parts
from pipeline_assets.ingestion.sources.contracts import BrokenRow
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import CsvFile, FileFormat, Files, JsonLines, ParquetFile, Source
from pipeline_assets_tests.readings import READINGS, at, reading

NOTES = replace(READINGS, fields=(*READINGS.fields, Field(name="note", type="string", description="Note.")))
# Breaks every row that the other contract takes, and some that it does not.
NARROW = replace(NOTES, fields=tuple(replace(field, allowed=("never",)) if field.name == "sensor" else field for field in NOTES.fields))
NAMES = [field.name for field in NOTES.fields]
Judged = dict[int, dict[str, object] | str]


def source_of(written: FileFormat, contract: Contract = NOTES) -> Source:
    """A source of files with a contract."""
    return Source(contract=contract, origin=Files(folder="inbox", pattern="*", format=written), load="snapshot")


def judged(content: bytes, written: FileFormat, contract: Contract) -> tuple[Judged, list[tuple[int, BrokenRow]]]:
    """What becomes of each line of a file, its values or its fault, and the broken ones as they go to quarantine."""
    found, broken = Judged(), list[tuple[int, BrokenRow]]()
    for part in parts(OpenFile(contract=contract, path="in", content=pa.BufferReader(content), day=None), written):
        for checked in part.checked:
            found |= {int(part.lines[place]): row for place, row in zip(checked.positions, checked.good.to_pylist(), strict=True)}
            found |= {int(part.lines[row.position]): row.fault for row in checked.broken}
            broken += [(int(part.lines[row.position]), replace(row, place=f"in:{part.lines[row.position]}")) for row in checked.broken]
    return found, broken


def again(source: Source, broken: Sequence[tuple[int, BrokenRow]]) -> Judged:
    """What becomes of broken rows under the contract of a source, by their lines."""
    checked = check_again(source, [row for _, row in broken])
    good = {broken[place][0]: row for place, row in zip(checked.positions, checked.good.to_pylist(), strict=True)}
    return good | {broken[row.position][0]: row.fault for row in checked.broken}


VALUES = st.one_of(
    st.sampled_from(["", "1", "-3", "0.5", "true", "indoor", "2013-05-01T12:00:00Z", "2013-05-01T12:05:00Z", "x;y", "a,b", 'say "so"']),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=6),
)
FINE = st.just(("a1", "indoor", "3", "0.5", "true", "2013-05-01T12:00:00Z", "2013-05-01T12:05:00Z", "multi\nline, quoted"))


@given(
    st.lists(st.one_of(FINE, st.tuples(*[VALUES] * 8)), max_size=10),
    st.permutations(NAMES),
    st.sampled_from([(quoting, end) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL) for end in ("\n", "\r\n")]),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([40, 1_000_000]),
    st.sampled_from(["header", "declared"]),
)
def test_a_line_that_was_broken_is_read_again_as_its_file_would_be(
    rows: list[tuple[str, ...]], names: list[str], dialect: tuple[int, str], delimiter: str, block: int, columns: str
) -> None:
    """Whatever the order of the columns, the delimiter and the quotes: the same values, or the same fault, as a new reading of the file."""
    is_named, (quoting, end) = columns == "header", dialect
    written = io.StringIO()
    writer = csv.writer(written, quoting=quoting, lineterminator=end, delimiter=delimiter)  # type: ignore[arg-type]
    writer.writerows([names, *rows] if is_named else rows)
    kind = CsvFile(delimiter=delimiter, columns=None if is_named else tuple(names))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_rows, "BLOCK_BYTES", block)
        _, broken = judged(written.getvalue().encode(), kind, NARROW)
        expected, _ = judged(written.getvalue().encode(), kind, NOTES)

    assert again(source_of(kind), broken) == {line: expected[line] for line, _ in broken}


def test_each_line_is_read_by_the_columns_of_its_own_file() -> None:
    """Two files that name their columns in another order, or other ones: a later header says nothing of an earlier line."""
    first = b"sensor,level,read_at,sent_at\na,99,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z\n"
    other = b"level,sensor,sent_at,read_at\n98,b,2013-05-01T12:05:00Z,2013-05-01T12:00:00Z\n"
    few = replace(READINGS, fields=tuple(field for field in READINGS.fields if field.name in {"sensor", "level", "read_at", "sent_at"}))
    wider = replace(few, fields=tuple(replace(one, maximum=100) if one.name == "level" else one for one in few.fields))
    broken = [judged(content, CsvFile(), few)[1][0] for content in (first, other)]

    found = check_again(source_of(CsvFile(), wider), [row for _, row in broken]).good.to_pylist()

    fine = {"read_at": at(0), "sent_at": reading()["sent_at"]}
    assert found == [{"sensor": "a", "level": 99} | fine, {"sensor": "b", "level": 98} | fine]


def test_a_field_that_the_file_did_not_have_is_null_or_missing() -> None:
    """As in any row without it: null where the contract allows it, else the row stays broken."""
    content = b"sensor,read_at,sent_at\ntoolong,2013-05-01T12:00:00Z,2013-05-01T12:05:00Z\n"
    few = replace(READINGS, fields=tuple(field for field in READINGS.fields if field.name in {"sensor", "read_at", "sent_at"}))
    (broken,) = judged(content, CsvFile(), few)[1]
    wider = replace(READINGS, fields=tuple(replace(one, max_length=9) if one.name == "sensor" else one for one in READINGS.fields))
    stricter = replace(wider, fields=tuple(replace(one, required=True) if one.name == "level" else one for one in wider.fields))

    (row,) = check_again(source_of(CsvFile(), wider), [broken[1]]).good.to_pylist()
    (still,) = check_again(source_of(CsvFile(), stricter), [broken[1]]).broken

    assert (row["sensor"], row["level"]) == ("toolong", None)
    assert still.fault == "level missing"


def test_a_line_whose_columns_nobody_knows_stays_broken() -> None:
    """A row that an earlier version quarantined kept no columns: it is not guessed what its values mean."""
    old = BrokenRow(position=0, field="level", reason="out of range", original=b"a1,3", place="in.csv:2")

    (broken,) = check_again(source_of(CsvFile()), [old]).broken

    assert (broken.fault, broken.position) == ("unknown columns", 0)


def test_rows_of_json_lines_and_parquet_are_json() -> None:
    """JSON lines are the bytes that they were, rows of Parquet a JSON object of their values; a repeated version is JSON everywhere."""
    rows = [reading(), reading(sensor="b", level=99)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    lines = b"\n".join(b'{"sensor": "b", "level": 99, "read_at": "2013-05-01T12:00:00Z", "sent_at": "2013-05-01T12:05:00Z"}' for _ in rows)
    wider = replace(READINGS, fields=tuple(replace(one, maximum=100) if one.name == "level" else one for one in READINGS.fields))
    for content, written in ((lines, JsonLines()), (sink.getvalue().to_pybytes(), ParquetFile())):
        broken = judged(content, written, READINGS)[1]
        good = check_again(source_of(written, wider), [row for _, row in broken]).good.to_pylist()
        assert [(row["sensor"], row["level"], row["read_at"]) for row in good] == [("b", 99, at(0))] * len(broken)
    repeated = BrokenRow(position=3, field="sensor, read_at", reason="repeated version", original=broken[0][1].original)

    assert check_again(source_of(CsvFile(), wider), [repeated]).good.num_rows == 1
