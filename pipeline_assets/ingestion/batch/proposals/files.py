"""The declaration of files of a folder, from the newest of them: what they are, as their content shows it, and what their rows have."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from itertools import chain, islice

import pyarrow as pa

from pipeline_assets.core.errors import ProposalRefused
from pipeline_assets.core.settings import FolderSettings
from pipeline_assets.ingestion.batch.file_rows import (
    BLOCK_BYTES,
    BYTE_ORDER_MARK,
    Lines,
    OpenFile,
    csv_rows,
    decoded,
    header,
    is_utf8,
    serves,
)
from pipeline_assets.ingestion.batch.files import Folder, FoundFile, folder_of
from pipeline_assets.ingestion.sources.proposals.code import Noted, text
from pipeline_assets.ingestion.sources.proposals.module import module_text
from pipeline_assets.ingestion.sources.proposals.proposal import Proposal, are_within, name_of, proposed
from pipeline_assets.ingestion.sources.proposals.samples import (
    MOST_COLUMNS,
    SAMPLE_BYTES,
    TRIED,
    Column,
    ReadRows,
    Sample,
    arrow_column,
    decimal_column,
    json_columns,
    nameless,
    text_columns,
)
from pipeline_assets.spec.sources import CsvFile, FileFormat, Files, JsonLines, ParquetFile

MOST_FILES = 100
PARQUET_MAGIC, BEGINNING_BYTES = b"PAR1", 65_536
DELIMITERS = ",;\t|"


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """The rows of one file as far as they were looked at: of text as they are written, of Parquet by column."""

    names: Sequence[str] = ()
    texts: Sequence[Sequence[str] | None] = ()
    lines: Sequence[bytes] = ()
    table: pa.Table | None = None

    def __len__(self) -> int:
        return self.table.num_rows if self.table is not None else len(self.texts) + len(self.lines)


def propose_files(settings: FolderSettings, folder: str, pattern: str, name: str | None, rows: int) -> tuple[Proposal, str]:
    """The proposal of the files of a folder, and its module; at most so many rows are read, of the newest files.

    Raises SettingsMissing without a URL of the folder, ProposalRefused where no file has a row.
    """
    wanted = name or name_of(re.split(r"[%*?.]", pattern)[0] or folder)
    opened = folder_of(settings, replace(nameless(), name=wanted), Files(folder=folder, pattern=pattern, format=JsonLines()))
    found = sorted(opened.found(), key=lambda file: (file.changed_at, file.path), reverse=True)
    if not found:
        raise ProposalRefused(wanted, f"folder '{folder}' has no file that '{pattern}' takes")
    kind, read, files = _some(opened, wanted, found, rows)
    columns = _columns(kind, read)
    days = [file.day for file, own in zip(files, read, strict=True) for _ in range(len(own))]
    sample = Sample(
        columns=columns.columns,
        rows=len(columns.kept),
        unreadable=sum(map(len, read)) - len(columns.kept),
        looked_at=f"{sum(map(len, read)):,} rows of {len(files):,} of {len(found):,} files, such as {text(files[0].path)}",
        days=[day for day in (days[place] for place in columns.kept) if day is not None],
        remarks=columns.remarks,
    )
    return _declared(proposed(wanted, sample), Files(folder=folder, pattern=pattern, format=kind))


def _declared(proposal: Proposal, origin: Files) -> tuple[Proposal, str]:
    days: Sequence[date] = proposal.sample.days
    is_daily = bool(days) and are_within(proposal, days)
    if is_daily:
        load = Noted(value="daily", comments=[f"each row happened on the day in its path, by {proposal.contract.event_at}"])
    elif days:
        load = Noted(value="snapshot", comments=["guess: rows of other days than the one in the path were seen; all files are the table"])
    else:
        load = Noted(value="snapshot", comments=["guess: no day stands in the path, so all files together are the table"])
    return proposal, module_text(proposal, "Source", [("origin", origin), ("load", load)])


def _some(folder: Folder, name: str, found: Sequence[FoundFile], rows: int) -> tuple[FileFormat, list[FileRows], list[FoundFile]]:
    """The format of the newest file that has rows, and rows of it and of others that are written in the same way."""
    kind: FileFormat | None = None
    read, files, left, size = list[FileRows](), list[FoundFile](), rows, 0
    for file in found[:MOST_FILES]:
        own = _format(folder, file)
        if own is None or kind not in {None, own}:
            continue
        some = _rows(folder, file, own, left)
        if len(some) and (not read or (some.names, _schema(some)) == (read[0].names, _schema(read[0]))):
            kind, left, size = own, left - len(some), size + file.size
            read.append(some)
            files.append(file)
        if left <= 0 or size >= SAMPLE_BYTES:
            break
    if kind is None:
        raise ProposalRefused(name, f"no file has a row, of {len(found[:MOST_FILES]):,} that were looked at")
    return kind, read, files


def _schema(rows: FileRows) -> pa.Schema | None:
    return rows.table.schema if rows.table is not None else None


def _format(folder: Folder, file: FoundFile) -> FileFormat | None:
    """What a file is, by how it begins; None where it is empty."""
    with folder.opened(file) as content:
        begins = content.read(BEGINNING_BYTES)
    text_begins = begins.removeprefix(BYTE_ORDER_MARK).lstrip()
    if begins.startswith(PARQUET_MAGIC):
        return ParquetFile()
    if not text_begins:
        return None
    if text_begins.startswith((b"[{", b"[\n", b"[\r")):
        raise ProposalRefused(folder.source, f"file '{file.path}' is a JSON array, expected an object per line")
    return JsonLines() if text_begins.startswith(b"{") else CsvFile(delimiter=_delimiter(text_begins))


def _delimiter(begins: bytes) -> str:
    """The sign that stands most often in the first line."""
    line = begins.split(b"\n", maxsplit=1)[0].decode(errors="replace")
    return max(DELIMITERS, key=line.count)


@contextmanager
def _opened(folder: Folder, file: FoundFile, kind: FileFormat) -> Iterator[OpenFile]:
    with replace(folder, origin=replace(folder.origin, format=kind)).opened(file) as content:
        yield OpenFile(contract=replace(nameless(), name=folder.source), path=file.path, content=content, day=None)


def _rows(folder: Folder, file: FoundFile, kind: FileFormat, rows: int) -> FileRows:
    with _opened(folder, file, kind) as opened:
        if isinstance(kind, ParquetFile):
            return _parquet_rows(opened, rows)
        lines = Lines(file=opened, block_bytes=BLOCK_BYTES)
        if isinstance(kind, JsonLines):
            split = (line for block in _bounded(lines) for line in block.split(b"\n") if line and not line.isspace())
            return FileRows(lines=list(islice(split, rows)))
        delimiter = kind.delimiter
        found = chain.from_iterable(csv_rows(lines, block.split(b"\n"), delimiter) for block in _bounded(lines))
        values = [row.values if is_utf8(row) else None for row in islice(found, rows + 1)]
        return FileRows(names=header(opened, values[0]), texts=values[1:]) if values else FileRows()


def _bounded(lines: Lines) -> Iterator[bytes]:
    """Blocks of lines, up to the bytes of a sample."""
    size = 0
    for block in lines.blocks():
        yield block
        size += len(block)
        if size >= SAMPLE_BYTES:
            return


def _parquet_rows(opened: OpenFile, rows: int) -> FileRows:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(opened.content) as file:
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            widest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1.0)
            batch = next(file.iter_batches(batch_size=max(1, min(rows, int(SAMPLE_BYTES / max(widest, 1.0))))), None)
    except pa.ArrowInvalid as error:
        raise opened.refused(f"is no Parquet: {error}") from error
    return FileRows(table=None if batch is None else pa.Table.from_batches([batch]))


def _columns(kind: FileFormat, read: Sequence[FileRows]) -> ReadRows:
    match kind:
        case JsonLines():
            return json_columns([line for own in read for line in own.lines])
        case CsvFile():
            return text_columns(read[0].names, [row or [] for own in read for row in own.texts])
        case ParquetFile():
            table = pa.concat_tables([own.table for own in read])
            columns = [_parquet_column(*each) for each in zip(table.column_names[:MOST_COLUMNS], table.columns, strict=False)]
            columns = [_once(column, table.column_names.count(column.name)) for column in columns]
            return ReadRows(columns, list(range(table.num_rows)), ())


def _once(column: Column, times: int) -> Column:
    return column if times == 1 else replace(column, type=None, reason="stands there more than once")


def _parquet_column(name: str, values: pa.ChunkedArray) -> Column:
    column = field_type(name, values.type)
    return replace(column, values=[None] * len(values)) if column.type is None else arrow_column(column, decoded(values.combine_chunks()))


def field_type(name: str, found: pa.DataType) -> Column:
    """The column that one of Parquet can be, without its values."""
    if pa.types.is_decimal(found):
        return decimal_column(name, found.precision, found.scale)
    kind = None if pa.types.is_null(found) else next((kind for kind in TRIED if serves(kind, found)), None)
    return Column(name=name, type=kind, reason="" if kind is not None else f"{text(str(found))} has no type of contracts")
