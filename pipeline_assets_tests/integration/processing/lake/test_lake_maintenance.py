"""The maintenance of the lake on real services: fewer files, snapshots and bytes, and never another row."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, object_store
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.processing.lake import files, tables
from pipeline_assets.processing.lake.maintenance import Maintained, maintain
from pipeline_assets.processing.lake.policy import POLICY
from pipeline_assets_tests.flipped_bits import flip
from pipeline_assets_tests.lake_rows import TRIPS, commits_held_back, day, in_lake, stage, stage_in_files, trip_rows, trips

TABLE = names.lake(TRIPS.name)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
EAGER = replace(POLICY, min_files=2, min_manifests=2, kept_snapshots=1, snapshot_age=timedelta(0), orphan_age=timedelta(0))
COMPACT_ONLY = replace(POLICY, min_files=2)
EXPIRE_ONLY = replace(POLICY, min_files=10_000, kept_snapshots=1, snapshot_age=timedelta(0))


def live_paths(settings: Settings) -> list[str]:
    """The paths of the files of the trips, by day."""
    with catalog(settings) as lake:
        return [file.file_path for file in files.live_files(lake.load_table(TABLE))]


def stored(settings: Settings, prefix: str = "") -> set[str]:
    """The paths of all Parquet files in the bucket, below a prefix."""
    pages = object_store(settings).get_paginator("list_objects_v2").paginate(Bucket=settings.s3_bucket, Prefix=prefix)
    keys = {entry["Key"] for page in pages for entry in page.get("Contents", [])}
    return {f"s3://{settings.s3_bucket}/{key}" for key in keys if key.endswith(".parquet")}


def publish_in_files(settings: Settings, offset: int, count: int, seats: int = 1) -> pa.Table:
    """One day published in so many files of three rows; gives back its rows, by key."""
    on = day(offset)
    parts = [trip_rows(on, count=3, seats=seats, first_id=3 * part) for part in range(count)]
    stage_in_files(settings, TRIPS, on, parts)
    tables.publish_days(settings, TRIPS, on, on)
    return pa.concat_tables(parts).sort_by("trip_id")


def test_many_small_files_become_one_with_the_same_rows(isolated: Settings) -> None:
    """Each day with many files is rewritten to one, all in one snapshot; a day with few is left alone."""
    many = [publish_in_files(isolated, offset, 10) for offset in (0, 1)]
    few = publish_in_files(isolated, 2, 3)
    maintained = maintain(isolated, names.LAKE, POLICY, NOW).tables[0]

    assert (maintained.files_before, maintained.files_after, maintained.compacted_days) == (23, 5, 2)
    assert in_lake(isolated, TRIPS).equals(pa.concat_tables([*many, few]).sort_by("trip_id"))
    assert tables.read_days(isolated, TABLE, day(1), day(1)).read_all().sort_by("trip_id").equals(many[1])
    assert maintain(isolated, names.LAKE, POLICY, NOW).tables[0].compacted_days == 0


def test_a_compacted_file_has_large_row_groups(isolated: Settings) -> None:
    """Rows of many files are written together, not each file's as a row group of its own."""
    from pyarrow import parquet

    publish_in_files(isolated, 0, 9)
    maintain(isolated, names.LAKE, POLICY, NOW)
    with catalog(isolated) as lake:
        opened = lake.load_table(TABLE).io.new_input(live_paths(isolated)[0]).open()

    assert parquet.read_metadata(opened).num_row_groups == 1


def test_a_day_larger_than_a_file_stays_in_several(isolated: Settings) -> None:
    """Files are closed once they have grown to the target, and no row is lost between them."""
    rows = publish_in_files(isolated, 0, 12)
    maintained = maintain(isolated, names.LAKE, replace(POLICY, target_file_bytes=5_000), NOW).tables[0]

    assert maintained.files_before == 12
    assert 1 <= maintained.files_after <= 6
    assert in_lake(isolated, TRIPS).equals(rows)


def test_a_table_without_days_is_compacted_as_a_whole(isolated: Settings) -> None:
    """A snapshot's table in many files becomes one of few."""
    parts = [trip_rows(day(part), count=2) for part in range(8)]
    staged = [file for part in parts for file in stage(isolated, TRIPS, None, part).files]
    staging.publish(
        object_store(isolated), isolated.s3_bucket, staging.manifest_of(TRIPS, staging.partition_of(None), staged, run_id="test")
    )
    tables.publish_snapshot(isolated, TRIPS)
    maintained = maintain(isolated, names.LAKE, POLICY, NOW).tables[0]

    assert (maintained.files_before, maintained.files_after) == (8, 1)
    assert in_lake(isolated, TRIPS).equals(pa.concat_tables(parts))


def test_a_reader_sees_no_change_while_files_are_compacted(isolated: Settings) -> None:
    """A scan opened before compaction and expiry reads to its end what it began with, and no file of it is missing."""
    rows = publish_in_files(isolated, 0, 30)
    reader = tables.read_all(isolated, TABLE)
    begun = reader.read_next_batch()
    maintained = maintain(isolated, names.LAKE, replace(EAGER, orphan_age=DAY), NOW)

    assert (maintained.tables[0].files_after, maintained.swept.deleted) == (1, 0)
    assert pa.concat_tables([pa.Table.from_batches([begun]), reader.read_all()]).sort_by("trip_id").equals(rows)


def test_publishing_again_keeps_what_was_compacted(isolated: Settings) -> None:
    """Compacted files hold what is staged, and their names say so: no day is published back into many files."""
    publish_in_files(isolated, 0, 10)
    maintain(isolated, names.LAKE, POLICY, NOW)
    again = tables.publish_days(isolated, TRIPS, day(0), day(0))
    fresh = publish_in_files(isolated, 0, 10, seats=2)

    assert (again.changed, again.files, again.rows) == (0, 1, 30)
    assert in_lake(isolated, TRIPS).equals(fresh)


def test_a_day_published_during_compaction_wins(isolated: Settings) -> None:
    """Compaction and a new publication of the same day stand at the commit at once: whichever is first, the new rows stay."""
    publish_in_files(isolated, 0, 10)
    with ThreadPoolExecutor(2) as pool:
        with commits_held_back(isolated, TRIPS.name) as waiting:
            both = [pool.submit(maintain, isolated, names.LAKE, COMPACT_ONLY, NOW), pool.submit(publish_in_files, isolated, 0, 2, seats=7)]
            waiting.for_writers(2)
        results = [each.result() for each in both]

    assert isinstance(results[0], Maintained)
    assert in_lake(isolated, TRIPS).equals(results[1])


def test_a_kill_during_compaction_changes_nothing(isolated: Settings) -> None:
    """Kill -9 with the large file written and the commit under way: the table is as before, and the next run does the work."""
    rows = publish_in_files(isolated, 0, 10)
    compaction = multiprocessing.get_context("spawn").Process(target=maintain, args=(isolated, names.LAKE, COMPACT_ONLY, NOW))
    with commits_held_back(isolated, TRIPS.name) as waiting:
        compaction.start()
        waiting.for_writers(1)
        compaction.kill()
        compaction.join()

    assert len(stored(isolated, "lake/")) == 1
    assert len(live_paths(isolated)) == 10
    maintain(isolated, names.LAKE, EAGER, NOW)
    assert in_lake(isolated, TRIPS).equals(rows)
    assert stored(isolated, "lake/") == set(live_paths(isolated))


def test_old_snapshots_are_expired_and_the_rest_kept(isolated: Settings) -> None:
    """The newest are kept by number, the young by age; what is expired cannot be read any more and says what can."""
    ids = []
    for version in range(4):
        stage(isolated, TRIPS, day(0), trip_rows(day(0), seats=version))
        ids.append(tables.publish_days(isolated, TRIPS, day(0), day(0)).snapshot_after)
    young = maintain(isolated, names.LAKE, replace(EXPIRE_ONLY, snapshot_age=DAY), datetime.now(UTC)).tables[0]
    old = maintain(isolated, names.LAKE, replace(EXPIRE_ONLY, kept_snapshots=2), NOW).tables[0]

    assert (young.snapshots_after, old.snapshots_after) == (4, 2)
    assert tables.read_all(isolated, TABLE, snapshot_id=ids[2]).read_all()["seats"][0].as_py() == 2
    with pytest.raises(UnknownName, match=f"'{ids[1]}'. Known: {min(map(str, ids[2:]))}"):
        tables.read_all(isolated, TABLE, snapshot_id=ids[1])


def test_a_snapshot_that_was_scored_is_kept_for_its_own_time(isolated: Settings) -> None:
    """A tag holds it beside the newest, asked for once or twice; after the time of the policy tag and snapshot go."""
    ids = []
    for version in range(4):
        stage(isolated, TRIPS, day(0), trip_rows(day(0), seats=version))
        ids.append(tables.publish_days(isolated, TRIPS, day(0), day(0)).snapshot_after or 0)
    for _ in range(2):
        tables.keep(isolated, TABLE, ids[0], "scored")
    one = replace(EXPIRE_ONLY, kept_snapshots=1)
    tagged = maintain(isolated, names.LAKE, one, datetime.now(UTC)).tables[0]
    seats = tables.read_all(isolated, TABLE, snapshot_id=ids[0]).read_all()["seats"][0].as_py()
    later = maintain(isolated, names.LAKE, replace(one, tagged_age=timedelta(0)), datetime.now(UTC)).tables[0]

    assert (tagged.snapshots_after, seats, later.snapshots_after) == (2, 0, 1)


def test_a_forgotten_file_goes_only_after_a_second_look(isolated: Settings) -> None:
    """An orphan file is noted first and deleted once it has been one for the time of the policy, and its bytes are counted."""
    old = stage(isolated, TRIPS, day(0), trip_rows(day(0))).files[0]
    new = stage(isolated, TRIPS, day(0), trip_rows(day(0), seats=2)).files[0]
    tables.publish_days(isolated, TRIPS, day(0), day(0))
    first, early, late = (maintain(isolated, names.LAKE, POLICY, NOW + after).swept for after in (timedelta(0), DAY / 2, DAY))

    assert [(look.orphans, look.deleted) for look in (first, early, late)] == [(1, 0), (1, 0), (1, 1)]
    assert late.bytes == old.bytes
    assert stored(isolated) == {new.path}
    assert maintain(isolated, names.LAKE, POLICY, NOW + DAY).swept.orphans == 0


def test_a_wrong_bit_in_the_notes_delays_deletion(isolated: Settings) -> None:
    """Regression: one digit of when an orphan was first seen made a file that was just written as old as is deleted."""
    stage(isolated, TRIPS, day(0), trip_rows(day(0)))
    stage(isolated, TRIPS, day(0), trip_rows(day(0), seats=2))
    tables.publish_days(isolated, TRIPS, day(0), day(0))
    maintain(isolated, names.LAKE, POLICY, NOW)
    notes = f"{names.LAKE}/_orphans/{names.LAKE}.json"
    content = object_store(isolated).get_object(Bucket=isolated.s3_bucket, Key=notes)["Body"].read()
    flip(object_store(isolated), isolated.s3_bucket, notes, 8 * content.index(b"2030-01-01") + 1)
    damaged, early, late = (maintain(isolated, names.LAKE, POLICY, NOW + after).swept for after in (DAY, 3 * DAY / 2, 2 * DAY))

    assert [(look.orphans, look.deleted) for look in (damaged, early, late)] == [(1, 0), (1, 0), (1, 1)]


def test_notes_that_are_junk_delay_deletion(isolated: Settings) -> None:
    """Regression: they ended in a trace, every night."""
    stage(isolated, TRIPS, day(0), trip_rows(day(0)))
    stage(isolated, TRIPS, day(0), trip_rows(day(0), seats=2))
    tables.publish_days(isolated, TRIPS, day(0), day(0))
    maintain(isolated, names.LAKE, POLICY, NOW)
    notes = f"{names.LAKE}/_orphans/{names.LAKE}.json"
    for junk in (b"", b"[]", b'{"first_seen": []}', b'{"first_seen": {"key": "then"}}', b'{"first_seen": {"key": 7}}'):
        object_store(isolated).put_object(Bucket=isolated.s3_bucket, Key=notes, Body=junk)
        swept = maintain(isolated, names.LAKE, POLICY, NOW + DAY).swept

        assert (swept.orphans, swept.deleted) == (1, 0)


def test_what_a_kept_snapshot_or_a_manifest_names_is_never_deleted(isolated: Settings) -> None:
    """Staged files outlive their manifest while a snapshot reads them, and outlive the lake while a manifest lists them."""
    history = stage(isolated, trips("history"), day(0), trip_rows(day(0))).files[0].path
    replaced = stage(isolated, TRIPS, day(0), trip_rows(day(0))).files[0].path
    before = tables.publish_days(isolated, TRIPS, day(0), day(0)).snapshot_after
    current = stage(isolated, TRIPS, day(0), trip_rows(day(0), seats=2)).files[0].path
    tables.publish_days(isolated, TRIPS, day(0), day(0))
    unpublished = stage(isolated, TRIPS, day(0), trip_rows(day(0), seats=3)).files[0].path
    maintain(isolated, names.LAKE, replace(POLICY, orphan_age=timedelta(0)), NOW)

    assert stored(isolated) == {history, replaced, current, unpublished}
    assert tables.read_all(isolated, TABLE, snapshot_id=before).read_all().equals(trip_rows(day(0)))
    swept = maintain(isolated, names.LAKE, EAGER, NOW).swept
    assert stored(isolated) == {history, current, unpublished}
    assert swept.deleted >= 2


def test_metadata_of_the_lake_does_not_pile_up(isolated: Settings) -> None:
    """After maintenance only what the newest snapshot needs is left: its manifests, their list, and the last versions of the table."""
    publish_in_files(isolated, 0, 1)
    with catalog(isolated) as lake, lake.load_table(TABLE).transaction() as transaction:
        transaction.set_properties({"write.metadata.previous-versions-max": "2"})
    rows = [publish_in_files(isolated, 0, 1, seats=version) for version in range(2, 7)]
    maintain(isolated, names.LAKE, EAGER, NOW)
    listed = object_store(isolated).list_objects_v2(Bucket=isolated.s3_bucket, Prefix="lake/lake/trips/metadata/")
    kinds = [entry["Key"].rpartition(".")[2] for entry in listed["Contents"]]

    assert kinds.count("avro") <= 3
    assert kinds.count("json") == 3
    assert in_lake(isolated, TRIPS).equals(rows[-1])


def test_manifests_of_many_publications_are_merged(isolated: Settings) -> None:
    """A table published day by day has a manifest a day; merging them leaves files and rows as they are."""
    rows = [publish_in_files(isolated, offset, 1) for offset in range(6)]
    paths = live_paths(isolated)
    maintained = maintain(isolated, names.LAKE, replace(POLICY, min_manifests=5), NOW).tables[0]
    with catalog(isolated) as lake:
        table = lake.load_table(TABLE)
        snapshot = table.current_snapshot()

    assert maintained.merged_manifests
    assert snapshot is not None
    assert len(snapshot.manifests(table.io)) == 1
    assert live_paths(isolated) == paths
    assert in_lake(isolated, TRIPS).equals(pa.concat_tables(rows))


def test_derived_tables_are_kept_in_order_too(isolated: Settings) -> None:
    """Days replaced again and again leave one file each; the files of older versions go with their snapshots."""
    table = names.features("trip_features")
    for version in range(3):
        tables.replace_days(isolated, table, trip_rows(day(0), seats=version), "began_at", day(0), day(0))
    maintained = maintain(isolated, names.FEATURES, EAGER, NOW)

    assert len(stored(isolated, "lake/features/")) == 1
    assert maintained.swept.deleted > 2
    assert tables.read_all(isolated, table).read_all().equals(trip_rows(day(0), seats=2))


def test_a_namespace_without_tables_is_nothing_to_tidy(isolated: Settings) -> None:
    """Maintenance before the first publication finds nothing and does nothing."""
    maintained = maintain(isolated, names.FEATURE_STORE, POLICY, NOW)

    assert (maintained.tables, maintained.swept.orphans) == ((), 0)


STEPS = st.lists(st.sampled_from(["publish", "publish in files", "restage", "maintain"]), min_size=2, max_size=8)


@hypothesis_settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_maintenance_at_any_point_changes_no_row(isolated: Settings, steps: list[str]) -> None:
    """Publications, files staged but not published, and the most eager maintenance in any order: rows are those last published."""
    rows = publish_in_files(isolated, 0, 2)
    for version, step in enumerate(steps):
        if step == "publish":
            rows = publish_in_files(isolated, 0, 1, seats=version)
        elif step == "publish in files":
            rows = publish_in_files(isolated, 0, 4, seats=version)
        elif step == "restage":
            stage(isolated, TRIPS, day(0), trip_rows(day(0), seats=-version))
        else:
            maintain(isolated, names.LAKE, EAGER, NOW)
        assert in_lake(isolated, TRIPS).equals(rows)
