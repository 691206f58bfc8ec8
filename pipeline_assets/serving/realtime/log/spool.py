"""Records on disk that Kafka has not acknowledged, in files that are written once and read to their last whole record.

A file is a sequence of records: time, lengths of key, trace and value, a checksum of all that and what follows, key, trace, value. A record
that a killed process wrote by half ends the file. What was written is in the hands of the kernel and outlives the process; `sync` makes it
outlive the machine.
"""

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SUFFIX = ".spool"
PRIVATE = 0o600
READ_BYTES = 1 << 20
_ABOUT, _CHECKSUM = struct.Struct("<qHHI"), struct.Struct("<I")
_HEAD = _ABOUT.size + _CHECKSUM.size


class Record(NamedTuple):
    """A record for Kafka; its key has less than 64 KiB, its value less than 4 GiB, its time is in milliseconds of Unix' time.

    trace: its header `traceparent`; empty where it has none.
    """

    key: bytes
    value: bytes
    at_ms: int
    trace: bytes = b""

    @property
    def size(self) -> int:
        """The bytes that it takes on disk."""
        return _HEAD + len(self.key) + len(self.trace) + len(self.value)


class SpoolFullError(OSError):
    """The spool has as many bytes as it may have."""


@dataclass(kw_only=True, eq=False)
class Segment:
    """One file: its records and bytes, how far it was read, and how many of its records are done.

    `is_open`: more may be written. `is_synced`: all that was written would outlive the machine.
    """

    path: Path
    records: int = 0
    bytes: int = 0
    read_records: int = 0
    read_bytes: int = 0
    done: int = 0
    is_open: bool = True
    is_synced: bool = False


@dataclass(kw_only=True)
class Spool:
    """The files of one folder, which one thread of one process writes and reads.

    `limit_bytes` bounds all files together, `segment_bytes` is when a file is closed. Records are read in the order in which they were
    written, each once, with their file; a file is deleted once it is closed and all its records are done. `records` and `bytes` are those
    of records that are not done, and of the files; `unreadable` counts records that the disk did not give back.
    """

    folder: Path
    limit_bytes: int
    segment_bytes: int
    records: int = 0
    bytes: int = 0
    unreadable: int = 0
    _segments: deque[Segment] = field(default_factory=deque)
    _file: int = -1
    _numbers: int = 0

    @property
    def is_read(self) -> bool:
        """Whether all that was written has been read."""
        return all(one.read_bytes == one.bytes for one in self._segments)

    def append(self, records: Sequence[Record]) -> Segment:
        """Writes records, all or none of them, and returns their file.

        Raises SpoolFullError at the bound, or the OSError of the disk.
        """
        data = b"".join(map(_encoded, records))
        if self.bytes + len(data) > self.limit_bytes:
            raise SpoolFullError(f"the spool has {self.bytes:,} of {self.limit_bytes:,} bytes")
        segment = self._writable()
        _write(self._file, data, segment.bytes)
        segment.records, segment.bytes, segment.is_synced = segment.records + len(records), segment.bytes + len(data), False
        self.records, self.bytes = self.records + len(records), self.bytes + len(data)
        return segment

    def skip(self, segment: Segment) -> None:
        """What was appended to a file need not be read: its writer has it still, and everything before was read."""
        segment.read_records, segment.read_bytes = segment.records, segment.bytes

    def read(self, most: int) -> list[tuple[Record, Segment]]:
        """The next records, at most so many, with their files; none where all was read. Raises the OSError of the disk."""
        for segment in tuple(self._segments):
            if segment.read_bytes < segment.bytes:
                found = self._read(segment, most)
                if found:
                    return [(record, segment) for record in found]
        return []

    def done(self, segment: Segment, records: int = 1) -> None:
        """Records of a file are needed no more."""
        segment.done += records
        self.records -= records
        self._delete_if_done(segment)

    def adopt(self, path: Path) -> int:
        """Takes over a file that a process which is no more has left, to be read before what is written next; its bytes that are no record.

        Raises the OSError of the disk.
        """
        data = path.read_bytes()
        found = list(_records(data))
        size = sum(one.size for one in found)
        if not found:
            path.unlink()
            return len(data)
        segment = Segment(path=self._path(), records=len(found), bytes=size, is_open=False)
        os.truncate(path, size)
        path.rename(segment.path)
        is_last_open = bool(self._segments) and self._segments[-1].is_open
        self._segments.insert(len(self._segments) - is_last_open, segment)
        self.records, self.bytes = self.records + segment.records, self.bytes + segment.bytes
        return len(data) - size

    def sync(self) -> None:
        """All that is not done outlives the machine; raises the OSError of the disk."""
        written = [one for one in self._segments if not one.is_synced]
        for segment in written:
            _sync(segment.path)
            segment.is_synced = True
        if written:
            _sync(self.folder)

    def close(self) -> None:
        """Closes the file that is open; what is not done stays on disk."""
        if self._file >= 0:
            os.close(self._file)
            self._file, segment = -1, self._segments[-1]
            segment.is_open = False
            self._delete_if_done(segment)

    def _writable(self) -> Segment:
        """The file that is open, or a new one."""
        if self._file >= 0 and self._segments[-1].bytes >= self.segment_bytes:
            self.close()
        if self._file < 0:
            path = self._path()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE)
            self._segments.append(Segment(path=path))
        return self._segments[-1]

    def _path(self) -> Path:
        self._numbers += 1
        return self.folder / f"{self._numbers:012d}{SUFFIX}"

    def _read(self, segment: Segment, most: int) -> list[Record]:
        """The next records of a file. Where the disk gives back something else than was written, the rest of the file is given up."""
        with segment.path.open("rb") as file:
            file.seek(segment.read_bytes)
            data = file.read(min(segment.bytes - segment.read_bytes, READ_BYTES))
            found = _first(data, most)
            if not found and segment.read_bytes + len(data) < segment.bytes:
                # One record that is larger than what is read at once.
                found = _first(data + file.read(segment.bytes - segment.read_bytes - len(data)), 1)
        segment.read_records += len(found)
        segment.read_bytes += sum(one.size for one in found)
        if not found:
            broken = segment.records - segment.read_records
            self.unreadable += broken
            segment.read_records, segment.read_bytes = segment.records, segment.bytes
            self.done(segment, broken)
        return found

    def _delete_if_done(self, segment: Segment) -> None:
        if not segment.is_open and segment.done == segment.records:
            segment.path.unlink(missing_ok=True)
            self._segments.remove(segment)
            self.bytes -= segment.bytes


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _first(data: bytes, most: int) -> list[Record]:
    found = []
    for record in _records(data):
        found.append(record)
        if len(found) == most:
            break
    return found


def _records(data: bytes) -> Iterator[Record]:
    """The whole records at the beginning of some bytes."""
    start = 0
    while start + _HEAD <= len(data):
        at_ms, key, trace, value = _ABOUT.unpack_from(data, start)
        (checksum,) = _CHECKSUM.unpack_from(data, start + _ABOUT.size)
        size = key + trace + value
        body = data[start + _HEAD : start + _HEAD + size]
        if len(body) < size or zlib.crc32(body, zlib.crc32(data[start : start + _ABOUT.size])) != checksum:
            return
        yield Record(body[:key], body[key + trace :], at_ms, body[key : key + trace])
        start += _HEAD + size


def _encoded(record: Record) -> bytes:
    about = _ABOUT.pack(record.at_ms, len(record.key), len(record.trace), len(record.value))
    body = b"".join((record.key, record.trace, record.value))
    return b"".join((about, _CHECKSUM.pack(zlib.crc32(body, zlib.crc32(about))), body))


def _write(file: int, data: bytes, at: int) -> None:
    """Writes all of the data at a place of a file, or nothing; raises the OSError of the disk."""
    view, written = memoryview(data), 0
    try:
        while written < len(data):
            written += os.pwrite(file, view[written:], at + written)
    except OSError:
        os.ftruncate(file, at)
        raise
