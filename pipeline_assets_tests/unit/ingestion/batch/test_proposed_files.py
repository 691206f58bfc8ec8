"""Proposals of files: what each kind of file becomes, and that its rows keep what was proposed of them."""

import csv
import gzip
import io
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline_assets.cli import app
from pipeline_assets.core.errors import ProposalRefused, SettingsMissing, SourceRefused
from pipeline_assets.core.setting_values import FileFolder
from pipeline_assets.core.settings import FolderSettings
from pipeline_assets.ingestion.batch.files import open_folder
from pipeline_assets.ingestion.batch.proposals.files import propose_files
from pipeline_assets.ingestion.sources.originals import json_bytes
from pipeline_assets.spec.sources import CsvFile, Files, JsonLines, ParquetFile, Source
from pipeline_assets_tests.connector_configs import settings_with
from pipeline_assets_tests.proposed_modules import formatted, lint, problems_of, source

FOLDER = "inbox"
NOON = datetime(2013, 5, 1, 12, tzinfo=UTC)
Row = Mapping[str, Any]
ROWS: list[dict[str, Any]] = [
    {
        "order_id": number, "channel": "web" if number % 2 else "shop", "amount_eur": None if number == 3 else number + 0.25,
        "is_paid": number > 5, "ordered_at": NOON + timedelta(minutes=number), "recorded_at": NOON + timedelta(minutes=number + 3),
    }
    for number in range(20)
]  # fmt: skip


def as_csv(rows: Sequence[Row], delimiter: str = ",") -> bytes:
    """Lines of values below their names."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _written(value) for name, value in row.items()})
    return out.getvalue().encode()


def _written(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else value


def as_lines(rows: Sequence[Row]) -> bytes:
    """JSON objects, one a line."""
    return b"\n".join(json_bytes(row) for row in rows)


def as_parquet(rows: Sequence[Row]) -> bytes:
    """Parquet, with columns that no contract holds."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    table = table.append_column("tags", pa.array([["a"]] * len(rows))).append_column("on", pa.array([date(2013, 5, 1)] * len(rows)))
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], None]:
    """A function that puts a file into the folder, changed long ago and after those before."""
    count = iter(range(1_000))

    def write(path: str, content: bytes) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
        os.utime(tmp_path / path, (1_400_000_000 + next(count),) * 2)

    return write


def propose(folder: Path, pattern: str, rows: int = 1_000) -> tuple[Source, str]:
    """The source that is proposed, and its module; it is in order, and laid out as it should be."""
    proposal, module = propose_files(FolderSettings(folders={FOLDER: FileFolder(url=folder.as_uri())}), FOLDER, pattern, None, rows)
    found = source(module)
    assert found.contract == proposal.contract
    assert problems_of(found) == []
    assert (formatted(module), lint(module)) == (module, "All checks passed!\n")
    return found, module


def read(folder: Path, found: Source, day: date | None = None) -> tuple[int, list[str]]:
    """How many rows of the files keep the contract, and what is wrong with the others, by the reader of the batches."""
    settings = settings_with("shop").model_copy(update={"folders": {FOLDER: FileFolder(url=folder.as_uri())}})
    assert isinstance(found.origin, Files)
    with open_folder(settings, found.contract, found.origin) as reader:
        parts = list(reader(day))
    return sum(part.good.num_rows for part in parts), [row.fault for part in parts for row in part.broken]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("orders.csv", as_csv(ROWS), CsvFile()),
        ("orders.txt", b"\xef\xbb\xbf" + as_csv(ROWS, ";"), CsvFile(delimiter=";")),
        ("orders.csv.gz", gzip.compress(as_csv(ROWS, "\t")), CsvFile(delimiter="\t")),
        ("orders.jsonl", as_lines(ROWS), JsonLines()),
        ("orders.json.zst", pa.compress(as_lines(ROWS), codec="zstd", asbytes=True), JsonLines()),
        ("orders.parquet", as_parquet(ROWS), ParquetFile()),
    ],
)
def test_each_kind_of_file_is_known_by_its_content(
    tmp_path: Path, put: Callable[[str, bytes], None], name: str, content: bytes, kind: object
) -> None:
    """Whatever it is called: format, types, key and times come out, and every row keeps the contract."""
    put(name, content)

    found, module = propose(tmp_path, name)

    assert found.origin == Files(folder=FOLDER, pattern=name, format=kind)  # type: ignore[arg-type]
    assert {field.name: (field.type, field.required) for field in found.contract.fields} == {
        "order_id": ("integer", True),
        "channel": ("string", True),
        "amount_eur": ("number", False),
        "is_paid": ("boolean", True),
        "ordered_at": ("timestamp", True),
        "recorded_at": ("timestamp", True),
    }
    assert (found.contract.name, found.contract.primary_key, found.load) == ("orders", ("order_id",), "snapshot")
    assert (found.contract.event_at, found.contract.known_at, found.contract.lateness) == (
        "ordered_at",
        "recorded_at",
        timedelta(minutes=15),
    )
    assert "# seen: 0.25 to 19.25; null in 1 of 20 rows" in module
    assert ('- "tags": "list<element: string>" has no type of contracts' in module) == (kind == ParquetFile())
    assert read(tmp_path, found) == (20, [])


def test_files_whose_rows_are_of_the_day_in_their_path_are_loaded_daily(tmp_path: Path, put: Callable[[str, bytes], None]) -> None:
    """Rows of other days in any of them make all files together the table."""
    for number in (1, 2):
        put(f"orders/2013-05-0{number}.csv", as_csv([row | {"ordered_at": row["ordered_at"] + timedelta(days=number - 1)} for row in ROWS]))

    daily, _ = propose(tmp_path, "orders/%Y-%m-%d.csv")
    put("orders/2013-05-03.csv", as_csv(ROWS))
    whole, module = propose(tmp_path, "orders/%Y-%m-%d.csv")

    assert (daily.load, daily.contract.name) == ("daily", "orders")
    assert read(tmp_path, daily, date(2013, 5, 2)) == (20, [])
    assert whole.load == "snapshot"
    assert "rows of other days than the one in the path were seen" in module


def test_the_newest_files_are_looked_at_up_to_so_many_rows(tmp_path: Path, put: Callable[[str, bytes], None]) -> None:
    """Files that are empty, or written otherwise than the newest with rows, are passed over."""
    put("a.csv", as_csv(ROWS))
    put("b.csv", as_csv(ROWS))
    put("c.csv", as_csv(ROWS))
    put("d.csv", as_csv([{"other": 1}]))
    (tmp_path / "d.csv").write_bytes(as_csv(ROWS)[:0])

    _, module = propose(tmp_path, "*.csv", rows=30)

    assert '# Looked at: 30 rows of 2 of 4 files, such as "c.csv".' in module


def test_lines_that_cannot_be_read_are_counted_and_stop_nothing(tmp_path: Path, put: Callable[[str, bytes], None]) -> None:
    """Too few values, bytes that are no UTF-8, and a quote in the middle are broken under any contract."""
    put("orders.csv", as_csv(ROWS) + b"1,2\n" + b'"a"b,,,,,\n' + b"\xff,,,,,\n")
    put("lines.jsonl", as_lines(ROWS) + b"\n{\n[]\n")

    assert "# Rows among them that cannot be read: 3." in propose(tmp_path, "orders.csv")[1]
    assert "# Rows among them that cannot be read: 2." in propose(tmp_path, "lines.jsonl")[1]


@pytest.mark.parametrize(
    ("content", "error", "expected"),
    [
        (b"", ProposalRefused, "no file has a row, of 1 that were looked at"),
        (b"a,b\n", ProposalRefused, "no file has a row"),
        (b"a,a\n1,2\n", SourceRefused, "names the column 'a' twice"),
        (b"A B,C\n1,2\n", ProposalRefused, "no column can be a field"),
        (b"PAR1", SourceRefused, "is no Parquet"),
        (b'[{"a": 1}]', ProposalRefused, r"file 'orders\.csv' is a JSON array, expected an object per line"),
        ("a,b\n1,2\n".encode("utf-16"), SourceRefused, "is UTF-16, expected UTF-8"),
    ],
)
def test_what_nothing_can_be_proposed_of_is_refused(
    tmp_path: Path, put: Callable[[str, bytes], None], content: bytes, error: type[Exception], expected: str
) -> None:
    """The error says what is the matter with the file."""
    put("orders.csv", content)

    with pytest.raises(error, match=expected):
        propose(tmp_path, "orders.csv")


def test_a_column_of_parquet_that_stands_twice_is_left_out(tmp_path: Path, put: Callable[[str, bytes], None]) -> None:
    """Regression: it was an error of the library. Which of the two is meant nobody knows."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    table, sink = pa.table({"id": [1, 2], "note": ["a", "b"], "at": [at, at]}), io.BytesIO()
    pq.write_table(table.append_column("note", table.column("note")), sink)
    put("orders.parquet", sink.getvalue())

    found, module = propose(tmp_path, "orders.parquet")

    assert [field.name for field in found.contract.fields] == ["id", "at"]
    assert '# - "note": stands there more than once' in module


def test_a_folder_or_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The setting that is missing, and the pattern that takes nothing."""
    with pytest.raises(SettingsMissing, match="PIPELINE_FOLDERS__OUTBOX__URL"):
        propose_files(FolderSettings(folders={}), "outbox", "a.csv", None, 1)
    with pytest.raises(ProposalRefused, match=r"folder 'inbox' has no file that 'a.csv' takes"):
        propose(tmp_path, "a.csv")


def pipeline(tmp_path: Path, *arguments: str) -> Any:
    """The command `sources propose file`, with the settings of a folder and no others."""
    environment = {f"PIPELINE_FOLDERS__{FOLDER.upper()}__URL": tmp_path.as_uri(), "PIPELINE_HOME": str(tmp_path / "home")}
    return CliRunner().invoke(app, ["sources", "propose", "file", FOLDER, *arguments], env=environment)


def test_the_command_writes_a_module_and_replaces_none(tmp_path: Path, put: Callable[[str, bytes], None]) -> None:
    """On standard output or in a new file; what was looked at is said beside it, and no other setting is needed."""
    put("orders.csv", as_csv(ROWS))
    out = tmp_path / "sources.py"

    shown = pipeline(tmp_path, "orders.csv", "--name", "sales")
    written = pipeline(tmp_path, "orders.csv", "--name", "sales", "--output", str(out))
    again = pipeline(tmp_path, "orders.csv", "--output", str(out))

    assert (shown.exit_code, source(shown.stdout).contract.name) == (0, "sales")
    assert shown.stderr == 'Looked at 20 rows of 1 of 1 files, such as "orders.csv".\n'
    assert (written.exit_code, written.stdout, out.read_text()) == (0, "", shown.stdout)
    assert isinstance(again.exception, ProposalRefused)
    assert "is there already, and is not replaced" in str(again.exception)


def test_the_command_says_what_does_not_load_yet(tmp_path: Path, put: Callable[[str, bytes], None]) -> None:
    """The text is written all the same, and the exit code is 1."""
    put("orders.csv", b"id,on\n1,2013-05-01\n")

    ended = pipeline(tmp_path, "orders.csv")

    assert ended.exit_code == 1
    assert "The proposal does not load yet: no field can say when a row happened and was known" in ended.stderr
    assert {field.name for field in source(ended.stdout).contract.fields} == {"id", "on"}


def test_the_command_refuses_a_name_that_no_contract_may_have(tmp_path: Path) -> None:
    """Before anything is read."""
    ended = pipeline(tmp_path, "orders.csv", "--name", "My Orders")

    assert "No proposal of 'My Orders': --name is no name of a contract" in str(ended.exception)
