"""Two use cases beside the flights, for the tests of cleaning: a library's loans, and readers who share its tables.

Their keys are integers, two columns or a text of another name; their tables come from several streams and a followed table. The dbt models
stand in `library_models/`.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from pipeline_assets.core import connections, names
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings, read_code_settings
from pipeline_assets.processing.cleaning.sources_yml import write_sources
from pipeline_assets.spec.contracts import Contract, Field, FieldType
from pipeline_assets.spec.sources import CsvLine, EventStream, PostgresTable, Source
from pipeline_assets.spec.use_case import UseCase
from pipeline_assets_tests.flight_rows import put_raw

MODELS = Path(__file__).with_name("library_models")
OWNER = "library@library.example"
FIRST = date(2024, 2, 27)  # so that the days cross the 29th

Row = dict[str, Any]


def _contract(name: str, key: Sequence[str], event_at: str, known_at: str = "recorded_at", **fields: FieldType) -> Contract:
    required = {*key, event_at, known_at}
    times: dict[str, FieldType] = {event_at: "timestamp", known_at: "timestamp"}
    return Contract(
        name=name,
        version="1.0.0",
        owner=OWNER,
        description=f"The {name} of the library.",
        fields=tuple(Field(name=n, type=kind, required=n in required, description=f"{n}.") for n, kind in {**fields, **times}.items()),
        primary_key=tuple(key),
        event_at=event_at,
        known_at=known_at,
        lateness=timedelta(days=30),
        freshness=timedelta(days=1),
        broken_share=0.0,
    )


LOAN = ("library_id", "loan_no")
LOANS = _contract(
    "loans", LOAN, "loaned_at", library_id="integer", loan_no="integer", loan_id="string", member_id="integer", fee="number",
    due_at="timestamp",
)  # fmt: skip
RETURNS = _contract("returns", LOAN, "returned_at", library_id="integer", loan_no="integer", is_damaged="boolean")
PAYMENTS = _contract("payments", ("payment_id",), "paid_at", payment_id="integer", loan="string", amount="number")
MEMBERS = _contract("members", ("member_id",), "updated_at", "updated_at", member_id="integer", level="string")

loans = EventStream(contract=LOANS, topic="loans")
returns = EventStream(contract=RETURNS, topic="returns", format=CsvLine(columns=tuple(field.name for field in RETURNS.fields)))
payments = EventStream(contract=PAYMENTS, topic="payments")
members = Source(contract=MEMBERS, origin=PostgresTable(database="library", table="members"), load="changes")

library = UseCase(
    name="library",
    owner=OWNER,
    description="What becomes of loans.",
    first_day=FIRST,
    last_day=FIRST + timedelta(days=30),
    sources=(members,),
    streams=(loans, returns, payments),
    models=(),
)
readers = UseCase(
    name="readers",
    owner="readers@library.example",
    description="Who damages books.",
    first_day=FIRST,
    last_day=None,
    sources=(),
    streams=(loans, returns),
    models=(),
)


def dbt_project(folder: Path, project: Project, **added: str) -> Path:
    """A dbt project in `folder` with the macros and settings of the product, the models of library and readers, and files by path."""
    return dbt_project_of(folder, project, MODELS, added)


def dbt_project_of(folder: Path, project: Project, models: Path, added: Mapping[str, str]) -> Path:
    """A dbt project in `folder` with the macros and settings of the product, the models of a folder, and files by path."""
    folder.mkdir(parents=True)
    product = read_code_settings().dbt_project
    for part in ("macros", "tests"):
        shutil.copytree(product / part, folder / part)
    for part in ("dbt_project.yml", "profiles.yml"):
        shutil.copy(product / part, folder / part)
    shutil.copytree(models, folder / "models")
    for path, text in added.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    for use_case in project.use_cases:
        write_sources(project, folder, use_case)
    return folder


def day(offset: int) -> date:
    """The day so many after the first."""
    return FIRST + timedelta(days=offset)


def at(offset: int, minutes: int = 0) -> datetime:
    """An instant so many minutes into a day."""
    return datetime.combine(day(offset), time(), UTC) + timedelta(minutes=minutes)


def loan(number: int, on: int, **changed: Any) -> Row:
    """A loan of one of three libraries, recorded a minute after it began."""
    began = at(on, 7 * (number % 200))
    plain = {
        "library_id": number % 3, "loan_no": number // 3, "loan_id": f"L{number}", "member_id": number % 4 or None, "fee": 1.25,
        "due_at": began + timedelta(days=14), "loaned_at": began, "recorded_at": began + timedelta(minutes=1),
    }  # fmt: skip
    return plain | changed


def returned(number: int, on: int, **changed: Any) -> Row:
    """The return of a loan on a day."""
    when = at(on, 1_000 + number % 400)
    plain = {"library_id": number % 3, "loan_no": number // 3, "is_damaged": number % 2 == 0, "returned_at": when, "recorded_at": when}
    return plain | changed


def payment(number: int, of: int, on: int, amount: float = 2.5, **changed: Any) -> Row:
    """A payment for a loan on a day."""
    when = at(on, 500 + number % 900)
    return {"payment_id": number, "loan": f"L{of}", "amount": amount, "paid_at": when, "recorded_at": when} | changed


def member(number: int, level: str, on: float = 0, until: float | None = None) -> Row:
    """A member as it stands since a day, and until another one, if it left the library then; parts of days count."""
    left = None if until is None else at(0) + timedelta(days=until)
    return {"member_id": number, "level": level, "updated_at": at(0) + timedelta(days=on), "_deleted_at": left}


def put_days(settings: Settings, contract: Contract, rows: Mapping[int, Iterable[Row]]) -> None:
    """Replaces the raw rows of each of these days."""
    for on, found in rows.items():
        put_raw(settings, contract, day(on), day(on), found)


def cleaned_rows(settings: Settings, table: str) -> list[Row]:
    """All rows of a cleaned table, in a fixed order; ADBC reads numeric columns as text."""
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(f"select * from {'.'.join(names.cleaned(table))} order by 1, 2")  # noqa: S608 - a table of the test
        return list(cursor.fetch_arrow_table().to_pylist())
