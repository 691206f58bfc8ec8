"""Files of a folder: which are meant, which day each belongs to, and which are left alone."""

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from pipeline_assets.core.errors import PipelineError, SettingsMissing, SourceRefused, SourceUnavailable
from pipeline_assets.core.setting_values import FileFolder
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.files import FileReader, folder_of, open_folder
from pipeline_assets.spec.sources import CsvFile, FileFormat, Files, JsonLines, ParquetFile
from pipeline_assets_tests.readings import READINGS
from pipeline_assets_tests.unit.ingestion.batch.test_file_rows import HEADER, LINE

DAY = date(2013, 5, 1)
LONG_AGO = 1_400_000_000


def put(folder: Path, path: str, content: bytes = HEADER + LINE, *, changed_at: float = LONG_AGO) -> None:
    """A file that was last changed at a time, in seconds since 1970."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (changed_at, changed_at))


def settings_of(folder: Path) -> Settings:
    """Settings that have this folder as `inbox`."""
    return Settings.model_construct(home=folder, folders={"inbox": FileFolder(url=folder.as_uri())})


@contextmanager
def reader(folder: Path, pattern: str, written: FileFormat | None = None) -> Iterator[FileReader]:
    """A reader of the files of a folder."""
    with open_folder(settings_of(folder), READINGS, Files(folder="inbox", pattern=pattern, format=written or CsvFile())) as opened:
        yield opened


def found(folder: Path, pattern: str, day: date | None = None) -> list[tuple[str, date | None]]:
    """The paths that a pattern takes, each with its day."""
    origin = Files(folder="inbox", pattern=pattern, format=CsvFile())
    return [(file.path, file.day) for file in folder_of(settings_of(folder), READINGS, origin).found(day)]


def sensors(opened: FileReader, day: date | None = None) -> list[str]:
    """The sensors in the rows of a day."""
    return [name for part in opened(day) for name in part.good.column("sensor").to_pylist()]


def test_a_pattern_takes_files_by_their_day(tmp_path: Path) -> None:
    """Parts of the day may stand in directories and names, more than once; what has no such day is not meant."""
    for path in ("orders/2013/05/01/a-2013-05-01.csv", "orders/2013/05/02/a-2013-05-02.csv", "orders/2013/05/02/a-2013-05-03.csv"):
        put(tmp_path, path)
    put(tmp_path, "orders/2013/02/30/a-2013-02-30.csv")
    pattern = "orders/%Y/%m/%d/*-%Y-%m-%d.csv"

    assert found(tmp_path, pattern) == [
        ("orders/2013/05/01/a-2013-05-01.csv", DAY),
        ("orders/2013/05/02/a-2013-05-02.csv", DAY + timedelta(days=1)),
    ]
    assert found(tmp_path, pattern, DAY) == [("orders/2013/05/01/a-2013-05-01.csv", DAY)]
    assert found(tmp_path, pattern, date(2014, 1, 1)) == []


def test_signs_of_a_pattern_mean_themselves_but_for_two(tmp_path: Path) -> None:
    """A star and a question mark stand for signs of one name, a dot for a dot, two percent signs for one."""
    for path in ("100%/a1.csv", "100%/a12.csv", "100%/b/a1.csv", "100%/a1_csv"):
        put(tmp_path, path)

    assert [path for path, _ in found(tmp_path, "100%%/a?.csv")] == ["100%/a1.csv"]
    assert [path for path, _ in found(tmp_path, "100%%/*.csv")] == ["100%/a1.csv", "100%/a12.csv"]
    assert [path for path, _ in found(tmp_path, "*/*/*.csv")] == ["100%/b/a1.csv"]


def test_day_of_the_year_is_a_day(tmp_path: Path) -> None:
    """As exports of sensors and mainframes name their files."""
    put(tmp_path, "readings.13121.csv")

    assert found(tmp_path, "readings.%y%j.csv", DAY) == [("readings.13121.csv", DAY)]


def test_files_that_are_not_there_yet_are_left_alone(tmp_path: Path) -> None:
    """Names that begin with a dot or an underscore, in any directory, and those of transfers that have not ended."""
    for path in ("a.csv", ".a.csv", "_a.csv", "_temporary/a.csv", "a.csv.tmp", "a.csv.part", "a.csv.filepart"):
        put(tmp_path, path)

    assert found(tmp_path, "*") == [("a.csv", None)]
    assert found(tmp_path, "*/*") == []


def test_a_file_that_was_just_written_ends_the_load(tmp_path: Path) -> None:
    """It may not be whole: the load is tried again, and reads it then."""
    put(tmp_path, "a.csv", changed_at=datetime.now(UTC).timestamp())
    with reader(tmp_path, "*.csv") as opened, pytest.raises(SourceUnavailable, match=r"'a\.csv', which was changed less than 5 s ago"):
        sensors(opened)


def test_a_file_that_changes_while_it_is_read_ends_the_load(tmp_path: Path) -> None:
    """What was read of it may be half of the old and half of the new."""
    put(tmp_path, "a.csv", HEADER + LINE * 100_000)
    with reader(tmp_path, "*.csv") as opened:
        rows = opened(None)
        next(rows)
        put(tmp_path, "a.csv", HEADER + LINE, changed_at=LONG_AGO + 1)

        with pytest.raises(SourceUnavailable, match=r"changed file 'a\.csv' while it was read"):
            list(rows)


@pytest.mark.parametrize(
    ("name", "content", "written"),
    [
        ("a.csv.gz", gzip.compress(HEADER + LINE * 5_000)[:-20], CsvFile()),
        ("a.csv.gz", b"no gzip at all", CsvFile()),
        ("a.csv.zst", bytes(pa.compress((HEADER + LINE) * 5_000, codec="zstd", asbytes=True))[:-9], CsvFile()),
        ("a.parquet", b"PAR1 and nothing else", ParquetFile()),
    ],
)
def test_a_file_without_its_end_ends_the_load(tmp_path: Path, name: str, content: bytes, written: FileFormat) -> None:
    """By name, and as something that may pass: nothing of it is taken for the whole."""
    put(tmp_path, name, content)
    with (
        reader(tmp_path, name, written) as opened,
        pytest.raises(SourceUnavailable, match=f"has file '{name}', which cannot be read to its end"),
    ):
        sensors(opened)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "A.CSV.GZ", "a.csv.zst"])
def test_compressed_files_are_read_as_what_they_hold(tmp_path: Path, name: str) -> None:
    """By the end of their names, in upper case or lower; a file of several gzip members is one."""
    content = HEADER + LINE
    packed = {"gz": gzip.compress(content) + gzip.compress(LINE), "zst": bytes(pa.compress(content + LINE, codec="zstd", asbytes=True))}
    put(tmp_path, name, packed.get(name.lower().rpartition(".")[2], content + LINE))
    with reader(tmp_path, "*") as opened:
        assert sensors(opened) == ["a1", "a1"]


def test_a_name_that_is_no_text_is_refused_and_shown(tmp_path: Path) -> None:
    """Nobody could open the file by it. Regression: it was an error of the library, without source and file."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")).write_bytes(HEADER + LINE)

    with reader(tmp_path, "*.csv") as opened, pytest.raises(SourceRefused, match=r"has a file whose name is no UTF-8: .*\\xff\.csv"):
        sensors(opened)


def test_a_file_of_the_future_says_so(tmp_path: Path) -> None:
    """Waiting would not help: its time, or the clock of this machine, is wrong."""
    put(tmp_path, "a.csv", HEADER + LINE, changed_at=4_102_444_800)

    with reader(tmp_path, "*.csv") as opened, pytest.raises(SourceUnavailable, match=r"'a\.csv', which was changed at 2100-01-01T00:00:00"):
        sensors(opened)


def test_a_type_that_no_reader_knows_is_refused_by_its_file(tmp_path: Path) -> None:
    """Regression: whole numbers of 128 bits, as Polars writes them, were an error of the library, without source and file."""
    written = pl.DataFrame({"sensor": ["a1"], "level": [1]}).with_columns(pl.col("level").cast(pl.Int128))
    sink = io.BytesIO()
    written.write_parquet(sink)
    put(tmp_path, "a.parquet", sink.getvalue())

    with reader(tmp_path, "*", ParquetFile()) as opened, pytest.raises(SourceRefused, match=r"file 'a\.parquet' has what no reader"):
        list(opened(None))


def test_files_with_the_same_bytes_are_read_once(tmp_path: Path) -> None:
    """A copy under another name adds nothing; another content does, and rows keep positions of their own."""
    for number, content in enumerate([LINE, LINE, LINE.replace(b"a1", b"b2")]):
        put(tmp_path, f"{number}.csv", HEADER + content)
    with reader(tmp_path, "*.csv") as opened:
        parts = list(opened(None))

    assert [part.good.column("sensor").to_pylist() for part in parts] == [["a1"], ["b2"]]
    assert [part.positions.tolist() for part in parts] == [[0], [1]]


def test_a_broken_row_has_its_file_and_line(tmp_path: Path) -> None:
    """As people find it: the path below the folder, and the line."""
    put(tmp_path, "in/1.csv", HEADER + LINE)
    put(tmp_path, "in/2.csv", HEADER + LINE.replace(b"a1", b"c3") + LINE.replace(b",3,", b",99,"))
    with reader(tmp_path, "in/*.csv") as opened:
        broken = [row for part in opened(None) for row in part.broken]

    assert [(row.place, row.position, row.fault) for row in broken] == [("in/2.csv:3", 2, "level out of range")]


def test_json_lines_of_a_day_are_read(tmp_path: Path) -> None:
    """A row of another day is broken: a file belongs to the day in its path."""
    line = b'{"sensor":"a1","read_at":"2013-05-0%dT12:00:00Z","sent_at":"2013-05-0%dT12:05:00Z"}\n'
    put(tmp_path, "2013-05-01.jsonl", line % (1, 1) + line % (2, 2))
    with reader(tmp_path, "%Y-%m-%d.jsonl", JsonLines()) as opened:
        (part,) = opened(DAY)

    assert part.good.num_rows == 1
    assert [(row.place, row.fault) for row in part.broken] == [("2013-05-01.jsonl:2", "read_at outside the day")]


@pytest.mark.parametrize(
    ("origin", "error", "named"),
    [
        (Files(folder="outbox", pattern="*", format=CsvFile()), SettingsMissing, "PIPELINE_FOLDERS__OUTBOX__URL"),
        (Files(folder="inbox", pattern="*", format=CsvFile()), SourceRefused, "folder 'inbox' has no directory"),
    ],
)
def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, origin: Files, error: type[PipelineError], named: str) -> None:
    """A typing error in its URL does not look like a day without files."""
    with pytest.raises(error, match=named), open_folder(settings_of(tmp_path / "gone"), READINGS, origin) as opened:
        list(opened(DAY))
