"""Rows of one file, checked part by part in bounded memory: lines of CSV or JSON, and row groups of Parquet.

A part knows the line of the file that each of its rows begins in, counted from 1 (of Parquet the row), so that a broken row can be found.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.errors import SourceChanged, SourceRefused
from pipeline_assets.ingestion.batch.pages import KEEP_BYTES
from pipeline_assets.ingestion.sources.arrow_types import ARROW_TYPES
from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked, check_batch
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.sources.plain_json import PlainJson, plain_json
from pipeline_assets.ingestion.sources.text_rows import check_texts
from pipeline_assets.spec.contracts import Contract, FieldType
from pipeline_assets.spec.sources import CsvFile, FileFormat, JsonLines, ParquetFile

# JSON is read faster in larger blocks, which two cores share.
BLOCK_BYTES, JSON_BLOCK_BYTES = 1_000_000, 8_000_000
LONGEST_ROW_BYTES, LONGEST_ROW_LINES = 16_000_000, 1_000
PARQUET_ROWS, PART_BYTES = 65_536, 64_000_000
TEXTS = (pa.string(), pa.large_string(), pa.string_view())
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# How files begin that are no text, and what they are.
OTHERS = {
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PAR1\x15": "Parquet", b"PK\x03\x04": "a zip archive or a workbook",
    b"\x1f\x8b": "compressed by gzip and not called .gz", b"\x28\xb5\x2f\xfd": "compressed by zstd and not called .zst",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of a file after their check, at positions from 0 on; `lines` has the line that each of them begins in."""

    checked: Sequence[Checked]
    lines: np.ndarray


@dataclass(frozen=True, kw_only=True)
class OpenFile:
    """A file that is being read; `path` is what errors call it."""

    contract: Contract
    path: str
    content: pa.NativeFile
    day: date | None

    def refused(self, problem: str) -> SourceRefused:
        """The error of a file that cannot be read, however often it is."""
        return SourceRefused(self.contract.name, f"file '{self.path}' {problem}")


def parts(file: OpenFile, written: FileFormat) -> Iterator[Part]:
    """The rows of a file, part by part.

    Raises SourceChanged for a file without a column that the contract has, or with one of another kind; SourceRefused for one that has a
    row of more than 16 MB, or is no UTF-8.
    """
    match written:
        case CsvFile():
            yield from _csv_parts(file, written)
        case JsonLines():
            yield from _json_parts(file)
        case ParquetFile():
            yield from _parquet_parts(file)


@dataclass(kw_only=True)
class Lines:
    """The lines of a file, a block at a time; `first` is the number of the first that has not been taken."""

    file: OpenFile
    block_bytes: int
    first: int = 1
    rest: bytes = b""
    is_last: bool = False

    def blocks(self) -> Iterator[bytes]:
        """Whole lines, without the last sign of a line's end; those that are given back to `rest` come again with the next."""
        while not self.is_last:
            read = self.file.content.read(self.block_bytes)
            content, self.is_last = self.rest + read, not read
            if self.first == 1:
                self._refuse_other(content)
                content = content.removeprefix(BYTE_ORDER_MARK)
            end = len(content) if self.is_last else content.rfind(b"\n") + 1
            self.rest = content[end:]
            if len(self.rest) > LONGEST_ROW_BYTES:
                raise self.file.refused(f"has a row of more than {LONGEST_ROW_BYTES:,} bytes in line {self.first}")
            if end:
                yield content[:end].removesuffix(b"\n")

    def give_back(self, lines: Sequence[bytes]) -> None:
        """The last lines of a block, of a row that ends in a later one."""
        self.rest = b"".join(line + b"\n" for line in lines) + self.rest

    def _refuse_other(self, content: bytes) -> None:
        found = next((found for begins, found in OTHERS.items() if content.startswith(begins)), None)
        # The first two signs of most texts, of two bytes each.
        found = found or ("UTF-16 or UTF-32" if b"\0\0" in {content[0:4:2], content[1:4:2]} else None)
        if found is not None:
            raise self.file.refused(f"is {found}, expected UTF-8")


def _json_parts(file: OpenFile) -> Iterator[Part]:
    plain, lines = plain_json(file.contract), Lines(file=file, block_bytes=JSON_BLOCK_BYTES)
    for block in lines.blocks():
        # Most files have neither of the two, and looking for a byte is quick.
        found = (block.removesuffix(b"\r").replace(b"\r\n", b"\n") if b"\r" in block else block).split(b"\n")
        has_empty = not all(found) or any(map(bytes.isspace, found))
        places = [place for place, line in enumerate(found) if line and not line.isspace()] if has_empty else range(len(found))
        rows, numbers = [found[place] for place in places] if has_empty else found, lines.first + np.array(places, dtype=np.int64)
        lines.first += len(found)
        yield Part(checked=list(_checked_json(file, plain, rows)), lines=numbers)


def _checked_json(file: OpenFile, plain: PlainJson | None, rows: Sequence[bytes]) -> Iterator[Checked]:
    """JSON objects after their check: plain ones as whole columns, the others one by one."""
    odd = np.arange(len(rows))
    if plain is not None and rows:
        found = plain.read(pa.array(rows, pa.binary()))
        checked = check_batch(
            file.contract, found.columns, first_position=0, original=lambda row: rows[found.places.item(row)], day=file.day
        )
        yield replace(checked.at(found.places), fields=found.fields)
        odd = np.setdiff1d(odd, found.places, assume_unique=True)
    if odd.size:
        yield replace(check_json_rows(file.contract, [rows[place] for place in odd.tolist()], day=file.day).at(odd), originals=None)


def _csv_parts(file: OpenFile, written: CsvFile) -> Iterator[Part]:
    # Python's own limit of a value is 128 KiB, and holds for the process.
    csv.field_size_limit(LONGEST_ROW_BYTES)
    lines, columns = Lines(file=file, block_bytes=BLOCK_BYTES), written.columns
    for block in lines.blocks():
        texts = None if columns is None else plain_csv(file.contract, columns, block, written.delimiter)
        if texts is not None:
            yield _with_columns(_plain_part(file, texts, block, lines.first), written, columns)
            lines.first += texts.num_rows
            continue
        rows = csv_rows(lines, block.split(b"\n"), written.delimiter)
        if columns is None and rows:
            columns, rows = header(file, rows[0].values), rows[1:]
            _require(file, {field.name: f"({field.type}) has no column" for field in file.contract.fields if field.name not in columns})
        if columns is not None and rows:
            part = Part(checked=[_checked_csv(file.contract, columns, rows, file.day)], lines=np.array([row.line for row in rows]))
            yield _with_columns(part, written, columns)


def _with_columns(part: Part, written: CsvFile, columns: Sequence[str] | None) -> Part:
    """A part whose broken rows say what columns their file named, if it did: without them nobody could read them again."""
    if written.columns is not None or columns is None:
        return part
    named = tuple(columns)
    return replace(part, checked=[replace(each, broken=[replace(row, columns=named) for row in each.broken]) for each in part.checked])


def plain_csv(contract: Contract, columns: Sequence[str], block: bytes, delimiter: str) -> pa.RecordBatch | None:
    """The texts of the contract's fields where each line of a block is a row by any reading of CSV; None where one may not be."""
    from pyarrow import csv as arrow_csv

    has_lone_return = block.count(b"\r") != block.count(b"\r\n") + block.endswith(b"\r")
    if b"\0" in block or has_lone_return or not _is_quoted_plainly(block, delimiter):
        return None
    named = [field.name for field in contract.fields]
    try:
        texts = arrow_csv.read_csv(
            pa.BufferReader(block),
            arrow_csv.ReadOptions(column_names=list(columns), use_threads=False, block_size=len(block) + 1),
            arrow_csv.ParseOptions(delimiter=delimiter),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(named, pa.string()), include_columns=named, strings_can_be_null=False),
        )
    except pa.ArrowInvalid:  # such as bytes that are no UTF-8, or too few values in a line
        return None
    return texts.combine_chunks().to_batches()[0] if texts.num_rows == block.count(b"\n") + 1 else None


def _is_quoted_plainly(block: bytes, delimiter: str) -> bool:
    """Whether each quoted value stands between delimiters or line ends, and on one line."""
    if b'"' not in block:
        return True
    signs = np.frombuffer(b"\n" + block + b"\n", np.uint8)
    quotes, ends = np.flatnonzero(signs == ord('"')), np.flatnonzero(signs == ord("\n"))
    if len(quotes) % 2 or (np.searchsorted(quotes, ends) % 2).any():
        return False
    around = [ord(delimiter), ord("\n"), ord('"')]
    before, after = signs[quotes[::2] - 1], signs[quotes[1::2] + 1]
    return bool(np.isin(before, around).all() and np.isin(after, [*around, ord("\r")]).all())


def _plain_part(file: OpenFile, texts: pa.RecordBatch, block: bytes, first: int) -> Part:
    originals = cache(lambda: block.split(b"\n"))
    checked = check_texts(file.contract, texts, lambda row: originals()[row].removesuffix(b"\r"), day=file.day)
    return Part(checked=[checked], lines=np.arange(first, first + texts.num_rows))


class CsvRow(NamedTuple):
    """A row of CSV: its values, None where it is no CSV; the line that it begins in, and its bytes."""

    values: list[str] | None
    line: int
    original: bytes


def csv_rows(lines: Lines, block: list[bytes], delimiter: str) -> list[CsvRow]:
    """The rows of a block; one that does not end in it is left for the next. What is no CSV breaks one line: the next begins a row."""
    texts, rows, begins = [line.decode(errors=KEEP_BYTES) for line in block], list[CsvRow](), 0
    while begins < len(block):
        start, reader = begins, csv.reader((f"{texts[n]}\n" for n in range(begins, len(texts))), delimiter=delimiter, strict=True)
        try:
            for values in reader:
                ends = start + reader.line_num
                if values:
                    rows.append(CsvRow(values, lines.first + begins, b"\n".join(block[begins:ends]).rstrip(b"\r")))
                begins = ends
        except csv.Error:
            is_cut_off = not lines.is_last and start + reader.line_num == len(block) and len(block) - begins < LONGEST_ROW_LINES
            if is_cut_off:
                lines.give_back(block[begins:])
                break
            rows.append(CsvRow(None, lines.first + begins, block[begins].rstrip(b"\r")))
            begins += 1
    lines.first += begins
    return rows


def header(file: OpenFile, names: Sequence[str] | None) -> tuple[str, ...]:
    """The columns that the first line names; raises SourceRefused where it names none, or one twice."""
    if names is None:
        raise file.refused("has no line of column names at its beginning")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise file.refused(f"names the column '{repeated[0]}' twice")
    return tuple(names)


def check_csv_lines(contract: Contract, columns: Sequence[str], delimiter: str, lines: Sequence[bytes], day: date | None) -> Checked:
    """Which lines of values keep their contract, each by itself and at the position that it has among them.

    A field that has no column is null.
    """
    return _checked_csv(contract, columns, [CsvRow(_values(line, delimiter), 0, line) for line in lines], day)


def _values(line: bytes, delimiter: str) -> list[str] | None:
    """The values of a line of CSV, which quotes may spread over several; None where it is none."""
    texts = line.decode(errors=KEEP_BYTES).split("\n")
    try:
        rows = list(csv.reader((f"{text}\n" for text in texts), delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 and rows[0] else None


def _checked_csv(contract: Contract, columns: Sequence[str], rows: Sequence[CsvRow], day: date | None) -> Checked:
    fits = np.array([row.values is not None and len(row.values) == len(columns) and is_utf8(row) for row in rows])
    kept = np.flatnonzero(fits)
    values = [rows[place].values or [] for place in kept.tolist()]
    named = dict(zip(columns, list(zip(*values, strict=True)) or [()] * len(columns), strict=True))
    absent = [None] * len(kept)
    texts = pa.RecordBatch.from_pydict({field.name: pa.array(named.get(field.name, absent), pa.string()) for field in contract.fields})
    checked = check_texts(contract, texts, lambda row: rows[int(kept[row])].original, day=day).at(kept)
    others = [
        BrokenRow(position=row, field="", reason="not a CSV line", original=rows[row].original) for row in np.flatnonzero(~fits).tolist()
    ]
    broken = sorted([*checked.broken, *others], key=lambda row: row.position)
    return replace(checked, broken=broken, fields=frozenset(columns))


def is_utf8(row: CsvRow) -> bool:
    """Whether the bytes of a row are text."""
    try:
        row.original.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parquet_parts(file: OpenFile) -> Iterator[Part]:
    import pyarrow.parquet as pq

    names = [field.name for field in file.contract.fields]
    metadata = pq.ParquetFile(file.content).metadata
    found = metadata.schema.to_arrow_schema()
    _require(file, _parquet_problems(file.contract, found))
    # A text that a dictionary repeats is as long as its rows say once it is decoded: 5 KB may be terabytes.
    texts = [field.name for field in file.contract.fields if field.type == "string"]
    with pq.ParquetFile(file.content, metadata=metadata, read_dictionary=texts) as parquet:
        first = 1
        for batch in chain.from_iterable(_bounded(file, one) for one in parquet.iter_batches(PARQUET_ROWS, columns=names)):
            columns = {name: decoded(batch.column(name)) for name in names}
            rows = pa.RecordBatch.from_pydict(columns)
            checked = check_batch(file.contract, rows, first_position=0, day=file.day)
            checked = replace(checked, fields=frozenset(found.names))
            yield Part(checked=[checked], lines=np.arange(first, first + rows.num_rows))
            first += rows.num_rows


def _bounded(file: OpenFile, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    """The rows in parts whose texts are short enough for memory; raises SourceRefused for a row that is too long."""
    lengths = np.zeros(batch.num_rows, np.int64)
    for column in (one for one in batch.columns if pa.types.is_dictionary(one.type) and one.type.value_type in TEXTS):
        of_text = pc.binary_length(column.dictionary).fill_null(0)
        lengths += pc.take(of_text, column.indices).fill_null(0).to_numpy(zero_copy_only=False)
    if lengths.max(initial=0) > LONGEST_ROW_BYTES:
        raise file.refused(f"has a row of more than {LONGEST_ROW_BYTES:,} bytes")
    parts = np.cumsum(lengths) // PART_BYTES
    ends = [*(np.flatnonzero(np.diff(parts)) + 1).tolist(), batch.num_rows]
    return [batch.slice(first, end - first) for first, end in pairwise([0, *ends])]


def _parquet_problems(contract: Contract, schema: pa.Schema) -> Mapping[str, str]:
    problems = dict[str, str]()
    for field in contract.fields:
        if field.name not in schema.names:
            problems[field.name] = f"({field.type}) has no column"
        elif schema.names.count(field.name) > 1:
            problems[field.name] = f"({field.type}) has two columns"
        elif not serves(field.type, schema.field(field.name).type):
            problems[field.name] = f"is {schema.field(field.name).type}, expected {field.type}"
    return problems


def serves(kind: FieldType, found: pa.DataType) -> bool:
    """Whether values of an Arrow type are of a type of contracts; a column of nulls is of each."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    is_integer, is_text = pa.types.is_integer(found), found in TEXTS
    held: dict[FieldType, bool] = {
        "string": is_text,
        "integer": is_integer or pa.types.is_decimal(found),
        "number": is_integer or pa.types.is_floating(found) or pa.types.is_decimal(found),
        "decimal": is_integer or pa.types.is_decimal(found),
        "boolean": pa.types.is_boolean(found),
        "timestamp": pa.types.is_timestamp(found) and found.tz is not None,
    }
    return held[kind] or pa.types.is_null(found)


def decoded(column: pa.Array) -> pa.Array:
    """A column without a dictionary, texts of the usual kind."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(ARROW_TYPES["string"]) if column.type in TEXTS else column


def _require(file: OpenFile, problems: Mapping[str, str]) -> None:
    if problems:
        raise SourceChanged(file.contract.name, {name: f"{problem} in '{file.path}'" for name, problem in problems.items()})
