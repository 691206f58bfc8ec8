"""Files that are read once by what is new: whatever is renamed, rewritten, gone, half there or read by a run that was killed."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from pipeline_assets.core.connections import object_store
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import ContractViolation, SourceRefused, SourceUnavailable
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.versions import DELETED_AT
from pipeline_assets.ingestion.batch import assets, new_files, sensors
from pipeline_assets.ingestion.batch.file_index import read_index
from pipeline_assets.ingestion.batch.files import folder_of
from pipeline_assets.ingestion.batch.load import stage_new_rows, stage_snapshot
from pipeline_assets.ingestion.batch.replay import replay
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.ingestion.staging.stage import Staged
from pipeline_assets.processing.lake.sweep import _named_by_manifests
from pipeline_assets.spec.sources import CsvFile, Files, Source
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.flipped_bits import flip
from pipeline_assets_tests.integration.ingestion.batch.test_batch_files import FOLDER, Inbox, csv, inbox, on_disk
from pipeline_assets_tests.readings import World, at, day, reading, with_field, with_share
from pipeline_assets_tests.stack_env import write_stack_env

__all__ = ["inbox"]
SNAPSHOT = "snapshot"


def source_of(world: World) -> Source:
    """The readings as files that are read once, whatever share of their rows is broken."""
    origin = Files(folder=FOLDER, pattern="*.csv.gz", format=CsvFile())
    return with_share(1.0, Source(contract=world.contract, origin=origin, load="incremental"))


def stage(box: Inbox, source: Source, *, find_deletes: bool = False, from_the_start: bool = False) -> Staged:
    """Reads what is new."""
    return stage_new_rows(box.settings, source, run_id="r", find_deletes=find_deletes, from_the_start=from_the_start)


def levels(world: World) -> list[tuple[str, int, bool]]:
    """Sensor and level of all versions, and whether they ended."""
    return sorted((row["sensor"], row["level"], row[DELETED_AT] is not None) for row in world.versions(SNAPSHOT))


def waiting(world: World) -> list[tuple[str, str]]:
    """Fault and bytes of the rows in quarantine."""
    faults = [fault for _, _, fault, _ in world.quarantined()]
    return sorted(zip(faults, (original.decode().split(",")[0] for original in world.originals()), strict=True))


def test_each_file_is_read_once_by_its_content(world: World, inbox: Inbox) -> None:
    """A copy, a renamed file and one that is gone change nothing and read nothing; rows of several days are staged together."""
    source = source_of(world)
    inbox.put("a.csv.gz", csv(reading(), reading(1, sensor="b2")))
    inbox.put("copy.csv.gz", csv(reading(), reading(1, sensor="b2")))
    first = stage(inbox, source).manifest
    inbox.remove("a.csv.gz")
    inbox.put("renamed.csv.gz", csv(reading(), reading(1, sensor="b2")))
    inbox.put("new.csv.gz", csv(reading(2, sensor="c3")))
    second = stage(inbox, source).manifest
    inbox.remove("new.csv.gz")
    third = stage(inbox, source).manifest

    assert (first.rows, second.rows) == (2, 3)
    assert first.files == second.files[:1]
    assert third == second
    assert levels(world) == [("a1", 3, False), ("b2", 3, False), ("c3", 3, False)]
    index = read_index(object_store(world.settings), world.settings.s3_bucket, third)
    assert sorted(index.files) == ["a.csv.gz", "copy.csv.gz", "new.csv.gz", "renamed.csv.gz"]


def test_a_file_that_is_written_again_brings_versions_and_corrections(world: World, inbox: Inbox) -> None:
    """A later `known_at` is another version, the same one takes the place of what it was; what left the file stays, and A, B, A is A."""
    source, corrected = source_of(world), reading(level=4)
    later = reading(level=5, sent_at=at(0, 13) - timedelta(minutes=1))
    inbox.put("a.csv.gz", csv(reading(), reading(sensor="gone")))
    stage(inbox, source)
    inbox.put("a.csv.gz", csv(corrected, later))
    stage(inbox, source)
    written_again = levels(world)
    inbox.put("a.csv.gz", csv(reading(), reading(sensor="gone"), later))
    stage(inbox, source)

    assert written_again == [("a1", 4, False), ("a1", 5, False), ("gone", 3, False)]
    assert levels(world) == [("a1", 3, False), ("a1", 5, False), ("gone", 3, False)]


def test_a_broken_row_stays_until_its_own_file_is_right(world: World, inbox: Inbox) -> None:
    """Another file does not mend it, and one that breaks what was good ends that; a replayed row stays and is not read again."""
    source = source_of(world)
    inbox.put("a.csv.gz", csv(reading(), reading(sensor="b2", level=99)))
    inbox.put("b.csv.gz", csv(reading(sensor="c3", level=98)))
    stage(inbox, source)
    first = waiting(world)
    inbox.put("a.csv.gz", csv(reading(level=97), reading(sensor="b2", level=9), reading(sensor="e5")))
    stage(inbox, source)
    second, ended = waiting(world), levels(world)
    wider = with_field("level", source, maximum=98)
    (replayed,) = replay(inbox.settings, [wider])
    inbox.put("d.csv.gz", csv(reading(sensor="d4")))
    last = stage(inbox, wider).manifest

    assert first == [("level out of range", "b2"), ("level out of range", "c3")]
    assert second == [("level out of range", "a1"), ("level out of range", "c3")]
    assert ended == [("a1", 3, True), ("b2", 9, False), ("e5", 3, False)]
    assert (replayed.replayed, replayed.still_broken) == (2, 0)
    # The replay made a version of its own of the row that had ended, known by then, with the same values.
    assert sorted(set(levels(world))) == [("a1", 97, False), ("b2", 9, False), ("c3", 98, False), ("d4", 3, False), ("e5", 3, False)]
    assert (last.broken, waiting(world)) == (0, [])


@pytest.mark.parametrize("moment", ["quarantine", "index"])
def test_a_run_that_is_killed_leaves_nothing_twice(world: World, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Killed once the quarantine, or the index, is written: the next run reads the files again, renamed ones too, and has each row once."""
    source = source_of(world)
    inbox.put("a.csv.gz", csv(reading()))
    before = stage(inbox, source).manifest
    inbox.put("b.csv.gz", csv(reading(sensor="b2"), reading(sensor="c3", level=99)))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "quarantine":
            patch.setattr(staging, "publish", killed)
        else:
            patch.setattr(new_files, "stage_increment", killed)
        with pytest.raises(KeyboardInterrupt):
            stage(inbox, source)
    unseen = staging.read_manifest(world.settings, world.name, SNAPSHOT)
    inbox.put("moved.csv.gz", csv(reading(sensor="b2"), reading(sensor="c3", level=99)))
    inbox.remove("b.csv.gz")
    stage(inbox, source)

    assert unseen == before
    assert levels(world) == [("a1", 3, False), ("b2", 3, False)]
    assert waiting(world) == [("level out of range", "c3")]


def test_half_written_and_damaged_files(world: World, tmp_path: Path) -> None:
    """One that is being written waits and stops no other; one that cannot be read to its end is named, and nothing is staged with it."""
    box, source = on_disk(world.settings, tmp_path), source_of(world)
    box.put("a.csv.gz", csv(reading()))
    box.put("b.csv.gz.part", csv(reading(sensor="b2")))
    (tmp_path / "c.csv.gz").write_bytes(csv(reading(sensor="c3")))
    first = stage(box, source).manifest.rows
    os.utime(tmp_path / "c.csv.gz", (1_400_000_000, 1_400_000_000))
    box.put("d.csv.gz", csv(reading(sensor="d4"))[:-9])
    with pytest.raises(SourceUnavailable, match=r"'d\.csv\.gz', which cannot be read to its end"):
        stage(box, source)
    refused = levels(world)
    box.remove("d.csv.gz")
    stage(box, source)

    assert (first, refused) == (1, [("a1", 3, False)])
    assert levels(world) == [("a1", 3, False), ("c3", 3, False)]


def test_what_is_refused_is_read_again(world: World, inbox: Inbox) -> None:
    """Too many broken rows leave everything as it was; deletions cannot be looked for in files."""
    source = with_share(0.1, source_of(world))
    inbox.put("a.csv.gz", csv(reading(level=99)))
    with pytest.raises(ContractViolation):
        stage(inbox, source)
    refused = (world.quarantined(), world.manifests())
    inbox.put("a.csv.gz", csv(reading()))
    stage(inbox, source)
    with pytest.raises(SourceRefused, match="without find_deletes"):
        stage(inbox, source, find_deletes=True)

    assert refused == ([], [])
    assert levels(world) == [("a1", 3, False)]


def test_a_contract_that_changes_and_a_run_from_the_start_read_all_files_that_are_there(world: World, inbox: Inbox) -> None:
    """Rows of files that are gone stay, those that a stricter contract breaks end, and nothing is doubled."""
    source = source_of(world)
    inbox.put("a.csv.gz", csv(reading(), reading(sensor="b2", level=9)))
    inbox.put("b.csv.gz", csv(reading(sensor="c3"), reading(sensor="d4", level=99)))
    stage(inbox, source)
    inbox.remove("b.csv.gz")
    again = stage(inbox, source, from_the_start=True).manifest
    unchanged = levels(world)
    stage(inbox, with_field("level", source, maximum=8))

    assert unchanged == [("a1", 3, False), ("b2", 9, False), ("c3", 3, False)]
    assert again.broken == 1
    assert levels(world) == [("a1", 3, False), ("b2", 9, True), ("c3", 3, False)]
    assert waiting(world) == [("level out of range", "b2"), ("level out of range", "d4")]


def test_any_course_of_files_ends_with_the_versions_of_a_snapshot_of_them(world: World, tmp_path: Path) -> None:
    """Files come in any order, some are renamed, over several runs: each version of each key is there once, as in one reading of all."""
    box, source, random, numbers = on_disk(world.settings, tmp_path), source_of(world), np.random.default_rng(5), count()
    everything: list[bytes] = []
    for _ in range(6):
        for _ in range(int(random.integers(0, 4))):
            minutes = [int(minute) for minute in random.integers(0, 50, 3)]
            rows = [
                reading(sensor=f"s{minute % 4}", level=minute // 5 + 2 * (minute > 45), sent_at=at(0) + timedelta(minutes=minute))
                for minute in minutes
            ]
            everything.append(csv(*rows))
            box.put(f"{next(numbers)}.csv.gz", everything[-1])
        files = sorted(tmp_path.glob("*.csv.gz"))
        if files and random.random() < 0.5:
            files[int(random.integers(len(files)))].rename(tmp_path / f"{next(numbers)}.csv.gz")
        stage(box, source)
    read = (levels(world), sorted(set(waiting(world))))
    whole = World(settings=world.settings, name=f"{world.name}_whole")
    for place, content in enumerate(everything):
        box.put(f"whole{place:03}.csv.gz", content)
    origin = Files(folder=FOLDER, pattern="whole*.csv.gz", format=CsvFile())
    stage_snapshot(box.settings, replace(source, contract=replace(source.contract, name=whole.name), origin=origin), run_id="r")

    assert read == (levels(whole), sorted(set(waiting(whole))))
    assert len({(row["sensor"], row["sent_at"]) for row in world.versions(SNAPSHOT)}) == len(read[0])


def test_the_index_is_kept_by_the_maintenance_while_the_manifest_names_it(world: World, inbox: Inbox) -> None:
    """Without it every file would be read again; the one of an earlier run may go."""
    source, client, bucket = source_of(world), object_store(world.settings), world.settings.s3_bucket
    inbox.put("a.csv.gz", csv(reading()))
    stage(inbox, source)
    inbox.put("b.csv.gz", csv(reading(sensor="b2")))
    manifest = stage(inbox, source).manifest
    listed = world.keys()
    indexes = [key for key in listed if key.endswith(".index.sealed.parquet")]

    named = _named_by_manifests(client, bucket, indexes)

    assert len(indexes) == 2
    assert [key for key in indexes if key in named] == [manifest.made_from["index"].removeprefix(f"s3://{bucket}/")]


@pytest.mark.parametrize("damaged", [staging.MANIFEST, "index", "rows"])
def test_what_is_damaged_is_made_anew_from_the_start(world: World, inbox: Inbox, damaged: str) -> None:
    """Regression: a damaged manifest was read, and refused, by the very run that should make it anew.

    A run that reads what is new refuses and says how; one from the start has all that the files have; the sweep and the sensor go on.
    """
    source, client, bucket = source_of(world), object_store(world.settings), world.settings.s3_bucket
    inbox.put("a.csv.gz", csv(reading(), reading(sensor="b2", level=99)))
    manifest = stage(inbox, source).manifest
    listed = world.keys()
    found = {"index": manifest.made_from["index"], "rows": manifest.files[0].path}.get(damaged, f"staged/{world.name}/{SNAPSHOT}/{damaged}")
    flip(client, bucket, found.removeprefix(f"s3://{bucket}/"), 4711)
    inbox.put("b.csv.gz", csv(reading(sensor="c3")))

    assert new_files.unread_digest(inbox.settings, source) is not None
    if damaged == staging.MANIFEST:
        assert _named_by_manifests(client, bucket, listed) == {*listed}
    with pytest.raises(ObjectDamaged, match="again, with `from_the_start: true`"):
        stage(inbox, source)
    again = stage(inbox, source, from_the_start=True)
    after = stage(inbox, source)

    assert levels(world) == [("a1", 3, False), ("c3", 3, False)]
    assert waiting(world) == [("level out of range", "b2")]
    assert after.manifest == again.manifest


@pytest.fixture
def ask(world: World, tmp_path: Path) -> Callable[[], list[list[str]]]:
    """Lets the sensor of a use case with these files look once: the assets of each run that it requests."""
    box = on_disk(world.settings, tmp_path / "in")
    (tmp_path / "in").mkdir()
    write_stack_env(box.settings, tmp_path)
    case = replace(flights, first_day=day(0), last_day=day(9), sources=(source_of(world),), streams=(), models=())
    project = Project(use_cases=(case,), tables={})
    job = dg.define_asset_job(f"build_features_{case.name}", selection=dg.AssetSelection.all())
    resources = {"platform": Platform(home=str(tmp_path))}
    definitions = dg.Definitions.merge(assets.defs(project), dg.Definitions(jobs=[job], resources=resources))
    (sensor,) = sensors.defs(project).sensors or ()
    cursor: str | None = None

    def asked() -> list[list[str]]:
        nonlocal cursor
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(
                instance=instance, cursor=cursor, definitions=definitions, resources={"platform": Platform(home=str(tmp_path))}
            )
            answer = sensor(context)
        assert isinstance(answer, dg.SensorResult)
        cursor = answer.cursor
        return [[asset.to_user_string() for asset in request.asset_selection or ()] for request in answer.run_requests or ()]

    return asked


def test_the_sensor_requests_a_run_once_for_each_set_of_new_files(world: World, tmp_path: Path, ask: Callable[[], list[list[str]]]) -> None:
    """New files are asked for once, whether or not the run has come; a file that is gone or being written asks for nothing."""
    box = on_disk(world.settings, tmp_path / "in")
    nothing = ask()
    box.put("a.csv.gz", csv(reading()))
    first, again = ask(), ask()
    stage(box, source_of(world))
    done = ask()
    (tmp_path / "in" / "b.csv.gz").write_bytes(csv(reading(sensor="b2")))
    unsettled = ask()
    os.utime(tmp_path / "in" / "b.csv.gz", (1_400_000_000, 1_400_000_000))
    box.remove("a.csv.gz")
    second = ask()

    wanted = [[f"staged/{world.name}"]]
    assert (first, second) == (wanted, wanted)
    assert nothing == again == done == unsettled == []


def test_a_time_of_the_store_is_kept_to_the_microsecond(world: World, tmp_path: Path) -> None:
    """A file that nobody touched is as it was, whatever digits its file system gives."""
    box, source = on_disk(world.settings, tmp_path), source_of(world)
    box.put("a.csv.gz", csv(reading()))
    os.utime(tmp_path / "a.csv.gz", ns=(1_400_000_000_123_456_789, 1_400_000_000_123_456_789))
    manifest = stage(box, source).manifest
    assert isinstance(source.origin, Files)
    (file,) = folder_of(box.settings, source.contract, source.origin).found()

    assert read_index(object_store(world.settings), world.settings.s3_bucket, manifest).unread([file], datetime.now(UTC)) == []
