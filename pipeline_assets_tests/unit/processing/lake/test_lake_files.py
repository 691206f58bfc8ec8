"""Parquet files as Iceberg sees them, and derived rows on their way into files, in a catalog of one file."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.processing.lake import derived, files
from pipeline_assets.processing.lake.catalog import table_for_arrow, table_for_contract
from pipeline_assets.processing.lake.commits import Change, replace_files
from pipeline_assets_tests.lake_rows import TRIPS, day, trip_rows


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog in a folder of its own."""
    with SqlCatalog("lake", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/lake") as catalog:
        yield catalog


@pytest.fixture
def table(lake: Catalog) -> Table:
    """An empty table of trips by day."""
    return table_for_contract(lake, TRIPS, by_day=True)


def written(folder: Path, name: str, rows: pa.Table) -> str:
    """The path of a new Parquet file."""
    path = folder / f"{name}.parquet"
    pq.write_table(rows, path)
    return f"file://{path}"


def test_a_file_is_described_by_its_footer(table: Table, tmp_path: Path) -> None:
    """Rows, bytes and day come from the file itself, also where its first and last row touch midnight."""
    path = written(tmp_path, "a", trip_rows(day(3)))
    (file,) = files.data_files(table, {path: day(3)})

    assert (file.file_path, file.record_count, files.day_of(file)) == (path, 5, day(3))
    assert file.file_size_in_bytes == (tmp_path / "a.parquet").stat().st_size


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (trip_rows(day(0)).drop_columns("is_return"), "lacks the required column 'is_return'"),
        (trip_rows(day(0)).append_column("dog", pa.array(["Rex"] * 5)), "has a column 'dog' that the table does not know"),
        (trip_rows(day(0)).set_column(3, "seats", pa.array(["1"] * 5)), "has 'seats' as string, not int64"),
        (trip_rows(day(0)).set_column(5, "is_return", pa.array([True] * 5)), "may hold null in the required column 'is_return'"),
        (trip_rows(day(1)), "holds rows of 2013-01-02, not of 2013-01-01"),
        (pa.concat_tables([trip_rows(day(0)), trip_rows(day(1))]), "holds rows of several days, not of 2013-01-01 alone"),
    ],
)
def test_a_file_that_does_not_fit_is_named(table: Table, tmp_path: Path, rows: pa.Table, problem: str) -> None:
    """A column too many, missing, retyped or nullable, or another day: the error names the file and what is wrong."""
    with pytest.raises(TableMismatch, match=rf"cannot take file://.*/a.parquet: it {problem}"):
        files.data_files(table, {written(tmp_path, "a", rows): day(0)})


def test_a_file_that_is_not_there_or_no_parquet_is_named(table: Table, tmp_path: Path) -> None:
    """A manifest may name what was lost or damaged since; the error says which file it is."""
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and nothing more")
    for name in ("gone", "torn"):
        with pytest.raises(TableMismatch, match=rf"cannot take file://.*/{name}.parquet"):
            files.data_files(table, {f"file://{tmp_path}/{name}.parquet": day(0)})


def test_a_commit_drops_files_and_rewrites_none(table: Table, tmp_path: Path) -> None:
    """Replacing a day removes its files from the table by name: no file is written but the new one's manifests, none is read."""
    paths = {written(tmp_path, str(offset), trip_rows(day(offset))): day(offset) for offset in range(3)}
    replace_files(table, files.rows_of_days(table, day(0), day(2)), lambda table: Change(remove=(), add=files.data_files(table, paths)))
    old = list(paths)
    for path in old:
        Path(path.removeprefix("file://")).unlink()
    new = written(tmp_path, "new", trip_rows(day(1), seats=2))
    rows = files.rows_of_days(table, day(1), day(1))
    change = replace_files(table, rows, lambda t: Change(remove=files.live_files(t, rows), add=files.data_files(t, {new: day(1)})))
    snapshot = table.current_snapshot()

    assert [file.file_path for file in change.remove] == [old[1]]
    assert [file.file_path for file in files.live_files(table)] == [old[0], new, old[2]]
    assert list(tmp_path.glob("lake/**/*.parquet")) == []
    assert snapshot is not None
    assert snapshot.summary is not None
    assert (snapshot.summary["added-data-files"], snapshot.summary["deleted-data-files"], snapshot.summary["total-records"]) == (
        "1",
        "1",
        "15",
    )


def test_an_empty_change_is_a_commit_of_a_new_table_alone(table: Table) -> None:
    """That a table is empty is known once it was written; nothing to remove and nothing to add changes nothing from then on."""
    snapshots = []
    for _ in range(2):
        replace_files(table, files.rows_of_days(table, day(0), day(1)), lambda _: Change(remove=(), add=()))
        snapshots.append(table.current_snapshot())

    assert snapshots[0] is not None
    assert snapshots[0] == snapshots[1]
    assert files.live_files(table) == []


def test_paths_are_never_used_twice(table: Table) -> None:
    """Two files of the same content have two paths, and the same digest in them."""
    one, other = (files.new_path(table, day(0), "d1", 0) for _ in range(2))

    assert one != other
    assert one.startswith(f"{table.location()}/data/2013-01-01/d1-00000-")


def test_the_digest_of_sources_does_not_depend_on_their_order() -> None:
    """The same files in another order are the same sources; other files are others."""
    assert files.digest_of_sources(["a", "b"]) == files.digest_of_sources(["b", "a"])
    assert files.digest_of_sources(["a", "b"]) != files.digest_of_sources(["ab"])


ORDERS = st.permutations(range(12))


@given(order=ORDERS)
def test_the_same_rows_give_the_same_bytes(order: list[int]) -> None:
    """The order in which rows come does not show in the file, so equal content has equal digests."""
    rows = pa.concat_tables([trip_rows(day(0), count=6), trip_rows(day(1), count=6)])
    shuffled = derived.sorted_rows(("features", "trips"), rows.take(pa.array(order)), "began_at", day(0), day(1))

    assert shuffled.equals(rows)
    assert [file.to_pybytes() for file in derived.encode(shuffled)] == [file.to_pybytes() for file in derived.encode(rows)]


def test_rows_are_split_by_day(lake: Catalog) -> None:
    """Each day of the range has its rows, midnight belongs to the day that begins, and days without rows are there too."""
    rows = pa.concat_tables([trip_rows(day(1)), trip_rows(day(3), count=2)])
    table = table_for_arrow(lake, ("features", "trips"), rows.schema, "began_at")
    split = derived.split(table, rows, "began_at", day(0), day(4))

    assert {on: part.num_rows for on, part in split.items()} == {day(0): 0, day(1): 5, day(2): 0, day(3): 2, day(4): 0}
    assert split[day(1)]["trip_id"].to_pylist() == rows["trip_id"].to_pylist()[:5]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (trip_rows(day(5)), "has 5 of 5 rows outside 2013-01-01 to 2013-01-02 by 'began_at'"),
        (trip_rows(day(0)).drop_columns("began_at"), "has no column 'began_at' of times in UTC"),
        (trip_rows(day(0)).append_column("fare", pa.array([1.0] * 5)), "has two columns of the name 'fare'"),
        (trip_rows(day(0)).set_column(1, "began_at", pa.nulls(5, pa.timestamp("us", tz="UTC"))), "has 5 rows without 'began_at'"),
        (trip_rows(day(0)).set_column(1, "began_at", pa.array([date(2013, 1, 1)] * 5)), "has no column 'began_at' of times in UTC"),
    ],
)
def test_rows_that_cannot_be_kept_by_day_are_refused(rows: pa.Table, problem: str) -> None:
    """Rows outside the days or without a time, and columns doubled or missing, are found before any table is touched."""
    with pytest.raises(TableMismatch, match=problem):
        derived.sorted_rows(("features", "trips"), rows, "began_at", day(0), day(1))


def test_days_have_changed_if_their_rows_have_since_a_snapshot(table: Table, tmp_path: Path) -> None:
    """Those of other days do not count, nor the same rows in other files."""
    first = files.rows_of_days(table, day(0), day(1))

    def put(name: str, on: date) -> int:
        path, rows = written(tmp_path, name, trip_rows(on)), files.rows_of_days(table, on, on)
        replace_files(table, rows, lambda t: Change(remove=files.live_files(t, rows), add=files.data_files(t, {path: on})))
        return table.metadata.current_snapshot_id or 0

    put("d0-00000-b", day(0))
    put("d1-00000-a", day(1))
    before = put("d2-00000-a", day(2))
    put("e2-00000-a", day(2))
    others = files.has_changed(table, first, before)
    put("d0-00000-c", day(0))
    same = files.has_changed(table, first, before)
    after = put("e0-00000-a", day(0))

    assert (others, same) == (False, False)
    assert files.has_changed(table, first, before)
    assert not files.has_changed(table, first, after)
