"""Seals: a digest within an object of the store, by which each reader sees whether the object is what was written.

A seal covers all bytes of the object and the name that it has, so that no bit of it can change and no other object can take its place. It
lies where readers that know nothing of it do not look, so that each file stays one of its format:

- Parquet: between the last column and the footer, whose offsets count from the start of the file. Before it are the sums of the blocks of
  the columns, so that some of these can be read and held against it without the others.
- Avro: as the marker that ends each block, which any 16 bytes may be.
- JSON: as the last field; the first one says that there is one.
"""

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    import pyarrow as pa

# The property of a table whose objects all have seals: one without is damaged. Absent where others write too, such as Kafka Connect.
ALL_SEALED = "pipeline.sealed"
PARQUET_MAGIC = b"PAR1"
# A column of which some megabytes are read shares its first and its last block with others.
BLOCK_BYTES, SUM_BYTES = 1 << 16, 4
# The first kind has no sums before it, and counts with larger blocks.
FIRST_BLOCK_BYTES = 1 << 20
WITHOUT_SUMS, MARK = b"\x93sealed\x01", b"\x93sealed\x02"
PARQUET_SEAL_BYTES = len(MARK) + 32
# The length of the footer, and the magic.
PARQUET_TAIL_BYTES = 8
SYNC_BYTES = 16
SYNC_MARK = b"\x93sea"
FIRST, LAST = b'{"pipeline-sealed":true,', b',"pipeline-seal":"'
LAST_BYTES = len(LAST) + 64 + len(b'"}')


class SealedEnd(NamedTuple):
    """How a sealed Parquet file ends: how many bytes its columns have, and the sum of each block of these."""

    columns_end: int
    sums: bytes


def seal_parquet(content: "bytes | pa.Buffer", name: str) -> bytes:
    """A Parquet file with its seal, under a name."""
    view = memoryview(content).cast("B")
    place = _footer_start(view)
    columns, footer = view[:place], view[place:]
    sums = block_sums(columns, BLOCK_BYTES)
    return b"".join((columns, sums, MARK, _digest(name, sums, footer), footer))


def parquet_problem(content: "bytes | pa.Buffer", name: str, *, is_sealed: bool) -> str | None:
    """What is wrong with a Parquet file; None where nothing is, or where it has no seal and need not have one."""
    view = memoryview(content).cast("B")
    mark = _mark(view)
    if mark is None:
        return "has no seal" if is_sealed else None
    if mark == WITHOUT_SUMS:
        seal_at = _footer_start(view) - PARQUET_SEAL_BYTES
        digest = _digest(name, block_sums(view[:seal_at], FIRST_BLOCK_BYTES), view[seal_at + PARQUET_SEAL_BYTES :])
        return _judged(is_right=view[seal_at + len(mark) : seal_at + PARQUET_SEAL_BYTES] == digest)
    end = sealed_end(view, len(view), name)
    return _judged(is_right=end is not None and block_sums(view[: end.columns_end], BLOCK_BYTES) == end.sums)


def sealed_end(tail: "bytes | pa.Buffer", size: int, name: str) -> SealedEnd | None:
    """What the last bytes of a Parquet file of a size say, once they were held against its seal.

    None where they are no seal's with sums, are not what was written, or are too few to say so.
    """
    view = memoryview(tail).cast("B")
    if _mark(view) != MARK:
        return None
    seal_at, cut = _footer_start(view) - PARQUET_SEAL_BYTES, size - len(view)
    columns_end = _columns_end(cut + seal_at)
    if columns_end < cut:
        return None
    sums, after = view[columns_end - cut : seal_at], view[seal_at + PARQUET_SEAL_BYTES :]
    is_right = view[seal_at + len(MARK) : seal_at + PARQUET_SEAL_BYTES] == _digest(name, sums, after)
    return SealedEnd(columns_end, bytes(sums)) if is_right else None


def end_bytes(tail: "bytes | pa.Buffer", size: int) -> int:
    """How many of the last bytes of a sealed Parquet file of a size are not its columns', as the few of them say that are at hand."""
    view = memoryview(tail).cast("B")
    return min(size, size - _columns_end(size - len(view) + _footer_start(view) - PARQUET_SEAL_BYTES))


def is_sealed_parquet(content: "bytes | pa.Buffer") -> bool:
    """Whether a Parquet file has a seal, right or wrong."""
    return _mark(memoryview(content).cast("B")) is not None


def block_sums(view: "memoryview | bytes", block_bytes: int) -> bytes:
    """The CRC-32 of each block of so many bytes, which finds any wrong bit, and takes less than half of the time of a SHA-256."""
    starts = range(0, len(view), block_bytes)
    return b"".join(crc32(view[start : start + block_bytes]).to_bytes(SUM_BYTES, "little") for start in starts)


def _mark(view: memoryview) -> bytes | None:
    place = _footer_start(view) - PARQUET_SEAL_BYTES
    found = bytes(view[place : place + len(MARK)]) if place >= 0 else b""
    return found if found in (MARK, WITHOUT_SUMS) else None


def _columns_end(seal_at: int) -> int:
    """Where the columns of a file end, whose seal with the sums of their blocks before it begins at a place."""
    return seal_at - SUM_BYTES * -(-seal_at // (BLOCK_BYTES + SUM_BYTES))


def _footer_start(view: memoryview) -> int:
    """Where the footer of a Parquet file begins, as its last bytes say; negative where they say nothing that can be."""
    if len(view) < PARQUET_TAIL_BYTES or view[-4:] != PARQUET_MAGIC:
        return -1
    return len(view) - PARQUET_TAIL_BYTES - int.from_bytes(view[-8:-4], "little")


def seal_avro(content: bytes, name: str) -> bytes:
    """An Avro file whose marker is its seal, under a name; the marker that it has so far is random."""
    marker = content[-SYNC_BYTES:]
    return content.replace(marker, _marker(content, name))


def avro_problem(content: bytes, name: str, *, is_sealed: bool) -> str | None:
    """What is wrong with an Avro file; None where nothing is, or where it has no seal and need not have one.

    The bytes of the mark may stand anywhere in a file without a seal: what tells it is its marker, the same in its header and at its end.
    """
    marker = content[-SYNC_BYTES:]
    is_foreign = not marker.startswith(SYNC_MARK) and content.count(marker) > 1
    if is_foreign or SYNC_MARK not in content:
        return "has no seal" if is_sealed else None
    return _judged(is_right=marker == _marker(content, name))


def _marker(content: bytes, name: str) -> bytes:
    marker = content[-SYNC_BYTES:]
    return SYNC_MARK + _digest(name, content.replace(marker, bytes(SYNC_BYTES)))[: SYNC_BYTES - len(SYNC_MARK)]


def seal_json(content: bytes, name: str) -> bytes:
    """A JSON object of at least one field with a mark as its first field and its seal as the last, under a name."""
    return FIRST + content[1:-1] + LAST + _digest(name, content).hex().encode() + b'"}'


def json_problem(content: bytes, name: str) -> str | None:
    """What is wrong with a JSON object; None where nothing is, or where it has no seal, as one of an earlier version or another writer."""
    if not content.startswith(FIRST) and not content[-LAST_BYTES:].startswith(LAST):
        return None
    return _judged(is_right=content == seal_json(without_seal(content), name))


def without_seal(content: bytes) -> bytes:
    """A JSON object as it was before it was sealed, as far as it was."""
    return b"{" + content[len(FIRST) : -LAST_BYTES] + b"}" if content.startswith(FIRST) else content


def _digest(name: str, *parts: "bytes | memoryview") -> bytes:
    digest = sha256(name.encode() + b"\0")
    for part in parts:
        digest.update(part)
    return digest.digest()


def _judged(*, is_right: bool) -> str | None:
    return None if is_right else "has other bytes than were written"
