"""Damaged objects of lake tables on real services: refused with their names, and made anew by the next writer of their days."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import dagster as dg
import numpy as np
import psycopg
import pyarrow as pa
import pytest

from pipeline_assets.core import held_metadata, names
from pipeline_assets.core.connections import arrow_files, catalog, object_store
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import UnknownName, UserInputError
from pipeline_assets.core.held_metadata import HeldMetadata
from pipeline_assets.core.iceberg import Identifier
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.ingestion.streaming.landing.offsets import Seen
from pipeline_assets.processing.lake import assets, files, newer, scans, tables
from pipeline_assets.processing.lake.audit import WHOLE, LakeVerdict, Sample, audit_lake
from pipeline_assets.processing.lake.compaction import compact
from pipeline_assets.processing.lake.rebuild import take_out
from pipeline_assets.processing.lake.recent import Recent
from pipeline_assets.processing.lake.sweep import listed, named_by
from pipeline_assets_tests.flipped_bits import damage_two_days, flip, live_keys
from pipeline_assets_tests.lake_rows import day, in_lake, stage, stage_in_files, trip_rows, trips
from pipeline_assets_tests.landings import land, records
from pipeline_assets_tests.stack_env import write_stack_env

DAYS = 3


@pytest.fixture
def derived() -> Identifier:
    """A derived table of this test's own."""
    return names.features(f"trips_{token_hex(4)}")


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that holds nothing of the lake in memory, as one that has just begun."""
    monkeypatch.setattr(scans, "RECENT", Recent(0))
    monkeypatch.setattr(held_metadata, "HELD", HeldMetadata(0))


def rows_of_days() -> pa.Table:
    """The rows of all days."""
    return pa.concat_tables([trip_rows(day(offset)) for offset in range(DAYS)])


def put(settings: Settings, identifier: Identifier) -> tables.Published:
    """Writes all days of a derived table."""
    return tables.replace_days(settings, identifier, rows_of_days(), "began_at", day(0), day(DAYS - 1))


def key_of(settings: Settings, identifier: Identifier, kind: str) -> str:
    """The key of an object of a table that each read of its newest rows needs."""
    with catalog(settings) as lake:
        table = lake.load_table(identifier)
        snapshot = table.current_snapshot()
        assert snapshot is not None
        found = {
            "metadata": table.metadata_location,
            "manifest list": snapshot.manifest_list,
            "manifest": snapshot.manifests(table.io)[0].manifest_path,
            "rows": files.live_files(table)[0].file_path,
        }
    return found[kind].removeprefix(f"s3://{settings.s3_bucket}/")


@pytest.mark.parametrize("kind", ["metadata", "manifest list", "manifest", "rows"])
def test_a_read_refuses_an_object_with_a_wrong_bit(stores: Settings, derived: Identifier, kind: str) -> None:
    """Any bit of any object that a read needs: the read names table and object, and reads nothing wrong; set right, all is there."""
    put(stores, derived)
    key, client = key_of(stores, derived, kind), object_store(stores)
    bits = 8 * client.head_object(Bucket=stores.s3_bucket, Key=key)["ContentLength"]
    for bit in (0, bits - 1, *map(int, np.random.default_rng(4711).integers(bits, size=20))):
        flip(client, stores.s3_bucket, key, bit)
        with pytest.raises(ObjectDamaged) as refused:
            tables.read_all(stores, derived).read_all()
        assert (refused.value.table, key in str(refused.value)) == (".".join(derived), True)
        flip(client, stores.s3_bucket, key, bit)

    assert tables.read_all(stores, derived).read_all().equals(rows_of_days())


@pytest.mark.parametrize("kind", ["metadata", "manifest list", "manifest", "rows"])
def test_a_read_names_an_object_that_is_gone(stores: Settings, derived: Identifier, kind: str) -> None:
    """An object that somebody deleted is named, with what to do."""
    put(stores, derived)
    key = key_of(stores, derived, kind)
    object_store(stores).delete_object(Bucket=stores.s3_bucket, Key=key)
    with pytest.raises(ObjectDamaged, match="is not there") as refused:
        tables.read_all(stores, derived).read_all()

    assert key in str(refused.value)


JUNK = {"no text": b"\xff\xfe", "a page": b"<html>gone</html>", "an empty object": b"{}", "deep": b"[" * 100_000, "null": b"null"}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_metadata_that_are_junk_are_named_and_the_table_is_rebuilt(stores: Settings, derived: Identifier, junk: bytes) -> None:
    """Regression: what has no seal, and is no metadata, ended in a trace of the library, and so did the remedy of the audit."""
    put(stores, derived)
    key = key_of(stores, derived, "metadata")
    object_store(stores).put_object(Bucket=stores.s3_bucket, Key=key, Body=junk)
    for asked in (lambda: tables.read_all(stores, derived), lambda: put(stores, derived)):
        with pytest.raises(ObjectDamaged, match="cannot be read") as refused:
            asked()
        assert (refused.value.table, key in str(refused.value)) == (".".join(derived), True)
    assert take_out(stores, ".".join(derived)).startswith(f"{'.'.join(derived)} is out of the catalog.")
    put(stores, derived)

    assert tables.read_all(stores, derived).read_all().equals(rows_of_days())


@pytest.mark.parametrize("kind", ["another table", "rows", "manifest", "nothing", "", "http://host/name", "s3://bucket", "/etc/passwd"])
def test_a_catalog_that_points_elsewhere_is_refused_and_the_table_rebuilt(stores: Settings, derived: Identifier, kind: str) -> None:
    """Regression: a table whose row of the catalog named another's metadata was read, and written, as that other table."""
    other = names.features(f"trips_{token_hex(4)}")
    put(stores, derived)
    tables.replace_days(stores, other, trip_rows(day(0), seats=9), "began_at", day(0), day(0))
    of_other = {f"{part}": f"s3://{stores.s3_bucket}/{key_of(stores, other, part)}" for part in ("metadata", "rows", "manifest")}
    location = {"another table": of_other["metadata"], "nothing": None, **of_other}.get(kind, kind)
    with psycopg.connect(stores.catalog_dsn.get_secret_value()) as database:
        database.execute("update iceberg_tables set metadata_location = %s where table_name = %s", (location, derived[1]))
    for asked in (lambda: tables.read_all(stores, derived), lambda: put(stores, derived)):
        with pytest.raises(ObjectDamaged, match="is not where the catalog points") as refused:
            asked()
        assert refused.value.table == ".".join(derived)
    take_out(stores, ".".join(derived))
    put(stores, derived)

    assert tables.read_all(stores, derived).read_all().equals(rows_of_days())
    assert tables.read_all(stores, other).read_all().equals(trip_rows(day(0), seats=9))


@pytest.mark.parametrize("kind", ["manifest list", "manifest"])
@pytest.mark.parametrize("junk", [b"\xff\xfe", b"Obj\x01"], ids=["no Avro", "cut"])
def test_junk_in_landed_metadata_is_named(stores: Settings, kind: str, junk: bytes) -> None:
    """Regression: Kafka Connect's objects have no seal, so what is no Avro ended in a trace of the reader, and of the maintenance."""
    topic = f"readings-{token_hex(4)}"
    with catalog(stores) as lake:
        land(lake, records(0, 3), topic)
        key = key_of(stores, names.landed(topic), kind)
        object_store(stores).put_object(Bucket=stores.s3_bucket, Key=key, Body=junk)
        table = lake.load_table(names.landed(topic))
        for asked in (lambda: landing.increment(table, None, Seen()), lambda: named_by(table), lambda: files.live_files(table)):
            with pytest.raises(ObjectDamaged, match="cannot be read") as refused:
                asked()
            assert (refused.value.table, key in str(refused.value)) == (".".join(names.landed(topic)), True)


def test_the_same_rows_again_heal_damaged_days(stores: Settings, derived: Identifier) -> None:
    """Regression: a day was skipped by the digest in the name of its file, though the file was gone, or another."""
    put(stores, derived)
    gone, wrong, whole = live_keys(stores, derived)
    object_store(stores).delete_object(Bucket=stores.s3_bucket, Key=gone)
    flip(object_store(stores), stores.s3_bucket, wrong, 4711)
    healed = put(stores, derived)

    assert (healed.changed, healed.rows) == (2, rows_of_days().num_rows)
    assert whole in live_keys(stores, derived)
    assert tables.read_all(stores, derived).read_all().equals(rows_of_days())
    assert put(stores, derived).changed == 0


def test_the_same_whole_table_again_heals_damaged_files(stores: Settings, derived: Identifier) -> None:
    """A table without days is written anew where its file is damaged, though it holds the same rows."""
    rows = rows_of_days()
    tables.replace_all(stores, derived, pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches()))
    flip(object_store(stores), stores.s3_bucket, live_keys(stores, derived)[0], 4711)
    healed = tables.replace_all(stores, derived, pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches()))

    assert (healed.changed, healed.files) == (1, 1)
    assert tables.read_all(stores, derived).read_all().equals(rows)


def test_a_damaged_staged_file_is_not_published(stores: Settings) -> None:
    """A staged file with a wrong bit, or none, stops the publication with its name, whether the lake has it already or not."""
    contract = trips(f"trips_{token_hex(4)}")
    first, second = (stage(stores, contract, day(offset), trip_rows(day(offset))).files[0] for offset in range(2))
    flip(object_store(stores), stores.s3_bucket, second.path.removeprefix(f"s3://{stores.s3_bucket}/"), 4711)
    tables.publish_days(stores, contract, day(0), day(0))
    with pytest.raises(ObjectDamaged, match=f"Materialize staged/{contract.name} of 2013-01-02 again") as refused:
        tables.publish_days(stores, contract, day(0), day(1))
    object_store(stores).delete_object(Bucket=stores.s3_bucket, Key=first.path.removeprefix(f"s3://{stores.s3_bucket}/"))
    with pytest.raises(ObjectDamaged, match="is not there"):
        tables.publish_days(stores, contract, day(0), day(0))
    for offset in range(2):
        stage(stores, contract, day(offset), trip_rows(day(offset)))
    tables.publish_days(stores, contract, day(0), day(1))

    assert refused.value.path == second.path
    assert in_lake(stores, contract).equals(pa.concat_tables([trip_rows(day(0)), trip_rows(day(1))]))


def test_a_damaged_compacted_day_is_published_from_its_staged_files(stores: Settings) -> None:
    """What compaction made of staged files counts as them only while it is whole."""
    contract = trips(f"trips_{token_hex(4)}")
    stage_in_files(stores, contract, day(0), [trip_rows(day(0), count=3), trip_rows(day(0), count=2, first_id=3)])
    tables.publish_days(stores, contract, day(0), day(0))
    with catalog(stores) as lake:
        compact(arrow_files(stores), lake.load_table(names.lake(contract.name)), min_files=2, target_bytes=1 << 20)
    (compacted,) = live_keys(stores, names.lake(contract.name))
    assert tables.publish_days(stores, contract, day(0), day(0)).changed == 0
    flip(object_store(stores), stores.s3_bucket, compacted, 4711)
    published = tables.publish_days(stores, contract, day(0), day(0))

    assert (published.changed, published.files, published.rows) == (1, 2, 5)
    assert in_lake(stores, contract).num_rows == 5


def test_a_damaged_manifest_of_a_staged_day_is_refused(stores: Settings) -> None:
    """The manifest says which files are a day: one with a wrong bit is refused by its name, and so is that of another day in its place."""
    contract = trips(f"trips_{token_hex(4)}")
    for offset in range(2):
        stage(stores, contract, day(offset), trip_rows(day(offset)))
    client = object_store(stores)
    first, second = (f"{staging.folder(contract.name, str(day(offset)))}/{staging.MANIFEST}" for offset in range(2))
    for bit in map(int, np.random.default_rng(4711).integers(1 << 20, size=20)):
        flip(client, stores.s3_bucket, first, bit)
        with pytest.raises(ObjectDamaged, match=first):
            staging.read_manifest(stores, contract.name, str(day(0)))
        flip(client, stores.s3_bucket, first, bit)
    client.copy_object(Bucket=stores.s3_bucket, Key=first, CopySource={"Bucket": stores.s3_bucket, "Key": second})

    with pytest.raises(ObjectDamaged, match=first):
        staging.read_manifest(stores, contract.name, str(day(0)))


def verdicts(settings: Settings, sample: Sample = WHOLE) -> dict[str, LakeVerdict]:
    """What the audit says, by table."""
    return {verdict.table: verdict for verdict in audit_lake(settings, sample)}


def test_the_audit_says_which_days_of_which_tables_are_damaged(isolated: Settings, derived: Identifier) -> None:
    """All objects are looked at: damaged days of the newest rows, damaged staged days, and how much of earlier snapshots is damaged."""
    contract = trips()
    first, second = (stage(isolated, contract, day(offset), trip_rows(day(offset))).files[0] for offset in range(2))
    tables.publish_days(isolated, contract, day(0), day(1))
    put(isolated, derived)
    old = live_keys(isolated, derived)[2]
    tables.replace_days(isolated, derived, trip_rows(day(2), seats=9), "began_at", day(2), day(2))
    whole = verdicts(isolated)
    damage_two_days(isolated, derived)
    flip(object_store(isolated), isolated.s3_bucket, old, 4711)
    flip(object_store(isolated), isolated.s3_bucket, second.path.removeprefix(f"s3://{isolated.s3_bucket}/"), 4711)
    found, name = verdicts(isolated), ".".join(derived)

    assert not any(verdict.problems or verdict.old for verdict in whole.values())
    # Two snapshots with a list and a manifest each at least, their metadata, and four files.
    assert whole[name].objects >= 9
    assert (whole["lake.trips"].objects, whole["staged.trips"].objects) == (5, 4)
    assert (found[name].days, found[name].old) == ([str(day(0)), str(day(1))], 1)
    assert ["is not there" in found[name].problems[0], "other bytes" in found[name].problems[1]] == [True, True]
    assert found["staged.trips"].days == found["lake.trips"].days == [str(day(1))]
    assert first.path not in "".join(found["staged.trips"].problems)


def point(settings: Settings, identifier: Identifier, location: str) -> None:
    """Has the catalog name other metadata of a table, as one from a backup does."""
    with psycopg.connect(settings.catalog_dsn.get_secret_value()) as connection:
        changed = "update iceberg_tables set metadata_location = %s where table_namespace = %s and table_name = %s"
        assert connection.execute(changed, [location, *identifier]).rowcount == 1


def locations_after_writes(settings: Settings, identifier: Identifier, writes: int) -> list[str]:
    """Where the metadata of a table are after each of some commits."""
    found = []
    for seats in range(1, writes + 1):
        tables.replace_days(settings, identifier, trip_rows(day(0), seats=seats), "began_at", day(0), day(0))
        with catalog(settings) as lake:
            found.append(lake.load_table(identifier).metadata_location)
    return found


def test_a_catalog_that_is_older_than_a_table_is_named_though_the_table_has_as_many_rows(isolated: Settings, derived: Identifier) -> None:
    """Regression: a correction that a catalog from a backup knows nothing of was gone without a word, as counts of rows are the same."""
    name, locations = ".".join(derived), locations_after_writes(isolated, derived, 4)
    whole = verdicts(isolated)[name].problems
    # A writer that was killed before it told the catalog leaves as much.
    point(isolated, derived, locations[-2])
    killed = verdicts(isolated)[name].problems
    point(isolated, derived, locations[0])
    (older,) = verdicts(isolated)[name].problems
    locations_after_writes(isolated, derived, 3)

    assert (whole, killed) == ([], [])
    numbers = [int(location.rpartition("/")[2].partition("-")[0]) for location in (locations[0], locations[-1])]
    assert older.startswith(f"{name}: the catalog names version {numbers[0]} of its metadata, and the store has version {numbers[1]}:")
    assert verdicts(isolated)[name].problems == []


def test_what_is_committed_while_the_audit_looks_is_no_newer_metadata(
    isolated: Settings, derived: Identifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that gets commits all the time is not older than the lake."""
    locations = locations_after_writes(isolated, derived, 1)

    def listed_later(*asked: Any) -> Iterator[tuple[str, int]]:
        locations.extend(locations_after_writes(isolated, derived, 3))
        return listed(*asked)

    monkeypatch.setattr(newer, "listed", listed_later)

    assert verdicts(isolated)[".".join(derived)].problems == []
    assert len(set(locations)) == 3


def test_metadata_of_a_table_that_was_there_before_are_no_newer_ones(isolated: Settings, derived: Identifier) -> None:
    """A table that was taken out of the catalog and made anew begins at version 0, in the folder of the former one."""
    locations_after_writes(isolated, derived, 4)
    with catalog(isolated) as lake:
        lake.drop_table(derived)
    put(isolated, derived)

    assert verdicts(isolated)[".".join(derived)].problems == []


def test_samples_of_the_audit_are_all_files_once(isolated: Settings, derived: Identifier) -> None:
    """Each data file is in the sample of one of so many days, metadata in all."""
    put(isolated, derived)
    (whole,) = verdicts(isolated).values()
    parts = [next(iter(verdicts(isolated, Sample(of=4, turn=turn)).values())).objects for turn in range(4)]

    assert sum(parts) - 3 * (whole.objects - DAYS) == whole.objects


def test_a_table_whose_manifest_is_damaged_is_rebuilt(isolated: Settings, derived: Identifier) -> None:
    """The audit names the object and the command that takes the table out of the catalog; then its days are made anew."""
    put(isolated, derived)
    name, key = ".".join(derived), key_of(isolated, derived, "manifest")
    with pytest.raises(UserInputError, match="are whole"):
        take_out(isolated, name)
    flip(object_store(isolated), isolated.s3_bucket, key, 4711)
    (found,) = verdicts(isolated).values()
    said = take_out(isolated, name)
    put(isolated, derived)

    assert [key in found.problems[0], f"pipeline lake rebuild {name}" in found.problems[0]] == [True, True]
    assert said.startswith(f"{name} is out of the catalog. Materialize features/")
    assert tables.read_all(isolated, derived).read_all().equals(rows_of_days())
    with pytest.raises(UserInputError, match=r"is before landed\.clicks"):
        take_out(isolated, "landed.clicks")
    with pytest.raises(UnknownName):
        take_out(isolated, "features.none")


def test_the_audit_is_a_check_that_names_what_is_damaged(isolated: Settings, derived: Identifier, tmp_path: Path) -> None:
    """The daily check looks at all metadata: one that is damaged fails it, with its sentence; other namespaces pass."""
    put(isolated, derived)
    flip(object_store(isolated), isolated.s3_bucket, key_of(isolated, derived, "manifest list"), 4711)
    write_stack_env(isolated, tmp_path)
    (checked,) = [
        one for one in assets.defs(load_project()).asset_checks or () if {each.name for each in one.check_keys} == {names.OBJECTS_INTACT}
    ]
    result = dg.materialize([checked], resources={"platform": Platform(home=str(tmp_path))}, selection=dg.AssetSelection.checks(checked))
    found = {each.asset_key.path[-1]: each for each in result.get_asset_check_evaluations()}

    assert {name: each.passed for name, each in found.items()} == {name: name != names.FEATURES for name in assets.POLICIES}
    assert ".".join(derived) in str(found[names.FEATURES].metadata["damaged"].value)


def test_the_audit_is_a_command(isolated: Settings, derived: Identifier, tmp_path: Path) -> None:
    """One line a table and exit code 0; with damage the sentence that says what to do, and exit code 1."""
    put(isolated, derived)
    write_stack_env(isolated, tmp_path)
    command = [str(Path(sys.executable).with_name("pipeline")), "audit", "lake"]
    environment = {"PATH": os.environ["PATH"], "PIPELINE_HOME": str(tmp_path)}
    whole = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    damage_two_days(isolated, derived)
    damaged = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.startswith(f"ok    {'.'.join(derived)}")
    assert damaged.returncode == 1
    assert f"Materialize {'/'.join(derived)} of {day(0)} again" in damaged.stdout
