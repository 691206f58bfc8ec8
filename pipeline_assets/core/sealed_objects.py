"""Objects of the store as a whole: sealed as they are written, held against their seals as they are read, by the kind of their name."""

import mmap
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline_assets.core import seals
from pipeline_assets.core.damage import ObjectDamaged

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

PARQUET, AVRO, JSON = ".parquet", ".avro", ".metadata.json"
# How the names of Parquet files end that have a seal wherever they are; others have one where their table says so.
SEALED_PARQUET = ".sealed.parquet"
# What is held in memory of an object; a larger one is put on the local disk.
MOST_BYTES = 32 << 20
CHUNK_BYTES = 8 << 20


def fetched(files: "FileSystem", path: str, location: str) -> pa.Buffer:
    """All bytes of an object; raises ObjectDamaged if it is not there."""
    try:
        with files.open_input_file(path) as opened:
            size = opened.size()
            return opened.read_buffer(size) if size <= MOST_BYTES else _on_disk(opened)
    except FileNotFoundError as error:
        raise ObjectDamaged(location) from error


def _on_disk(opened: pa.NativeFile) -> pa.Buffer:
    with TemporaryFile() as file:
        while content := opened.read(CHUNK_BYTES):
            file.write(content)
        file.flush()
        return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def verified(content: pa.Buffer, location: str, *, must_be_sealed: bool = False) -> pa.Buffer:
    """The content of an object as it was before it was sealed; raises ObjectDamaged if it is not what was written."""
    name = location.rpartition("/")[2]
    is_sealed = must_be_sealed or name.endswith(SEALED_PARQUET)
    problem, found = _judged(content, name, must_be_sealed=is_sealed) if content.size else ("is empty", content)
    if problem is not None:
        raise ObjectDamaged(location, problem)
    return found


def _judged(content: pa.Buffer, name: str, *, must_be_sealed: bool) -> tuple[str | None, pa.Buffer]:
    if name.endswith(PARQUET):
        return seals.parquet_problem(content, name, is_sealed=must_be_sealed), content
    if name.endswith(AVRO):
        return seals.avro_problem(content.to_pybytes(), name, is_sealed=must_be_sealed), content
    if name.endswith(JSON) and not name.endswith(f".gz{JSON}"):
        text = content.to_pybytes()
        return seals.json_problem(text, name), pa.py_buffer(seals.without_seal(text))
    return None, content


def sealed(content: bytes | pa.Buffer, location: str) -> bytes:
    """The content of an object with its seal, by the kind of file that its name says."""
    name = location.rpartition("/")[2]
    if name.endswith(PARQUET):
        return seals.seal_parquet(content, name)
    if name.endswith(AVRO):
        return seals.seal_avro(bytes(content), name)
    if name.endswith(JSON) and not name.endswith(f".gz{JSON}"):
        return seals.seal_json(bytes(content), name)
    return bytes(content)
