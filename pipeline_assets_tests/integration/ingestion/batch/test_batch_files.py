"""Files as a source, on disk and on the object store: staged by the day, quarantined with file and line, seen by a sensor."""

import gzip
import io
import os
from collections.abc import Callable
from csv import DictWriter
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform
from pipeline_assets.core.setting_values import FileFolder
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch import sensors
from pipeline_assets.ingestion.batch.load import stage_days
from pipeline_assets.ingestion.batch.replay import replay
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.spec.sources import CsvFile, Files, Source
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.readings import World, at, day, reading, with_field
from pipeline_assets_tests.stack_env import write_stack_env

FOLDER = "inbox"
LONG_AGO = 1_400_000_000


@dataclass(frozen=True, kw_only=True)
class Inbox:
    """A folder that others put files into, and the settings that name it."""

    settings: Settings
    put: Callable[[str, bytes], None]
    remove: Callable[[str], None]


def on_disk(settings: Settings, folder: Path) -> Inbox:
    """A directory."""

    def put(path: str, content: bytes) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        os.utime(folder / path, (LONG_AGO + len(content), LONG_AGO + len(content)))

    known = settings.model_copy(update={"folders": {FOLDER: FileFolder(url=folder.as_uri())}})
    return Inbox(settings=known, put=put, remove=lambda path: (folder / path).unlink())


def on_object_store(settings: Settings, name: str) -> Inbox:
    """A prefix of the bucket."""
    client, bucket = object_store(settings), settings.s3_bucket
    place = FileFolder(
        url=f"s3://{bucket}/in/{name}",
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
    )
    return Inbox(
        settings=settings.model_copy(update={"folders": {FOLDER: place}}),
        put=lambda path, content: client.put_object(Bucket=bucket, Key=f"in/{name}/{path}", Body=content) and None,
        remove=lambda path: client.delete_object(Bucket=bucket, Key=f"in/{name}/{path}") and None,
    )


@pytest.fixture(params=["disk", "object store"])
def inbox(request: pytest.FixtureRequest, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    """A folder of each kind; of an object store no file is ever half there, so that nobody waits for it here."""
    if request.param == "disk":
        return on_disk(world.settings, tmp_path)
    monkeypatch.setattr("pipeline_assets.ingestion.batch.files.SETTLED", timedelta(0))
    return on_object_store(world.settings, world.name)


def source_of(world: World, pattern: str = "%Y/%m/%d/*.csv.gz") -> Source:
    """The readings as files of days."""
    return Source(contract=world.contract, origin=Files(folder=FOLDER, pattern=pattern, format=CsvFile()), load="daily")


def csv(*rows: dict[str, object]) -> bytes:
    """Rows as a compressed file."""
    written = io.StringIO()
    writer = DictWriter(written, rows[0])
    writer.writeheader()
    writer.writerows({name: str(value).lower() if isinstance(value, bool) else value for name, value in row.items()} for row in rows)
    return gzip.compress(written.getvalue().encode(), mtime=0)


def test_files_of_days_are_staged_with_their_broken_rows_beside(world: World, inbox: Inbox) -> None:
    """Each day has the rows of its files once; a broken one stands in quarantine with file, line and bytes."""
    inbox.put("2013/05/01/a.csv.gz", csv(reading(), reading(sensor="b2", level=99)))
    inbox.put("2013/05/01/copy.csv.gz", csv(reading(), reading(sensor="b2", level=99)))
    inbox.put("2013/05/02/a.csv.gz", csv(reading(1, sensor="c3")))
    first, second, third = stage_days(inbox.settings, source_of(world), day(0), day(2), run_id="r")
    (broken,) = quarantine.listed(world.settings, source=world.name)

    assert (world.staged(), world.staged(day(1).isoformat())) == ([reading()], [reading(1, sensor="c3")])
    assert (first.manifest.rows, second.manifest.rows, third.manifest.rows) == (1, 1, 0)
    assert (broken.place, broken.field, broken.reason, broken.position) == ("2013/05/01/a.csv.gz:3", "level", "out of range", 1)
    assert broken.original.startswith(b"b2,indoor,99,0.5,true,2013-05-01 12:00:00+00:00")


def test_a_file_that_is_written_again_takes_the_place_of_what_it_was(world: World, inbox: Inbox) -> None:
    """A file that was renamed changes nothing; one of other content does, and the version that it had before stays as such."""
    source, before = source_of(world), reading()
    after = reading(level=4, sent_at=at(0, 13))
    inbox.put("2013/05/01/a.csv.gz", csv(before))
    stage_days(inbox.settings, source, day(0), day(0), run_id="r")
    inbox.remove("2013/05/01/a.csv.gz")
    inbox.put("2013/05/01/b.csv.gz", csv(before))
    stage_days(inbox.settings, source, day(0), day(0), run_id="r")
    renamed = world.versions()
    inbox.put("2013/05/01/b.csv.gz", csv(after))
    stage_days(inbox.settings, source, day(0), day(0), run_id="r")

    assert renamed == [before | {"_deleted_at": None}]
    assert sorted(world.staged(), key=lambda row: row["sent_at"]) == [before, after]


def test_a_broken_line_of_csv_joins_its_day_once_the_contract_is_mended(world: World, inbox: Inbox) -> None:
    """Regression: its bytes were taken for JSON, so that it stayed broken. Its columns are those that its file named when it was read."""
    inbox.put("2013/05/01/a.csv.gz", csv(reading(), reading(sensor="a2"), reading(sensor="b2", level=99), reading(kind="upstairs")))
    stage_days(inbox.settings, source_of(world), day(0), day(0), run_id="r")
    inbox.put("2013/05/01/a.csv.gz", csv({"level": 1, "sensor": "later"}))

    (found,) = replay(inbox.settings, [with_field("level", source_of(world), maximum=100)])

    assert (found.replayed, found.still_broken) == (1, 1)
    assert world.staged() == [reading(), reading(sensor="a2"), reading(sensor="b2", level=99)]
    assert [(fault, done) for _, _, fault, done in world.quarantined()] == [("level out of range", True), ("kind not allowed", False)]


def test_the_sensor_requests_days_whose_files_changed(world: World, tmp_path: Path) -> None:
    """New, changed and vanished files each make their day stale once; days in a row are one run, and a tick asks for a month."""
    box = on_disk(world.settings, tmp_path / "in")
    case = replace(flights, first_day=day(0), last_day=day(99), sources=(source_of(world),), streams=(), models=())
    project = Project(use_cases=(case,), tables={})
    (sensor,) = sensors.defs(project).sensors or ()
    assert isinstance(sensor, dg.SensorDefinition)
    write_stack_env(box.settings, tmp_path)
    for number in (0, 1, 4):
        box.put(f"{day(number):%Y/%m/%d}/a.csv.gz", csv(reading(number)))

    cursor: str | None = None

    def asked() -> list[tuple[str, str]]:
        nonlocal cursor
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"platform": Platform(home=str(tmp_path))})
            answer = sensor(context)
        assert isinstance(answer, dg.SensorResult)
        cursor = answer.cursor
        return [tuple(request.tags[name] for name in names.range_tags(day(0), day(0))) for request in answer.run_requests or ()]  # type: ignore[misc]

    first, again = asked(), asked()
    box.put(f"{day(1):%Y/%m/%d}/a.csv.gz", csv(reading(1), reading(1, sensor="b2")))
    changed = asked()
    box.remove(f"{day(4):%Y/%m/%d}/a.csv.gz")
    gone = asked()
    for number in range(10, 100, 2):
        box.put(f"{day(number):%Y/%m/%d}/a.csv.gz", csv(reading(number)))
    months = [asked() for _ in range(4)]
    (tmp_path / "in" / f"{day(6):%Y/%m/%d}").mkdir(parents=True)
    (tmp_path / "in" / f"{day(6):%Y/%m/%d}" / "a.csv.gz").write_bytes(csv(reading(6)))
    unsettled = asked()

    def span(begin: int, end: int) -> tuple[str, str]:
        return date.isoformat(day(begin)), date.isoformat(day(end))

    assert first == [span(0, 1), span(4, 4)]
    assert months == [[span(number, number) for number in range(*month, 2)] for month in ((10, 41), (42, 73), (74, 100), (0, 0))]
    assert again == unsettled == []
    assert (changed, gone) == ([span(1, 1)], [span(4, 4)])
