"""Staging a partition: what becomes visible, what goes to quarantine, and what happens when too much is broken."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from pipeline_assets.core.connections import arrow_files, object_store, warehouse
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import ContractViolation, SourceUnavailable
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.batch import resume
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.ingestion.batch.postgres import open_table
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.stage import stage_each, target_of
from pipeline_assets_tests.flipped_bits import flip
from pipeline_assets_tests.readings import World, at, day, reading, wait_until, with_field, with_share


def test_good_rows_are_staged_and_broken_ones_quarantined(world: World) -> None:
    """Every row of the source stands on exactly one side, counted in the manifest by what is wrong."""
    world.fill([reading(sensor="a"), reading(sensor="b", level=99), reading(sensor="c", kind="upstairs"), reading(sensor="d")])

    (staged,) = stage_days(world.settings, world.table, day(0), day(0), run_id="run-7")

    assert [row["sensor"] for row in world.staged()] == ["a", "d"]
    assert world.quarantined() == [("2013-05-01", 1, "level out of range", False), ("2013-05-01", 2, "kind not allowed", False)]
    assert json.loads(world.originals()[0])["sensor"] == "b"
    assert staged.manifest == world.manifest()
    assert staged.manifest.reasons == {"kind not allowed": 1, "level out of range": 1}
    assert (staged.manifest.rows, staged.manifest.broken, staged.manifest.run_id) == (2, 2, "run-7")


def test_a_file_carries_the_schema_of_the_contract_and_no_field_ids(world: World) -> None:
    """The lake takes files over as they are: typed, with required columns, and mapped by name."""
    world.fill([reading()])
    stage_days(world.settings, world.table, day(0), day(0), run_id="r")

    (file,) = world.manifest().files
    with arrow_files(world.settings).open_input_file(file.path.removeprefix("s3://")) as opened:
        schema = pq.read_schema(opened)

    assert schema.equals(arrow_schema(versioned(world.contract)), check_metadata=True)


def test_a_partition_with_too_many_broken_rows_stays_as_it_was(world: World) -> None:
    """Above the share nothing becomes visible: no row, no manifest, no quarantine; the error counts the reasons."""
    world.fill([reading(sensor="a"), reading(sensor="b", level=99), reading(1), reading(1, level=99)])
    stage_days(world.settings, world.table, day(0), day(1), run_id="r1")
    before = world.content(0, 1)
    world.add([reading(sensor="c", level=-1), reading(sensor="d", value="-2")])

    with pytest.raises(ContractViolation) as caught:
        stage_days(world.settings, world.table, day(0), day(0), run_id="r2")

    assert (caught.value.broken, caught.value.rows, caught.value.partition) == (3, 4, "2013-05-01")
    assert caught.value.reasons == {"level out of range": 2, "value out of range": 1}
    assert world.content(0, 1) == before


def test_as_many_broken_rows_as_the_share_says_pass(world: World) -> None:
    """The share is inclusive, so that a share of nothing lets no row pass and one of all lets every row."""
    world.fill([reading(sensor="a"), reading(sensor="b", level=99), reading(1, level=99)])

    (half,) = stage_days(world.settings, with_share(0.5, world.table), day(0), day(0), run_id="r")
    (whole,) = stage_days(world.settings, with_share(1.0, world.table), day(1), day(1), run_id="r")

    assert (half.manifest.rows, half.manifest.broken) == (1, 1)
    assert (whole.manifest.rows, whole.manifest.broken) == (0, 1)
    with pytest.raises(ContractViolation):
        stage_days(world.settings, with_share(0.0, world.table), day(0), day(0), run_id="r")


def test_staging_again_replaces_rows_and_quarantine(world: World) -> None:
    """What was mended in the source is gone from quarantine, what is still broken stands there once, and rows are never doubled."""
    world.fill([reading(sensor="a"), reading(sensor="b", level=99), reading(sensor="c", level=98)])
    wide = with_share(0.9, world.table)
    stage_days(world.settings, wide, day(0), day(0), run_id="r1")
    world.run("update {table} set level = 1 where sensor = 'b'")

    stage_days(world.settings, wide, day(0), day(0), run_id="r2")
    stage_days(world.settings, wide, day(0), day(0), run_id="r3")

    assert [row["sensor"] for row in world.staged()] == ["a", "b"]
    assert [row[2] for row in world.quarantined()] == ["level out of range"]


def test_every_version_of_a_key_stays_once(world: World) -> None:
    """Rows known at different times are versions; an exact copy counts once; of two that differ and were known at once one is broken."""
    old, new = reading(level=1), reading(level=2, sent_at=at(0) + timedelta(minutes=30))
    world.fill([new, old, reading(sensor="b"), reading(sensor="b"), reading(sensor="c", level=1), reading(sensor="c", level=2)])

    (staged,) = stage_days(world.settings, world.table, day(0), day(0), run_id="r")

    assert world.staged() == [old, new, reading(sensor="b"), reading(sensor="c", level=2)]
    assert [row[2] for row in world.quarantined()] == ["sensor, read_at, sent_at repeated version"]
    assert [json.loads(original)["level"] for original in world.originals()] == [1]
    assert staged.manifest.reasons == {"sensor, read_at, sent_at repeated version": 1}


def test_what_was_known_stays_when_a_day_is_read_again(world: World) -> None:
    """A corrected row stands beside what it was, one that is gone has ended, one with the time it had is as it is told; again the same."""
    later = at(0) + timedelta(minutes=30)
    world.fill([reading(sensor="a", level=1), reading(sensor="b"), reading(sensor="c", level=1)])
    stage_days(world.settings, world.table, day(0), day(0), run_id="r1")
    world.run("delete from {table}")
    world.add([reading(sensor="a", level=2, sent_at=later), reading(sensor="c", level=2)])
    stage_days(world.settings, world.table, day(0), day(0), run_id="r2")
    versions = world.versions()
    stage_days(world.settings, world.table, day(0), day(0), run_id="r3")

    assert sorted((row["sensor"], row["level"], row["_deleted_at"] is not None) for row in versions) == [
        ("a", 1, False),
        ("a", 2, False),
        ("b", 3, True),
        ("c", 2, False),
    ]
    assert world.versions() == versions
    assert world.quarantined() == []


def test_a_row_that_stands_again_as_it_was_long_ago_counts_again(world: World) -> None:
    """Regression: a restored table lost the rows that had changed in between, and a row that came back seemed never to have been gone."""
    source = replace(world.table, contract=replace(world.contract, primary_key=("sensor",)))
    later = at(0) + timedelta(minutes=30)
    backup = [reading(sensor="a", level=1), reading(sensor="b", level=1), reading(sensor="c", level=1)]
    world.fill(backup)
    stage_days(world.settings, source, day(0), day(0), run_id="r1")
    world.run("delete from {table} where sensor <> 'c'")
    world.add([reading(sensor="a", level=2, sent_at=later)])
    stage_days(world.settings, source, day(0), day(0), run_id="r2")
    before = datetime.now(UTC)
    world.run("delete from {table}")
    world.add(backup)
    stage_days(world.settings, source, day(0), day(0), run_id="r3")
    versions = world.versions()
    stage_days(world.settings, source, day(0), day(0), run_id="r4")

    known_again = [row["sensor"] for row in versions if row["sent_at"] > before]
    assert sorted((row["sensor"], row["level"], row["_deleted_at"] is not None) for row in versions) == [
        ("a", 1, False),
        ("a", 1, False),
        ("a", 2, True),
        ("b", 1, False),
        ("b", 1, True),
        ("c", 1, False),
    ]
    assert sorted(known_again) == ["a", "b"]
    assert sorted(world.versions(), key=str) == sorted(versions, key=str)


def test_one_key_on_two_days_is_two_rows(world: World) -> None:
    """Keys are unique within a partition; what a later day means for an earlier one is for the cleaned tables to say."""
    by_sensor = replace(world.table, contract=replace(world.contract, primary_key=("sensor",)))
    world.fill([reading(0), reading(1)])

    staged = stage_days(world.settings, by_sensor, day(0), day(1), run_id="r")

    assert [one.manifest.rows for one in staged] == [1, 1]


def test_repeats_are_found_across_the_files_of_a_large_partition(world: World) -> None:
    """A partition that is too large for one file has several, and a version stands in one of them only."""
    world.fill([])
    world.run(
        "insert into {table} select 's' || n % 7, 'indoor', n % 10, n, true, t, t "
        "from generate_series(1, 140000) as n, lateral (select '2013-05-01Z'::timestamptz + n / 2 * interval '1 second' as t) as times"
    )
    target = replace(target_of(world.settings, with_field("level", world.table, maximum=20).contract, run_id="r"), file_bytes=10_000)
    target = replace(target, contract=replace(target.contract, primary_key=("read_at",), broken_share=0.6))

    with open_table(world.settings, target.contract, world.origin) as table:
        (staged,) = stage_each(world.settings, target, [day(0)], table.reader)

    rows = world.staged()
    assert len(staged.manifest.files) > 1
    assert staged.manifest.reasons == {"read_at, sent_at repeated version": 69_999}
    assert len({row["read_at"] for row in rows}) == len(rows) == 70_001


def test_a_run_that_fails_leaves_files_that_no_manifest_names(world: World) -> None:
    """Readers trust the manifest alone: what a failed run wrote is not seen, and nothing that is seen is deleted."""
    world.fill([reading()])
    stage_days(world.settings, world.table, day(0), day(0), run_id="r1")
    before = world.keys()
    client = object_store(world.settings)
    client.put_object(Bucket=world.settings.s3_bucket, Key=f"{staging.folder(world.name, '2013-05-01')}/left.parquet", Body=b"half")

    stage_days(world.settings, world.table, day(0), day(0), run_id="r2")

    assert world.staged() == [reading()]
    assert set(before) < set(world.keys())


def test_two_runs_of_one_day_wait_for_each_other(world: World) -> None:
    """Whoever changes a partition holds its lock, so another run never comes between its quarantine and its manifest."""
    world.fill([reading(), reading(sensor="b", level=99)])
    stage_days(world.settings, world.table, day(0), day(0), run_id="r1")

    with ThreadPoolExecutor(1) as runner, warehouse(world.settings) as holder, quarantine.locked(holder, world.name, "2013-05-01"):
        second = runner.submit(stage_days, world.settings, world.table, day(0), day(0), run_id="r2")
        wait_until(world.is_waiting_for_lock, "the second run waits for the lock")
        seen = world.manifest().run_id, second.done()

    assert seen == ("r1", False)
    assert world.manifest().run_id == "r2"


@pytest.mark.parametrize("damaged", [staging.MANIFEST, "rows"])
def test_a_damaged_day_is_made_anew(world: World, caplog: pytest.LogCaptureFixture, damaged: str) -> None:
    """Regression: a damaged manifest was read, and refused, by the very run that should make it anew; the log says what is gone with it."""
    world.fill([reading(sensor="a"), reading(sensor="b")])
    stage_days(world.settings, world.table, day(0), day(0), run_id="r1")
    world.run("delete from {table} where sensor = 'b'")
    stage_days(world.settings, world.table, day(0), day(0), run_id="r2")
    before, load = world.versions(), resume.Load(load_id="", contract_digest="", begun_at="", is_taken_up=True)
    client, bucket, manifest = object_store(world.settings), world.settings.s3_bucket, world.manifest()
    key = f"{staging.folder(world.name, str(day(0)))}/{staging.MANIFEST}"
    if damaged == "rows":
        key = manifest.files[-1].path.removeprefix(f"s3://{bucket}/")
    flip(client, bucket, key, 4711)
    done = resume.done(client, bucket, world.contract, day(0), load)
    stage_days(world.settings, world.table, day(0), day(0), run_id="r3")

    assert [row["sensor"] for row in before] == ["a", "b"]
    assert done == (manifest if damaged == "rows" else None)
    assert [row["sensor"] for row in world.versions()] == ["a"]
    assert f"{key} has other bytes than were written: made anew from the source" in caplog.text


JUNK = {"empty": b"", "no JSON": b"\x00{", "deep": b"[" * 100_000, "a list": b"[]", "other fields": b'{"more": 1}', "no fields": b"{}"}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_a_manifest_that_is_junk_without_a_seal_is_damaged_and_made_anew(world: World, junk: bytes) -> None:
    """Regression: it ended in a trace of the parser for who reads it, and for the run that should make it anew."""
    world.fill([reading()])
    client, bucket = object_store(world.settings), world.settings.s3_bucket
    key = f"{staging.folder(world.name, str(day(0)))}/{staging.MANIFEST}"
    client.put_object(Bucket=bucket, Key=key, Body=junk)
    with pytest.raises(ObjectDamaged, match=key):
        world.manifest()
    stage_days(world.settings, world.table, day(0), day(0), run_id="r1")

    assert world.staged() == [reading()]


@pytest.mark.parametrize("junk", [*JUNK.values(), b'{"load_id": "1", "contract_digest": "", "begun_at": "then"}'], ids=[*JUNK, "no time"])
def test_a_mark_of_a_load_that_is_junk_counts_as_none(world: World, junk: bytes) -> None:
    """Regression: it ended in a trace, at each load of the same range."""
    client, bucket = object_store(world.settings), world.settings.s3_bucket
    with pytest.raises(SourceUnavailable), resume.load_of(client, bucket, world.contract, day(0), day(0)) as first:
        raise SourceUnavailable("plant", "is away")
    (key,) = [each for each in list(world.keys()) if f"/{resume.FOLDER}/" in each]
    with pytest.raises(SourceUnavailable), resume.load_of(client, bucket, world.contract, day(0), day(0)) as again:
        raise SourceUnavailable("plant", "is away")
    client.put_object(Bucket=bucket, Key=key, Body=junk)
    with resume.load_of(client, bucket, world.contract, day(0), day(0)) as anew:
        pass

    assert (again.load_id, again.is_taken_up) == (first.load_id, True)
    assert not anew.is_taken_up
    assert anew.load_id != first.load_id
    assert list(world.keys()) == []
