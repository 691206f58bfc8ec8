"""Seals: no bit of a sealed object changes without being found, and each file stays one of its format."""

import io
import json
from collections import Counter
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem
from pyiceberg.avro.file import AvroFile, AvroOutputFile
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.schema import Schema
from pyiceberg.typedef import Record
from pyiceberg.types import LongType, NestedField, StringType

from pipeline_assets.core import sealed_files, sealed_objects, seals
from pipeline_assets.core.damage import ObjectDamaged, place_of
from pipeline_assets.core.sealed_files import SealedFileIO
from pipeline_assets_tests.flipped_bits import flipped

FOLDER = "s3://lake/lake/features/spend"
AVRO_SCHEMA = Schema(NestedField(1, "id", LongType(), required=True), NestedField(2, "name", StringType(), required=True))
ROWS = [(number, f"n{number}") for number in range(20)]
MUST = {seals.ALL_SEALED: "true"}


def parquet(rows: int = 200) -> bytes:
    """A Parquet file of two columns in two row groups."""
    sink = io.BytesIO()
    table = pa.table({"id": range(rows), "name": [f"n{number % 7}" for number in range(rows)]})
    pq.write_table(table, sink, row_group_size=rows // 2)
    return sink.getvalue()


def sealed_without_sums(name: str) -> bytes:
    """A Parquet file with a seal of the first kind."""
    content = parquet()
    place = len(content) - seals.PARQUET_TAIL_BYTES - int.from_bytes(content[-8:-4], "little")
    columns, footer = content[:place], content[place:]
    digest = sha256(name.encode() + b"\0" + seals.block_sums(columns, seals.FIRST_BLOCK_BYTES) + footer).digest()
    return columns + seals.WITHOUT_SUMS + digest + footer


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have many blocks, whatever their size."""
    monkeypatch.setattr(seals, "BLOCK_BYTES", 512)


def columns_of(path: Path, names: list[str]) -> pa.Table:
    """Some columns of a sealed file, read in parts as the lake does."""
    with sealed_files.with_columns(SealedFileIO(MUST).new_input(f"file://{path}"), names) as parquet:
        return parquet.read(names)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("end_bytes", [1 << 18, 2000, 100])
def test_no_flipped_bit_gives_other_values_where_parts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end_bytes: int) -> None:
    """Random bits of a file of which one column is read: refused, or in what was not asked for; also where its end comes in two pieces."""
    monkeypatch.setattr(sealed_files, "END_BYTES", end_bytes)
    path, random, sink = tmp_path / "1.parquet", np.random.default_rng(end_bytes), io.BytesIO()
    rows = pa.table({f"c{number}": random.random(3000) for number in range(3)})
    pq.write_table(rows, sink, use_dictionary=False)
    content = seals.seal_parquet(sink.getvalue(), path.name)
    bits = [*random.integers(0, len(content) * 8, 200), *random.integers((len(content) - 1500) * 8, len(content) * 8, 200)]
    outcomes = Counter[str]()
    for bit in bits:
        path.write_bytes(flipped(content, int(bit)))
        try:
            assert columns_of(path, ["c1"]).equals(rows.select(["c1"]))
            outcomes["no effect"] += 1
        except ObjectDamaged:
            outcomes["refused"] += 1
    path.write_bytes(content)

    assert columns_of(path, ["c1"]).equals(rows.select(["c1"]))
    assert outcomes["no effect"] > 10
    assert outcomes["refused"] > 200


@pytest.mark.usefixtures("small_blocks")
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(-10, 5000)), max_size=8), st.sets(st.sampled_from(["id", "name", "na"])))
def test_parts_of_a_file_are_its_bytes(reads: list[tuple[int, int]], columns: set[str]) -> None:
    """Whatever is read from wherever, fetched before or not, also beyond the end, is what a file that is read as a whole gives."""
    with TemporaryDirectory() as name:
        path, content = Path(name) / "1.parquet", seals.seal_parquet(parquet(), "1.parquet")
        path.write_bytes(content)
        opened = pa.OSFile(str(path))
        end = seals.sealed_end(content, len(content), path.name)
        assert end is not None
        parts, whole_file = sealed_files.InParts(opened, end, content, str(path)), io.BytesIO(content)
        assert parts.fetched([*columns]).read().equals(pq.read_table(path))
        for start, size in reads:
            for file in (parts, whole_file):
                file.seek(start)
            assert (bytes(parts.read(size)), parts.tell(), bytes(parts.read(7))) == (
                whole_file.read(size),
                whole_file.tell(),
                whole_file.read(7),
            )
        parts.close()


def test_columns_that_are_not_asked_for_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file of ten columns of some megabytes two are fetched by two requests, with the blocks that they share."""
    path, fetched = tmp_path / "1.parquet", list[int]()
    random = np.random.default_rng(7)
    sink = io.BytesIO()
    pq.write_table(pa.table({f"c{number}": random.random(400_000) for number in range(10)}), sink)
    path.write_bytes(seals.seal_parquet(sink.getvalue(), path.name))
    block_sums = seals.block_sums

    def counted(view: memoryview | bytes, block_bytes: int) -> bytes:
        fetched.append(len(view))
        return block_sums(view, block_bytes)

    monkeypatch.setattr(seals, "block_sums", counted)

    found = columns_of(path, ["c3", "c7"])
    assert found.equals(pq.read_table(io.BytesIO(sink.getvalue()), columns=["c3", "c7"]))
    assert len(fetched) == 2
    assert 0 < sum(fetched) < path.stat().st_size / 4.5


def test_a_seal_without_sums_is_held_against_all_bytes(tmp_path: Path) -> None:
    """What an earlier version wrote is read as a whole; each flipped byte of it is refused."""
    path, content = tmp_path / "1.parquet", sealed_without_sums("1.parquet")
    path.write_bytes(content)
    assert columns_of(path, ["id"])["id"].to_pylist() == list(range(200))
    for place in range(len(content)):
        with pytest.raises(ObjectDamaged):
            sealed_objects.verified(pa.py_buffer(flipped(content, place * 8 + 3)), str(path), must_be_sealed=True)


def write_avro(location: str) -> None:
    """An Avro file of two blocks, as pyiceberg writes manifests."""
    with AvroOutputFile[Record](SealedFileIO().new_output(location), AVRO_SCHEMA, "row") as writer:
        for start in (0, 10):
            writer.write_block([Record(*row) for row in ROWS[start : start + 10]])


def read_avro(location: str, io_class: type[PyArrowFileIO] = SealedFileIO) -> list[tuple[object, ...]]:
    """The rows of an Avro file of which nothing may lack a seal."""
    with AvroFile[Record](io_class(MUST).new_input(location)) as opened:
        return [tuple(row[number] for number in range(2)) for row in opened]


def test_a_file_in_memory_of_arrow_is_sealed_as_one_of_bytes() -> None:
    """Arrow's buffers, whose bytes have a sign, are sealed and read as the bytes that they are."""
    sealed = seals.seal_parquet(pa.py_buffer(parquet()), "1.parquet")
    found = pa.BufferOutputStream()
    found.write(sealed)

    assert sealed == seals.seal_parquet(parquet(), "1.parquet")
    assert seals.parquet_problem(found.getvalue(), "1.parquet", is_sealed=True) is None


def whole(suffix: str) -> tuple[str, bytes]:
    """The location and the bytes of a sealed object."""
    location = f"{FOLDER}/metadata/1{suffix}"
    content = parquet() if suffix == ".parquet" else b'{"location":"s3://lake/x","last-updated-ms":1}'
    return location, sealed_objects.sealed(content, location)


@pytest.mark.parametrize("suffix", [".parquet", ".sealed.parquet", ".metadata.json"])
def test_any_flipped_bit_of_a_sealed_object_is_refused(suffix: str) -> None:
    """Each single bit of a Parquet file and of a table's metadata, the seal's own included, is refused with the name of the table."""
    location, content = whole(suffix)
    for bit in range(len(content) * 8):
        with pytest.raises(ObjectDamaged, match=r"features\.spend is damaged: .* has "):
            sealed_objects.verified(pa.py_buffer(flipped(content, bit)), location, must_be_sealed=True)


def test_any_flipped_bit_of_an_avro_file_is_refused(tmp_path: Path) -> None:
    """Each single bit of a manifest, as pyiceberg writes it through the sealed files, is refused, also where one may have no seal."""
    location = f"file://{tmp_path}/0-m0.avro"
    write_avro(location)
    content = (tmp_path / "0-m0.avro").read_bytes()
    for bit in range(len(content) * 8):
        for must_be_sealed in (True, False):
            with pytest.raises(ObjectDamaged):
                sealed_objects.verified(pa.py_buffer(flipped(content, bit)), location, must_be_sealed=must_be_sealed)

    assert read_avro(location) == ROWS


@given(st.binary(), st.binary(), st.binary(min_size=seals.SYNC_BYTES, max_size=seals.SYNC_BYTES))
def test_an_avro_file_without_a_seal_may_hold_any_bytes(header: bytes, block: bytes, marker: bytes) -> None:
    """Regression: where the bytes of the mark stood in one by chance, it was judged by a seal that it did not have, and refused."""
    assume(not marker.startswith(seals.SYNC_MARK))
    content = header + marker + block + seals.SYNC_MARK + block + marker

    assert seals.avro_problem(content, "0-m0.avro", is_sealed=False) is None
    assert seals.avro_problem(content, "0-m0.avro", is_sealed=True) == "has no seal"


def test_a_manifest_of_another_writer_may_hold_the_mark(tmp_path: Path) -> None:
    """A name in UTF-8, as Ósea, may have the bytes that a seal begins with."""
    location, rows = f"file://{tmp_path}/0-m0.avro", [(1, "Ósea"), (2, "b")]
    assert seals.SYNC_MARK in "Ósea".encode()
    with AvroOutputFile[Record](PyArrowFileIO().new_output(location), AVRO_SCHEMA, "row") as writer:
        writer.write_block([Record(*row) for row in rows])
    content = (tmp_path / "0-m0.avro").read_bytes()

    assert sealed_objects.verified(pa.py_buffer(content), location).to_pybytes() == content
    assert read_avro(location, PyArrowFileIO) == rows
    with pytest.raises(ObjectDamaged, match="has no seal"):
        read_avro(location)


@pytest.mark.parametrize("suffix", [".parquet", ".sealed.parquet", ".metadata.json"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_object_is_refused(suffix: str, kept: float) -> None:
    """An object that ends too early, or is empty, is refused."""
    location, content = whole(suffix)
    with pytest.raises(ObjectDamaged):
        sealed_objects.verified(pa.py_buffer(content[: int(len(content) * kept)]), location, must_be_sealed=True)


def test_an_avro_file_that_lacks_its_last_block_is_refused(tmp_path: Path) -> None:
    """A manifest that was cut after a whole block, which readers of Avro take for its end, is refused."""
    location, path = f"file://{tmp_path}/0-m0.avro", tmp_path / "0-m0.avro"
    write_avro(location)
    content = path.read_bytes()
    marker = content[-seals.SYNC_BYTES :]
    path.write_bytes(content[: content.rindex(marker, 0, -1) + len(marker)])

    assert read_avro(location, PyArrowFileIO) == ROWS[:10]
    with pytest.raises(ObjectDamaged):
        read_avro(location)


@pytest.mark.parametrize("suffix", [".parquet", ".metadata.json"])
def test_another_object_does_not_take_the_place_of_one(suffix: str) -> None:
    """A sealed object under the name of another one is refused, as its seal covers its name."""
    location, content = whole(suffix)
    with pytest.raises(ObjectDamaged):
        sealed_objects.verified(pa.py_buffer(content), location.replace("/1.", "/2."), must_be_sealed=True)


def test_readers_that_know_of_no_seals_read_sealed_files(tmp_path: Path) -> None:
    """A sealed Parquet file is one to pyarrow, a sealed manifest one to pyiceberg, and sealed metadata are JSON with two fields more."""
    _, content = whole(".parquet")
    write_avro(f"file://{tmp_path}/0-m0.avro")
    described = json.loads(whole(".metadata.json")[1])

    assert pq.read_table(pa.BufferReader(content)).equals(pq.read_table(pa.BufferReader(parquet())))
    assert read_avro(f"file://{tmp_path}/0-m0.avro", PyArrowFileIO) == ROWS
    assert {name: value for name, value in described.items() if not name.startswith("pipeline-seal")} == {
        "location": "s3://lake/x",
        "last-updated-ms": 1,
    }


def test_objects_without_a_seal_are_read_where_others_write_too(tmp_path: Path) -> None:
    """What an earlier version or another writer wrote is given as it is, unless the table says that all its objects have seals."""
    (tmp_path / "1.parquet").write_bytes(parquet())
    content = parquet()
    location = f"file://{tmp_path}/1.parquet"

    assert SealedFileIO().new_input(location).open().read() == content
    with pytest.raises(ObjectDamaged, match="has no seal"):
        SealedFileIO(MUST).new_input(location).open()


def test_an_object_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A file that somebody deleted is damage, with what to do, and no stack of a file system."""
    with pytest.raises(ObjectDamaged, match="is not there") as raised:
        SealedFileIO().new_input(f"file://{tmp_path}/1.parquet").open()

    assert raised.value.is_gone


def test_a_large_object_is_read_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large for memory is put on the disk, and gives the same bytes."""
    monkeypatch.setattr(sealed_objects, "MOST_BYTES", 100)
    monkeypatch.setattr(sealed_objects, "CHUNK_BYTES", 1000)
    (tmp_path / "1.parquet").write_bytes(parquet())

    found = sealed_objects.fetched(LocalFileSystem(), str(tmp_path / "1.parquet"), "1.parquet")
    assert found.to_pybytes() == parquet()


@pytest.mark.parametrize(
    ("path", "table", "day", "remedy"),
    [
        (f"{FOLDER}/data/2026-01-05/x.parquet", "features.spend", "2026-01-05", "Materialize features/spend of 2026-01-05 again"),
        (f"{FOLDER}/metadata/1.avro", "features.spend", None, "pipeline lake rebuild features.spend"),
        ("staged/trips/2026-01-05/x.parquet", "staged.trips", "2026-01-05", "Materialize staged/trips of 2026-01-05 again"),
        ("s3://b/lake/typed/clicks/data/at_day=2026-01-05/x.parquet", "typed.clicks", "2026-01-05", "pipeline lake rebuild typed.clicks"),
        ("s3://b/lake/landed/clicks/data/x.parquet", "landed.clicks", None, "Restore it"),
    ],
)
def test_damage_says_whose_it_is_and_what_to_do(path: str, table: str, day: str | None, remedy: str) -> None:
    """An error names table, day and object, and what makes them anew."""
    error = ObjectDamaged(path)

    assert (error.table, error.day, place_of(path).day) == (table, day, day)
    assert path in str(error)
    assert remedy in str(error)
