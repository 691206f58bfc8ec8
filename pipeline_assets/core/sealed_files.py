"""The files of Iceberg tables, sealed as they are written and held against their seals as they are read, whatever of pyiceberg asks.

A read fetches the object as a whole, once: what is used are the bytes that were looked at. Of a large Parquet file it may be the end and
the blocks of some columns alone, each of which is held against its sum (`in_parts`).
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import S3FileSystem
from pyiceberg.io import S3_ACCESS_KEY_ID, S3_ENDPOINT, S3_REGION, S3_SECRET_ACCESS_KEY
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

from pipeline_assets.core import seals
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.https import STORE_AUTHORITY
from pipeline_assets.core.sealed_objects import PARQUET, fetched, sealed, verified

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem
    from pyiceberg.io import InputFile

# The end of an object mostly has its footer and sums: 64 bytes of these for each mebibyte.
END_BYTES = 1 << 16
# So many blocks that nobody asked for cost less than another request.
FEW_BLOCKS = 4

# What Arrow's file system is made with, by the properties of the catalog.
S3_OPTIONS = {
    "endpoint_override": S3_ENDPOINT, "region": S3_REGION, "access_key": S3_ACCESS_KEY_ID, "secret_key": S3_SECRET_ACCESS_KEY,
}  # fmt: skip


class SealedFileIO(PyArrowFileIO):
    """pyiceberg's files, with seals; a table's property `pipeline.sealed` says that none may lack one."""

    def new_input(self, location: str) -> "SealedFile":
        """The object at a location, to be read."""
        return self._file(location)

    def new_output(self, location: str) -> "SealedFile":
        """The object at a location, to be written."""
        return self._file(location)

    def _initialize_s3_fs(self, netloc: str | None) -> "FileSystem":  # noqa: ARG002 - as pyiceberg declares it
        """As pyiceberg's own, with an authority, and one request for a small object instead of three."""
        given = {of_arrow: self.properties[of_iceberg] for of_arrow, of_iceberg in S3_OPTIONS.items()}
        return S3FileSystem(**given, tls_ca_file_path=self.properties.get(STORE_AUTHORITY), allow_delayed_open=True)

    def _file(self, location: str) -> "SealedFile":
        scheme, netloc, path = self.parse_location(location, self.properties)
        must_be_sealed = self.properties.get(seals.ALL_SEALED) == "true"
        return SealedFile(location, path, self.fs_by_scheme(scheme, netloc), must_be_sealed=must_be_sealed)


class SealedFile(PyArrowFile):
    """An object that is read and written as a whole."""

    def __init__(self, location: str, path: str, fs: "FileSystem", *, must_be_sealed: bool) -> None:
        super().__init__(location, path, fs)
        self._must_be_sealed, self._written = must_be_sealed, -1

    def __len__(self) -> int:
        """How many bytes the object has."""
        return self._written if self._written >= 0 else super().__len__()

    def open(self, seekable: bool = True) -> pa.NativeFile:  # noqa: ARG002, FBT001, FBT002 - as pyiceberg declares it
        """The content, once it was found to be what was written; raises ObjectDamaged if it is not, or not there."""
        content = fetched(self._filesystem, self._path, self.location)
        return pa.BufferReader(verified(content, self.location, must_be_sealed=self._must_be_sealed))

    def in_parts(self) -> "pa.NativeFile | InParts":
        """As `open`, and of a Parquet file its end alone, which is looked at; raises ObjectDamaged as that does."""
        if not self.location.endswith(PARQUET):
            return self.open()
        try:
            opened = self._filesystem.open_input_file(self._path)
        except FileNotFoundError as error:
            raise ObjectDamaged(self.location) from error
        end, tail = self._sealed_end(opened)
        if end is None:
            opened.close()
            return self.open()
        return InParts(opened, end, tail, self.location)

    def _sealed_end(self, opened: pa.NativeFile) -> tuple[seals.SealedEnd | None, bytes]:
        """The end of a file, once it was looked at, and its bytes; None where it has no seal with sums, or is not what was written."""
        tail, size = _end(opened, END_BYTES), opened.size()
        if len(tail) < (wanted := seals.end_bytes(tail, size)):
            tail = _end(opened, wanted)
        return seals.sealed_end(tail, size, self.location.rpartition("/")[2]), tail

    def create(self, overwrite: bool = False) -> "Sealing":  # noqa: FBT001, FBT002 - as pyiceberg declares it
        """A stream whose bytes become the object, sealed, once it is closed without an error."""
        if not overwrite and self.exists():
            raise FileExistsError(f"Cannot create file, already exists: {self.location}")
        return Sealing(self._put)

    def _put(self, content: bytes) -> None:
        whole = sealed(content, self.location)
        with self._filesystem.open_output_stream(self._path) as opened:
            opened.write(whole)
        self._written = len(whole)


@contextmanager
def with_columns(source: "InputFile", columns: Sequence[str]) -> Iterator[pq.ParquetFile]:
    """A Parquet file of which some columns are to be read: as `SealedFile.in_parts`, and as a whole where it is of another kind."""
    with source.in_parts() if isinstance(source, SealedFile) else source.open() as opened:
        yield opened.fetched(columns) if isinstance(opened, InParts) else pq.ParquetFile(opened)


def _end(opened: pa.NativeFile, wanted: int) -> bytes:
    """So many bytes at the end of an object, or all."""
    found: bytes = opened.read_at(wanted, max(0, opened.size() - wanted))
    return found


class InParts(io.RawIOBase):
    """A Parquet file whose end was looked at; the columns that are asked for are fetched at once, each block held against its sum.

    What else is read of it is fetched, and looked at, then.
    """

    def __init__(self, opened: pa.NativeFile, end: seals.SealedEnd, tail: bytes, location: str) -> None:
        super().__init__()
        self._opened, self._end, self._location, self._at = opened, end, location, 0
        self._size = opened.size()
        self._after = memoryview(tail)[len(tail) - (self._size - end.columns_end) :]
        self._held: list[tuple[int, memoryview]] = []

    def fetched(self, columns: Sequence[str]) -> pq.ParquetFile:
        """The file with columns that were fetched by as few requests as there are gaps between them, and are held until it is closed."""
        footer = pq.read_metadata(pa.BufferReader(self._after))
        blocks = sorted({block for start, stop in _spans(footer, columns) for block in range(*_blocks(start, stop))})
        edges = [place for place in range(1, len(blocks)) if blocks[place] - blocks[place - 1] > FEW_BLOCKS]
        for run in (blocks[first:last] for first, last in pairwise([0, *edges, len(blocks)]) if first < last):
            self._held.append((run[0] * seals.BLOCK_BYTES, self._whole_blocks(run[0], run[-1] + 1)))
        return pq.ParquetFile(pa.PythonFile(self, mode="r"), metadata=footer)

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place, which it gives."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    # Arrow takes a view as it is, where bytes would be a copy.
    def read(self, size: int | None = -1) -> memoryview:
        """The next bytes, fewer at the end; raises ObjectDamaged where they are in a block that is not what was written."""
        start = self._at
        stop = self._size if size is None or size < 0 else min(self._size, start + size)
        edge = self._end.columns_end
        found = self._of_columns(start, min(stop, edge)) if start < min(stop, edge) else memoryview(b"")
        self._at = max(start, stop)
        return memoryview(b"".join((found, self._after[max(start - edge, 0) : stop - edge]))) if stop > edge else found

    def _of_columns(self, start: int, stop: int) -> memoryview:
        for begin, content in self._held:
            if begin <= start and stop <= begin + len(content):
                return content[start - begin : stop - begin]
        first, last = _blocks(start, stop)
        begin = first * seals.BLOCK_BYTES
        return self._whole_blocks(first, last)[start - begin : stop - begin]

    def _whole_blocks(self, first: int, last: int) -> memoryview:
        begin, end = first * seals.BLOCK_BYTES, min(last * seals.BLOCK_BYTES, self._end.columns_end)
        self._opened.seek(begin)
        content = memoryview(self._opened.read_buffer(end - begin)).cast("B")
        if seals.block_sums(content, seals.BLOCK_BYTES) != self._end.sums[first * seals.SUM_BYTES : last * seals.SUM_BYTES]:
            raise ObjectDamaged(self._location, "has other bytes than were written")
        return content

    def close(self) -> None:
        """Closes the object."""
        self._opened.close()
        super().close()


def _spans(footer: pq.FileMetaData, columns: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where the parts of columns begin and end in a file; a column within another has a name that begins with its and a point."""
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for part in map(group.column, range(group.num_columns)):
            if any(f"{part.path_in_schema}.".startswith(f"{name}.") for name in columns):
                start = min(part.dictionary_page_offset or part.data_page_offset, part.data_page_offset)
                yield start, start + part.total_compressed_size


def _blocks(start: int, stop: int) -> tuple[int, int]:
    """The first block of some bytes, and the one after their last."""
    return start // seals.BLOCK_BYTES, -(-stop // seals.BLOCK_BYTES)


class Sealing(io.BytesIO):
    """What is written to an object, until it is closed."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        super().__init__()
        self._put = put

    def close(self) -> None:
        """Writes the object."""
        if not self.closed:
            content = self.getvalue()
            super().close()
            self._put(content)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Writes the object, unless there was an error."""
        if kind is None:
            self.close()
        super().close()

    def __del__(self) -> None:
        """Writes nothing that was not closed."""
