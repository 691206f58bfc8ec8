"""Lake tables on real services: whole days take the place of others in one snapshot, however often and whoever else writes."""

import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time
from secrets import token_hex
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, object_store
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import NotStaged, SchemaConflict, TableMismatch, UnknownName
from pipeline_assets.core.iceberg import Identifier
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.processing.lake import derived as lake_derived
from pipeline_assets.processing.lake import files, scans, tables
from pipeline_assets.processing.lake.commits import Change, replace_files
from pipeline_assets.processing.lake.intact import damaged
from pipeline_assets.processing.lake.recent import Recent
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets_tests.lake_rows import commits_held_back, day, in_lake, stage, stage_in_files, trip_rows, trips

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table


@pytest.fixture
def contract() -> Contract:
    """Trips under a name of this test's own."""
    return trips(f"trips_{token_hex(4)}")


@pytest.fixture
def derived() -> Identifier:
    """A derived table of this test's own."""
    return names.features(f"trips_{token_hex(4)}")


def live_paths(settings: Settings, identifier: Identifier) -> list[str]:
    """The paths of a table's files, by day."""
    with catalog(settings) as lake:
        return [file.file_path for file in files.live_files(lake.load_table(identifier))]


def objects(settings: Settings, identifier: Identifier) -> list[str]:
    """The keys of all objects in a table's own folder."""
    prefix = f"{names.LAKE}/{'/'.join(identifier)}/"
    pages = object_store(settings).get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def stage_days(settings: Settings, contract: Contract, days: int, seats: int = 1) -> None:
    """Stages so many days from the first on."""
    for offset in range(days):
        stage(settings, contract, day(offset), trip_rows(day(offset), seats=seats))


def test_staged_files_are_taken_over_where_they_are(stores: Settings, contract: Contract) -> None:
    """A publication adds the staged files themselves: no row is copied, and all are there in one snapshot."""
    manifests = [stage(stores, contract, day(offset), trip_rows(day(offset))) for offset in range(3)]
    published = tables.publish_days(stores, contract, day(0), day(2))

    assert live_paths(stores, names.lake(contract.name)) == [file.path for manifest in manifests for file in manifest.files]
    assert [key for key in objects(stores, names.lake(contract.name)) if key.endswith(".parquet")] == []
    assert (published.snapshot_before, published.rows, published.given, published.files, published.changed) == (None, 15, 15, 3, 3)
    assert in_lake(stores, contract).equals(pa.concat_tables([trip_rows(day(offset)) for offset in range(3)]))
    with catalog(stores) as lake:
        assert len(lake.load_table(names.lake(contract.name)).snapshots()) == 1


def test_publishing_what_is_there_makes_no_snapshot(stores: Settings, contract: Contract) -> None:
    """The same days again: no commit, so what was read at the snapshot stays what is newest."""
    stage_days(stores, contract, 3)
    first = tables.publish_days(stores, contract, day(0), day(2))
    again = tables.publish_days(stores, contract, day(0), day(2))

    assert again.changed == 0
    assert (again.snapshot_before, again.snapshot_after) == (first.snapshot_after, first.snapshot_after)
    assert (again.rows, again.files, again.bytes) == (first.rows, first.files, first.bytes)


def test_only_days_that_were_staged_anew_change(stores: Settings, contract: Contract) -> None:
    """One of three days staged anew takes the place of its old rows; the other days keep their files, the old snapshot its rows."""
    stage_days(stores, contract, 3)
    before = tables.publish_days(stores, contract, day(0), day(2))
    old_paths = live_paths(stores, names.lake(contract.name))
    stage(stores, contract, day(1), trip_rows(day(1), count=2, seats=9))
    after = tables.publish_days(stores, contract, day(0), day(2))

    new_paths = live_paths(stores, names.lake(contract.name))
    assert (new_paths[0], new_paths[2]) == (old_paths[0], old_paths[2])
    assert (after.changed, after.rows) == (1, 12)
    assert tables.read_days(stores, names.lake(contract.name), day(1), day(1)).read_all().equals(trip_rows(day(1), count=2, seats=9))
    assert (
        tables.read_days(stores, names.lake(contract.name), day(1), day(1), snapshot_id=before.snapshot_after)
        .read_all()
        .equals(trip_rows(day(1)))
    )


def test_a_day_that_grew_keeps_its_files(stores: Settings, contract: Contract) -> None:
    """A manifest that lists a further file, as after a replay from quarantine, adds that file alone."""
    stage_in_files(stores, contract, day(0), [trip_rows(day(0), count=3)])
    tables.publish_days(stores, contract, day(0), day(0))
    old = live_paths(stores, names.lake(contract.name))
    grown = staging.read_manifests(stores, contract.name, [str(day(0))])[0]
    more = stage(stores, contract, day(0), trip_rows(day(0), count=2, first_id=3))
    both = staging.manifest_of(contract, str(day(0)), [*grown.files, *more.files], run_id="test")
    staging.publish(object_store(stores), stores.s3_bucket, both)
    published = tables.publish_days(stores, contract, day(0), day(0))
    with catalog(stores) as lake:
        snapshot = lake.load_table(names.lake(contract.name)).current_snapshot()

    assert (published.rows, published.files, published.changed) == (5, 2, 1)
    assert set(live_paths(stores, names.lake(contract.name))) == {*old, more.files[0].path}
    assert snapshot is not None
    assert snapshot.summary is not None
    assert (snapshot.summary["added-data-files"], snapshot.summary["deleted-data-files"]) == ("1", None)


def test_days_outside_the_range_stay(stores: Settings, contract: Contract) -> None:
    """Publishing some days leaves the days before and after them as they were, also where something new is staged for them."""
    stage_days(stores, contract, 4)
    tables.publish_days(stores, contract, day(0), day(3))
    stage_days(stores, contract, 4, seats=7)
    tables.publish_days(stores, contract, day(1), day(2))

    seats = [
        tables.read_days(stores, names.lake(contract.name), day(offset), day(offset), ["seats"]).read_all()["seats"][0].as_py()
        for offset in range(4)
    ]
    assert seats == [1, 7, 7, 1]


def test_a_day_staged_without_rows_becomes_empty(stores: Settings, contract: Contract) -> None:
    """A manifest without files means that the day has no rows, so the lake has none of it either."""
    stage_days(stores, contract, 2)
    tables.publish_days(stores, contract, day(0), day(1))
    stage(stores, contract, day(1), trip_rows(day(1), count=0))
    published = tables.publish_days(stores, contract, day(0), day(1))

    assert (published.rows, published.given, published.table_rows) == (5, 5, 5)
    assert in_lake(stores, contract).equals(trip_rows(day(0)))


def test_a_day_that_was_never_staged_is_refused(stores: Settings, contract: Contract) -> None:
    """No manifest is not a day without rows: the publication names the days and changes nothing."""
    stage_days(stores, contract, 1)
    tables.publish_days(stores, contract, day(0), day(0))
    with pytest.raises(NotStaged, match="nothing staged for 2013-01-02 and 1 more") as refused:
        tables.publish_days(stores, contract, day(0), day(2))

    assert refused.value.partitions == ("2013-01-02", "2013-01-03")
    assert in_lake(stores, contract).equals(trip_rows(day(0)))


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (trip_rows(day(1)), "holds rows of 2013-01-02, not of 2013-01-01"),
        (pa.concat_tables([trip_rows(day(0)), trip_rows(day(1))]), "holds rows of several days"),
    ],
)
def test_a_file_with_rows_of_another_day_is_refused(stores: Settings, contract: Contract, rows: pa.Table, problem: str) -> None:
    """What is staged for a day must be of that day, else replacing the day could not find it again."""
    stage(stores, contract, day(0), rows)
    with pytest.raises(TableMismatch, match=problem):
        tables.publish_days(stores, contract, day(0), day(0))

    assert tables.snapshot_id(stores, names.lake(contract.name)) is None


def test_a_snapshot_replaces_the_whole_table(stores: Settings, contract: Contract) -> None:
    """A source loaded whole has no days: each publication is the table."""
    stage(stores, contract, None, pa.concat_tables([trip_rows(day(0)), trip_rows(day(9))]))
    tables.publish_snapshot(stores, contract)
    stage(stores, contract, None, trip_rows(day(3), count=4))
    published = tables.publish_snapshot(stores, contract)
    again = tables.publish_snapshot(stores, contract)

    assert in_lake(stores, contract).equals(trip_rows(day(3), count=4))
    assert (published.rows, published.days, published.changed, again.changed) == (4, 0, 1, 0)


def test_a_contract_may_grow_by_optional_fields_and_lose_nothing(stores: Settings, contract: Contract) -> None:
    """Days staged before and after a field was added are read together, the older with null."""
    grown = trips(contract.name, Field(name="dog", type="string", description="Name of the dog."))
    stage_days(stores, contract, 2)
    tables.publish_days(stores, contract, day(0), day(1))
    stage(stores, grown, day(1), trip_rows(day(1)).append_column("dog", pa.array(["Rex"] * 5)))
    tables.publish_days(stores, grown, day(0), day(1))

    assert tables.read_all(stores, names.lake(contract.name), ["dog"]).read_all()["dog"].to_pylist() == [None] * 5 + ["Rex"] * 5


def test_reading_takes_days_columns_and_snapshots(stores: Settings, contract: Contract) -> None:
    """Columns come in the order asked for, rows of the asked days alone, and what is not there is an error that lists what is."""
    stage_days(stores, contract, 3)
    published = tables.publish_days(stores, contract, day(0), day(2))
    read = tables.read_days(stores, names.lake(contract.name), day(1), day(1), ["seats", "trip_id"]).read_all()

    assert read.equals(trip_rows(day(1)).select(["seats", "trip_id"]))
    assert tables.row_count(stores, names.lake(contract.name)) == 15
    assert tables.row_count(stores, names.lake(contract.name), day(1), day(2), published.snapshot_after) == 10
    assert (tables.row_count(stores, ("lake", "buses")), tables.snapshot_id(stores, ("lake", "buses"))) == (0, None)
    with pytest.raises(UnknownName, match=r"Unknown lake table 'lake.buses'. Known: .*lake.trips_"):
        tables.read_all(stores, ("lake", "buses"))
    with pytest.raises(UnknownName, match=r"Unknown column of .* 'doors'"):
        tables.read_all(stores, names.lake(contract.name), ["doors"])
    with pytest.raises(UnknownName, match=r"Unknown snapshot of .* '12'"):
        tables.read_all(stores, names.lake(contract.name), snapshot_id=12)


def test_reading_streams(stores: Settings, contract: Contract) -> None:
    """The first rows of a long range come before its last files were opened, so memory does not grow with the range."""
    stage_days(stores, contract, 12)
    tables.publish_days(stores, contract, day(0), day(11))
    last_key = live_paths(stores, names.lake(contract.name))[-1].removeprefix(f"s3://{stores.s3_bucket}/")
    object_store(stores).delete_object(Bucket=stores.s3_bucket, Key=last_key)
    reader = tables.read_all(stores, names.lake(contract.name))

    assert reader.read_next_batch().num_rows == 5
    with pytest.raises(ObjectDamaged, match="is not there"):
        reader.read_all()


def test_a_renamed_column_is_still_found(stores: Settings, derived: Identifier) -> None:
    """Another engine may rename a column; then files are read by field id and not by the names of their time."""
    rows = trip_rows(day(0)).select(["trip_id", "began_at", "seats"])
    tables.replace_days(stores, derived, rows, "began_at", day(0), day(0))
    with catalog(stores) as lake, lake.load_table(derived).update_schema() as update:
        update.rename_column("seats", "places")

    assert tables.read_all(stores, derived).read_all().equals(rows.rename_columns(["trip_id", "began_at", "places"]))


def test_derived_days_are_replaced_and_come_sorted(stores: Settings, derived: Identifier) -> None:
    """Rows go in in any order and come out by time; days of the range without rows are emptied, others stay."""
    days = pa.concat_tables([trip_rows(day(offset)) for offset in range(4)])
    tables.replace_days(stores, derived, days.take(pa.array(range(19, -1, -1))), "began_at", day(0), day(3))
    published = tables.replace_days(stores, derived, trip_rows(day(2), seats=4), "began_at", day(1), day(2))

    expected = pa.concat_tables([trip_rows(day(0)), trip_rows(day(2), seats=4), trip_rows(day(3))])
    assert tables.read_all(stores, derived).read_all().equals(expected)
    assert (published.rows, published.given, published.changed, published.table_rows) == (5, 5, 2, 15)


def test_the_same_derived_rows_make_no_snapshot(stores: Settings, derived: Identifier) -> None:
    """Rows are compared as they would be written: the same rows in another order change nothing and write nothing."""
    rows = pa.concat_tables([trip_rows(day(0)), trip_rows(day(1))])
    first = tables.replace_days(stores, derived, rows, "began_at", day(0), day(1))
    stored = objects(stores, derived)
    again = tables.replace_days(stores, derived, rows.take(pa.array(range(9, -1, -1))), "began_at", day(0), day(1))

    assert again.snapshot_after == first.snapshot_after
    assert objects(stores, derived) == stored


def whole(rows: pa.Table) -> pa.RecordBatchReader:
    """The rows as a stream, a day's worth in each batch."""
    return pa.RecordBatchReader.from_batches(rows.schema, rows.combine_chunks().to_batches(max_chunksize=5))


def test_a_table_without_days_is_replaced_as_a_whole(stores: Settings, derived: Identifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose rows are there already stay, others take the place of what is gone; the same rows again make no snapshot."""
    days = pa.concat_tables([trip_rows(day(offset)) for offset in range(3)])
    monkeypatch.setattr(lake_derived, "FILE_BYTES", days.slice(0, 5).nbytes)
    first = tables.replace_all(stores, derived, whole(days))
    again = tables.replace_all(stores, derived, whole(days))
    paths = live_paths(stores, derived)
    changed = pa.concat_tables([trip_rows(day(0)), trip_rows(day(2)), trip_rows(day(3))])
    second = tables.replace_all(stores, derived, whole(changed))
    emptied = tables.replace_all(stores, derived, whole(changed.slice(0, 0)))

    assert (first.files, first.rows, first.given) == (3, 15, 15)
    assert (again.snapshot_after, again.given) == (first.snapshot_after, 15)
    assert (second.files, second.table_rows) == (3, 15)
    assert tables.read_all(stores, derived, snapshot_id=second.snapshot_after).read_all().sort_by("began_at").equals(changed)
    assert len([key for key in objects(stores, derived) if key.endswith(".parquet")]) == len(paths) + 1
    assert (emptied.rows, tables.row_count(stores, derived)) == (0, 0)


def at(offset: int, hours: int = 0) -> datetime:
    """An instant so many hours into a day."""
    return datetime.combine(day(offset), time(hours), UTC)


BOUNDS = [(at(1), at(2)), (at(0, 6), at(1, 12)), (None, at(1, 1)), (at(2, 12), at(9)), (at(5), at(6)), (at(1), at(1))]


@pytest.mark.parametrize("column", ["began_at", "recorded_at"])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_rows_between_two_times_are_those_of_brute_force(
    stores: Settings, derived: Identifier, column: str, bounds: tuple[datetime | None, datetime]
) -> None:
    """By the time of the days and by another: the first bound counts, the second does not, a row without the time never."""
    rows = pa.concat_tables([trip_rows(day(offset)) for offset in range(3)])
    times = pa.chunked_array([[None, *rows["recorded_at"].to_pylist()[1:]]], rows.schema.field("recorded_at").type)
    rows = rows.set_column(2, pa.field("recorded_at", times.type), times).select(["trip_id", "began_at", "recorded_at", "fare"])
    tables.replace_days(stores, derived, rows, "began_at", day(0), day(2))
    start, end = bounds
    timed = [row for row in rows.to_pylist() if row[column] is not None]
    expected = [row for row in timed if (start is None or row[column] >= start) and row[column] < end]

    assert tables.read_between(stores, derived, column, bounds).read_all().to_pylist() == expected


def test_what_files_hold_stands_in_the_metadata(stores: Settings, derived: Identifier) -> None:
    """Rows, digest, and the first and last time of a column, at a snapshot; a file that is written again as it was has the same digest."""
    first = tables.replace_days(stores, derived, trip_rows(day(0)), "began_at", day(0), day(0)).snapshot_after
    second = tables.replace_days(stores, derived, trip_rows(day(1), seats=2), "began_at", day(0), day(1)).snapshot_after
    third = tables.replace_days(stores, derived, trip_rows(day(0)), "began_at", day(0), day(0)).snapshot_after
    assert first is not None
    assert second is not None
    assert third is not None
    (zero,), (one,) = (tables.contents(stores, derived, "recorded_at", snapshot) for snapshot in (first, second))
    times = trip_rows(day(0))["recorded_at"].to_pylist()

    assert (zero.rows, zero.first_at, zero.last_at) == (5, times[0], times[-1])
    assert zero.digest != one.digest
    assert tables.contents(stores, derived, "began_at", third)[0].digest == zero.digest
    assert tables.days(stores, derived) == [day(0), day(1)]


def test_what_days_were_made_from_is_known_until_another_hand_writes(stores: Settings, derived: Identifier) -> None:
    """Digest, rows and nulls of each day; a settled day keeps its own, and of a day that some other tool wrote nothing is known."""
    rows = pa.concat_tables([trip_rows(day(0)), trip_rows(day(1), seats=4)]).select(["trip_id", "began_at", "seats"])
    rows = rows.set_column(2, "seats", pa.chunked_array([[None, *rows["seats"].to_pylist()[1:]]], rows.schema.field("seats").type))
    tables.replace_days(stores, derived, rows, "began_at", day(0), day(1), inputs=tables.Inputs(digests={day(0): "a", day(1): "b"}))
    _, first = tables.made_from(stores, derived)
    inputs = tables.Inputs(digests={day(0): "a", day(1): "c"}, settled={day(0)})
    tables.replace_days(stores, derived, rows.slice(5), "began_at", day(0), day(1), inputs=inputs)
    _, second = tables.made_from(stores, derived)
    held = tables.held(stores, derived, day(0), day(1))
    with catalog(stores) as lake:
        lake.load_table(derived).delete("trip_id == 'no such trip'")
        lake.load_table(derived).delete(f"trip_id == '{rows['trip_id'][6].as_py()}'")
    _, third = tables.made_from(stores, derived)

    assert {one: (found.digest, found.rows, found.nulls["seats"]) for one, found in first.items()} == {
        day(0): ("a", 5, 1),
        day(1): ("b", 5, 0),
    }
    assert {one: found.digest for one, found in second.items()} == {day(0): "a", day(1): "c"}
    assert (held.rows, held.changed, held.snapshot_before) == (10, 0, held.snapshot_after)
    assert {one: found.digest for one, found in third.items()} == {day(0): "a"}
    with pytest.raises(TableMismatch, match="has rows of days that are to stay as they are"):
        tables.replace_days(stores, derived, rows, "began_at", day(0), day(1), inputs=inputs)


def test_derived_columns_may_be_added_and_left_out(stores: Settings, derived: Identifier) -> None:
    """A new column is null in older days, one that is no longer made is null in newer days."""
    old = trip_rows(day(0)).select(["trip_id", "began_at", "seats"])
    new = trip_rows(day(1)).select(["trip_id", "began_at", "fare"])
    tables.replace_days(stores, derived, old, "began_at", day(0), day(0))
    tables.replace_days(stores, derived, new, "began_at", day(1), day(1))

    read = tables.read_all(stores, derived).read_all()
    assert read.column_names == ["trip_id", "began_at", "seats", "fare"]
    assert read["fare"].to_pylist() == [None] * 5 + new["fare"].to_pylist()
    assert read["seats"].to_pylist() == [1] * 5 + [None] * 5


def test_derived_rows_that_do_not_fit_write_nothing(stores: Settings, derived: Identifier) -> None:
    """Rows outside the days, rows without a time, doubled, retyped or unknown columns: an error that names it, and no trace."""
    rows = trip_rows(day(0)).select(["trip_id", "began_at", "seats"])
    tables.replace_days(stores, derived, rows, "began_at", day(0), day(0))
    stored = objects(stores, derived)
    text = rows.set_column(2, "seats", pc.cast(rows["seats"], pa.string()))
    timeless = rows.set_column(1, "began_at", pa.nulls(5, rows.schema.field("began_at").type))

    with pytest.raises(TableMismatch, match="has 5 of 5 rows outside 2013-01-02 to 2013-01-03 by 'began_at'"):
        tables.replace_days(stores, derived, rows, "began_at", day(1), day(2))
    with pytest.raises(SchemaConflict, match="field 'seats' is string, but long in the table"):
        tables.replace_days(stores, derived, text, "began_at", day(0), day(0))
    with pytest.raises(TableMismatch, match="began_at"):
        tables.replace_days(stores, derived, timeless, "began_at", day(0), day(0))
    with pytest.raises(TableMismatch, match="two columns of the name 'seats'"):
        tables.replace_days(stores, derived, rows.append_column("seats", rows["seats"]), "began_at", day(0), day(0))
    with pytest.raises(TableMismatch, match="has column 'odd' of type list"):
        tables.replace_days(stores, derived, rows.append_column("odd", pa.array([[1]] * 5)), "began_at", day(0), day(0))
    assert objects(stores, derived) == stored


def test_two_writers_of_different_days_both_succeed(stores: Settings, contract: Contract) -> None:
    """Both stand at the commit at once; the second takes up the first one's snapshot."""
    stage_days(stores, contract, 3)
    tables.publish_days(stores, contract, day(0), day(0))
    with ThreadPoolExecutor(2) as pool:
        with commits_held_back(stores, contract.name) as waiting:
            both = [pool.submit(tables.publish_days, stores, contract, day(offset), day(offset)) for offset in (1, 2)]
            waiting.for_writers(2)
        published = [each.result() for each in both]

    assert [each.rows for each in published] == [5, 5]
    assert in_lake(stores, contract).equals(pa.concat_tables([trip_rows(day(offset)) for offset in range(3)]))


def test_two_writers_of_the_same_day_do_not_double_it(stores: Settings, contract: Contract) -> None:
    """Both stand at the commit with the same day, which is new to the table: one of them finds the other's rows and leaves it at that."""
    stage_days(stores, contract, 2)
    tables.publish_days(stores, contract, day(0), day(0))
    with ThreadPoolExecutor(2) as pool:
        with commits_held_back(stores, contract.name) as waiting:
            both = [pool.submit(tables.publish_days, stores, contract, day(0), day(1)) for _ in range(2)]
            waiting.for_writers(2)
        changed = sorted(each.result().changed for each in both)

    assert changed == [0, 1]
    assert in_lake(stores, contract).num_rows == 10


def test_tables_may_be_made_by_several_at_once(isolated: Settings) -> None:
    """The first publications of several contracts at once make namespace and tables without standing in each other's way."""
    contracts = [trips(f"trips_{number}") for number in range(4)] * 2
    for contract in contracts[:4]:
        stage_days(isolated, contract, 1)
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda contract: tables.publish_days(isolated, contract, day(0), day(0)), contracts))

    assert [each.rows for each in published] == [5] * 8
    assert [in_lake(isolated, contract).num_rows for contract in contracts[:4]] == [5] * 4


def test_a_kill_before_the_commit_leaves_the_table_as_it_was(stores: Settings, derived: Identifier) -> None:
    """Kill -9 with all files written and the commit under way: the old rows stay, and the same call again gives the new ones."""
    old, new = trip_rows(day(0), seats=1), trip_rows(day(0), seats=2)
    before = tables.replace_days(stores, derived, old, "began_at", day(0), day(0))
    arguments = (stores, derived, new, "began_at", day(0), day(0))
    writer = multiprocessing.get_context("spawn").Process(target=tables.replace_days, args=arguments)
    with commits_held_back(stores, derived[1]) as waiting:
        writer.start()
        waiting.for_writers(1)
        writer.kill()
        writer.join()

    assert len([key for key in objects(stores, derived) if key.endswith(".parquet")]) == 2
    assert tables.snapshot_id(stores, derived) == before.snapshot_after
    assert tables.read_all(stores, derived).read_all().equals(old)
    assert tables.replace_days(*arguments).changed == 1
    assert tables.read_all(stores, derived).read_all().equals(new)


PUBLICATIONS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3), st.booleans()), min_size=1, max_size=6)


@hypothesis_settings(max_examples=8)
@given(publications=PUBLICATIONS)
def test_any_publications_end_with_the_newest_of_each_day(stores: Settings, publications: list[tuple[int, int, bool]]) -> None:
    """Whatever ranges are published one after the other, staged anew or not, the table is the union of each day's last publication."""
    contract, newest, staged = trips(f"trips_{token_hex(4)}"), {}, {}
    for version, (first, length, is_new) in enumerate(publications):
        for offset in range(first, first + length):
            if is_new or offset not in staged:
                staged[offset] = trip_rows(day(offset), count=1 + version, seats=version)
                stage(stores, contract, day(offset), staged[offset])
            newest[offset] = staged[offset]
        tables.publish_days(stores, contract, day(first), day(first + length - 1))

    assert in_lake(stores, contract).equals(pa.concat_tables([newest[offset] for offset in sorted(newest)]))


def test_unchanged_days_are_looked_at_once_and_at_once(stores: Settings, contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: files of days that did not change were fetched day after day, and again whenever another writer was faster."""
    stage_days(stores, contract, 3)
    tables.publish_days(stores, contract, day(0), day(2))
    stage(stores, contract, day(1), trip_rows(day(1), seats=2))
    looks = list[list[str]]()

    def counted(table: "Table", asked: "Iterable[DataFile]") -> Mapping[str, ObjectDamaged]:
        looked_at = list(asked)
        looks.append([str(files.day_of(file)) for file in looked_at])
        return damaged(table, looked_at)

    def beaten(table: "Table", rows: "BooleanExpression", plan: Callable[["Table"], Change]) -> Change:
        plan(table)
        return replace_files(table, rows, plan)

    monkeypatch.setattr(tables, "damaged", counted)
    monkeypatch.setattr(tables, "replace_files", beaten)
    published = tables.publish_days(stores, contract, day(0), day(2))

    assert (published.changed, published.rows) == (1, 15)
    assert [look for look in looks if look] == [[str(day(0)), str(day(2))]]


def test_rows_just_written_are_those_of_their_files(stores: Settings, derived: Identifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that wrote them reads them from its memory, in all columns of the table, as another process reads the files."""
    rows = pa.concat_tables([trip_rows(day(offset), seats=offset or None) for offset in range(3)])
    tables.replace_days(stores, derived, rows, "began_at", day(0), day(2))
    tables.replace_days(stores, derived, trip_rows(day(3)).drop_columns(["seats"]), "began_at", day(3), day(3))
    ours = tables.read_all(stores, derived).read_all()
    monkeypatch.setattr(scans, "RECENT", Recent(0))
    theirs = tables.read_all(stores, derived).read_all()

    assert (ours.schema, ours.num_rows) == (theirs.schema, 20)
    assert ours.equals(theirs)


def test_an_upload_that_fails_leaves_nothing_visible(stores: Settings, derived: Identifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of several days that are sent at once: the table is as before, in memory too; the same rows again are all there."""
    before = pa.concat_tables([trip_rows(day(offset)) for offset in range(6)])
    after = pa.concat_tables([trip_rows(day(offset), seats=7) for offset in range(6)])
    first = tables.replace_days(stores, derived, before, "began_at", day(0), day(5))
    put = files.put

    def fails_once(store: "S3FileSystem", path: str, on: date | None, content: pa.Buffer) -> files.Footer:
        if on == day(3):
            raise OSError("The store is full.")
        return put(store, path, on, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "put", fails_once)
        with pytest.raises(OSError, match="full"):
            tables.replace_days(stores, derived, after, "began_at", day(0), day(5))
    seen, snapshot = tables.read_all(stores, derived).read_all(), tables.snapshot_id(stores, derived)
    again = tables.replace_days(stores, derived, after, "began_at", day(0), day(5))

    assert (snapshot, seen.equals(before)) == (first.snapshot_after, True)
    assert (again.changed, tables.read_all(stores, derived).read_all().equals(after)) == (6, True)
