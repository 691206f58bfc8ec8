"""What is asked of an API from a cursor on, how far a reading came, and which files were not read yet."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from pipeline_assets.ingestion.batch.file_index import FileIndex, Indexed
from pipeline_assets.ingestion.batch.files import FoundFile
from pipeline_assets.ingestion.batch.new_records import Newest
from pipeline_assets.ingestion.batch.requests import Since, first_request
from pipeline_assets.spec.rest import OnePage
from pipeline_assets.spec.sources import RestEndpoint

NOON = datetime(2013, 5, 1, 12, tzinfo=UTC)
ENDPOINT = RestEndpoint(service="desk", path="/tickets", records="data", pages=OnePage())


@pytest.mark.parametrize(
    ("template", "value", "written"),
    [
        ("{since}", NOON, "2013-05-01T12:00:00+00:00"),
        ("{since:%Y%m%d}", NOON, "20130501"),
        ("{since:epoch_ms}", NOON, "1367409600000"),
        ("gte:{since:epoch}", NOON, "gte:1367409600"),
        ("{since}", 9007199254740993, "9007199254740993"),
        ("id > {since}", -5, "id > -5"),
    ],
)
def test_a_cursor_stands_in_query_and_body_in_any_format(template: str, value: datetime | int, written: str) -> None:
    """A time as those of days, a whole number with all of its digits."""
    in_query = first_request(replace(ENDPOINT, query=(("from", template), ("expand", "lines"))), Since(value))
    in_body = first_request(replace(ENDPOINT, query=(), body=(("filter.from", template), ("size", 5))), Since(value))

    assert in_query.query == {"from": written, "expand": "lines"}
    assert in_body.body == {"filter": {"from": written}, "size": 5}


def test_without_a_cursor_its_parameters_are_left_out() -> None:
    """The first reading asks for all there is."""
    assert first_request(replace(ENDPOINT, query=(("from", "{since}"), ("expand", "lines"))), None).query == {"expand": "lines"}


@pytest.mark.parametrize(
    ("before", "values", "reached"),
    [
        (None, [NOON, None], NOON),
        (None, [None, None], None),
        (None, [], None),
        (NOON, [NOON - timedelta(days=1)], NOON),
        (NOON, [NOON + timedelta(minutes=1)], NOON + timedelta(minutes=1)),
        (NOON, [NOON + timedelta(days=36_500)], NOON + timedelta(hours=1)),
        (7, [3, 9, None], 9),
        (7, [3], 7),
    ],
)
def test_the_position_is_the_newest_value_that_had_come(
    before: datetime | int | None, values: list[datetime | int | None], reached: datetime | int | None
) -> None:
    """It never goes back, null does not count, and a time in the future is no later than the beginning of the reading."""
    newest = Newest(column="c", value=before, asked_at=NOON + timedelta(hours=1))
    is_number = any(isinstance(value, int) for value in values)
    newest.add(pa.RecordBatch.from_pydict({"c": pa.array(values, pa.int64() if is_number else pa.timestamp("us", "UTC"))}))

    assert newest.value == reached


def test_files_that_are_as_they_were_read_are_not_looked_at() -> None:
    """One of another size or time is, and one without an entry, in the order of their last change; one that is being written is not."""
    known = FileIndex(files={name: Indexed(3, NOON, b"") for name in ("same", "longer", "later")})

    def file(path: str, size: int = 3, changed_at: datetime = NOON) -> FoundFile:
        return FoundFile(path=path, size=size, changed_at=changed_at)

    now = NOON + timedelta(hours=1)
    files = [file("later", changed_at=NOON + timedelta(minutes=1)), file("same"), file("longer", 4), file("new"), file("x", changed_at=now)]

    assert [one.path for one in known.unread(files, now)] == ["longer", "new", "later"]
