"""Spines: what a person may bring, what is refused and in which words, and that a file is written whole or not at all."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import TableRejected, UnknownDay, UnknownName, UserInputError
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store.offline import historical_features
from pipeline_assets.model_lifecycle.feature_store.spine import check_keys, check_requests, entity_keys, left_out
from pipeline_assets.model_lifecycle.feature_store.spine_files import check_output, read_spine, write_table
from pipeline_assets.spec.features import RequestFeature
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.feature_tables import view_of, windowed

PROJECT = load_project()
KINDS = PROJECT.tables["flights_history"]

AT = datetime(2013, 3, 1, 15, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "origin": ["JFK", "LGA"],
    "carrier": ["AA", "DL"],
    "dest": ["LAX", "ATL"],
    "tailnum": ["N1", None],
    "decision_at": [AT, AT + timedelta(hours=1)],
    "scheduled_departure_at": [AT + timedelta(hours=1), AT + timedelta(hours=2)],
    "distance_miles": [2475, None],
}
NAIVE = [datetime(2013, 3, 1), datetime(2013, 3, 2)]  # noqa: DTZ001 - naive times are what is refused
REFUSED = {
    "naive times": ({"decision_at": NAIVE}, "the times in column 'decision_at' are naive"),
    "naive times of the request": ({"scheduled_departure_at": NAIVE}, "the times in column 'scheduled_departure_at' are naive"),
    "naive text": (
        {"decision_at": ["2013-03-01T15:00:00Z", "2013-03-01T15:00:00"]},
        "'2013-03-01T15:00:00' in row 2, which is no time with",
    ),
    "a day for a time": ({"decision_at": ["2013-03-01", "2013-03-02"]}, "holds '2013-03-01' in row 1, which is no time with a zone"),
    "a time there is not": ({"decision_at": ["2013-03-01T15:00:00Z", "2013-02-30T15:00:00Z"]}, "holds '2013-02-30T15:00:00Z' in row 2"),
    "dates": ({"decision_at": [date(2013, 3, 1)] * 2}, "column 'decision_at' is of type date32"),
    "numbers for times": ({"decision_at": [1, 2]}, "column 'decision_at' is of type int64"),
    "a row without a time": ({"decision_at": [AT, None]}, "column 'decision_at' is empty in row 2"),
    "no time at all": ({"decision_at": [None, None]}, "column 'decision_at' is empty in row 1"),
    "NaN": ({"distance_miles": [1.0, float("nan")]}, "column 'distance_miles' holds nan in row 2"),
    "infinity": ({"anything": [float("-inf"), 1.0]}, "column 'anything' holds -inf in row 1"),
    "infinity as text": ({"distance_miles": ["1", "1e999"]}, "column 'distance_miles' holds inf in row 2"),
    "NaN for a key": ({"tailnum": ["N1", "nan"]}, "column 'tailnum' holds nan in row 2"),
    "numbers for text": ({"origin": [1, 2]}, "column 'origin' is of type int64"),
    "text for a number": ({"distance_miles": ["1", "far"]}, "column 'distance_miles' holds 'far' in row 2"),
    "the name of a feature": ({"request__hour": [1, 2]}, "has columns with the names of features: 'request__hour'"),
}


def spine(**columns: list[Any]) -> pa.Table:
    """A good spine with some columns in the place of its own, or besides."""
    return pa.table(GOOD | columns)


def test_a_good_spine_becomes_typed_requests() -> None:
    """Keys stay as they are, times become UTC, numbers floats; columns that no feature needs are not asked for."""
    eastern = timezone(timedelta(hours=-5))
    asked = check_requests(
        "s", flight_delay, spine(decision_at=[time.astimezone(eastern) for time in GOOD["decision_at"]], note=["a", "b"]), KINDS
    )

    assert asked.column_names == ["origin", "carrier", "dest", "tailnum", "decision_at", "scheduled_departure_at", "distance_miles"]
    assert asked["decision_at"].to_pylist() == GOOD["decision_at"]
    assert asked.schema.field("decision_at").type == pa.timestamp("us", "UTC")
    assert asked["distance_miles"].to_pylist() == [2475.0, None]


@pytest.mark.parametrize("encoding", ["dictionary", "large", "text"])
def test_other_encodings_of_the_same_values_are_the_same_spine(encoding: str) -> None:
    """Dictionaries, large strings, nanoseconds and ISO 8601 text say the same as plain columns."""
    times = {
        "dictionary": pa.array(GOOD["decision_at"], pa.timestamp("ns", "UTC")),
        "large": pa.array(GOOD["decision_at"], pa.timestamp("s", "America/New_York")),
        "text": pa.array([time.isoformat() for time in GOOD["decision_at"]]),
    }[encoding]
    keys = {"dictionary": pa.array(GOOD["carrier"]).dictionary_encode(), "large": pa.array(GOOD["carrier"], pa.large_string())}
    other = pa.table({**GOOD, "decision_at": times, "carrier": keys.get(encoding, GOOD["carrier"])})

    assert check_requests("s", flight_delay, other, KINDS).to_pylist() == check_requests("s", flight_delay, spine(), KINDS).to_pylist()


@pytest.mark.parametrize(("columns", "problem"), REFUSED.values(), ids=REFUSED.keys())
def test_an_unfit_column_is_refused_by_name(columns: dict[str, list[Any]], problem: str) -> None:
    """The error says which column, which row and what was found; it is one that a person can mend."""
    with pytest.raises(TableRejected) as refused:
        check_requests("my.csv", flight_delay, spine(**columns), KINDS)

    assert problem in str(refused.value)
    assert str(refused.value).startswith("my.csv: ")
    assert isinstance(refused.value, UserInputError)


@pytest.mark.parametrize("decided", [datetime(2012, 12, 31, 23, tzinfo=UTC), datetime(2014, 1, 2, tzinfo=UTC)])
def test_a_day_outside_of_the_use_case_is_refused(decided: datetime) -> None:
    """A decision before the first or after the last day is an error that names the day, before any service is asked."""
    with pytest.raises(UnknownDay, match=f"No day '{decided.date()}'"):
        historical_features(Settings.model_construct(), PROJECT, flight_delay.name, spine(decision_at=[AT, decided]))


def test_an_unknown_model_is_refused() -> None:
    """The error lists the models there are."""
    with pytest.raises(UnknownName, match=r"Unknown model 'flight_dely'\. Known: .*flight_delay"):
        historical_features(Settings.model_construct(), PROJECT, "flight_dely", spine())


def test_all_missing_columns_are_named_at_once() -> None:
    """The error of a spine without keys says which it lacks, which it needs and which it has."""
    with pytest.raises(TableRejected) as refused:
        check_requests("s", flight_delay, spine().select(["origin", "distance_miles"]), KINDS)

    assert refused.value.problem == "lacks 'carrier', 'dest', 'tailnum', 'decision_at'"
    assert "it has 'origin', 'distance_miles'" in refused.value.expected


def test_a_column_twice_and_a_table_without_rows_are_refused() -> None:
    """Which of two columns would be meant is not guessed, and nothing is asked by no rows."""
    with pytest.raises(TableRejected, match="more than one column 'dest'"):
        check_requests("s", flight_delay, spine().append_column("dest", spine()["dest"]), KINDS)
    with pytest.raises(TableRejected, match="has no rows"):
        check_requests("s", flight_delay, spine().slice(0, 0), KINDS)


def test_what_a_spine_does_not_say_is_left_out() -> None:
    """Request features need their column; entity keys serve as such where they are one."""
    omitted = [feature.name for feature in left_out(flight_delay, [*entity_keys(flight_delay), "decision_at"])]

    assert omitted == ["hour", "minute_of_day", "weekday", "distance_miles", "planned_minutes"]
    assert left_out(flight_delay, [feature.column for feature in flight_delay.request_features]) == ()


def test_keys_take_the_type_they_have_in_the_events() -> None:
    """A number read from a CSV is text; where the events have whole numbers it becomes one, or is refused by row."""
    asked = pa.table({"gate": ["7", None], "place": ["a", "b"]})
    events, keys = pa.table({"gate": pa.array([7], pa.int64()), "place": ["a"]}), ["gate", "place"]

    assert check_keys("s", asked, events, keys)["gate"].to_pylist() == [7, None]
    with pytest.raises(TableRejected, match="column 'gate' holds 'seven' in row 1"):
        check_keys("s", pa.table({"gate": ["seven"], "place": ["a"]}), events, keys)
    with pytest.raises(TableRejected, match="the key 'place' is of type double"):
        check_keys("s", pa.table({"gate": ["7"], "place": [1.0]}), events, keys)


def test_columns_are_read_by_the_type_that_the_observations_have() -> None:
    """Text of a CSV becomes dates, times, truths and integer keys, where the table of observations has them; other text is refused."""
    kinds: dict[str, ColumnKind] = {
        "built_on": "date",
        "promised_at": "timestamp",
        "is_late": "boolean",
        "gate": "integer",
        "amount": "number",
    }
    facts = tuple(RequestFeature(name=column, column=column, description="") for column in kinds)
    model = replace(flight_delay, views=(view_of(windowed("count", None), keys=("gate",)),), request_features=facts)
    text = {"gate": "7", "built_on": "2013-01-31", "promised_at": AT.isoformat(), "is_late": "true", "amount": "1.5"}
    (row,) = check_requests("s", model, pa.Table.from_pylist([{**text, "decision_at": AT.isoformat()}]), kinds).to_pylist()

    assert row == {
        "gate": 7, "decision_at": AT, "built_on": date(2013, 1, 31), "promised_at": AT, "is_late": True, "amount": 1.5,
    }  # fmt: skip
    for column, problem in (("gate", "7.5"), ("built_on", "31 January"), ("promised_at", "2013-01-31"), ("is_late", "perhaps")):
        broken = pa.Table.from_pylist([{**text, "decision_at": AT.isoformat(), column: problem}])
        with pytest.raises(TableRejected, match=f"column '{column}' holds '{problem}' in row 1"):
            check_requests("s", model, broken, kinds)


def test_a_csv_keeps_its_text(tmp_path: Path) -> None:
    """Leading zeros, quotes and line breaks come back as they were; an empty cell is null, a quoted empty one is not."""
    file = tmp_path / "spine.csv"
    file.write_text('origin,flight,note\nJFK,007,"a ""b"",\nc"\n,1e5,""\n')
    table = read_spine(file)
    write_table(table, tmp_path / "again.csv")

    assert table.to_pylist() == [{"origin": "JFK", "flight": "007", "note": 'a "b",\nc'}, {"origin": None, "flight": "1e5", "note": ""}]
    assert read_spine(tmp_path / "again.csv").equals(table)


def test_parquet_keeps_types_and_metadata(tmp_path: Path) -> None:
    """A Parquet file is read column by column as it is, also from a folder whose name looks like a partition."""
    folder = tmp_path / "day=2013-03-01"
    folder.mkdir()
    write_table(spine().replace_schema_metadata({"made_by": "me"}), folder / "spine.parquet")

    assert read_spine(folder / "spine.parquet").equals(spine())
    assert (read_spine(folder / "spine.parquet").schema.metadata or {})[b"made_by"] == b"me"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("spine.xlsx", b"x", r"has the unknown extension '\.xlsx'"),
        ("spine", b"x", "has the unknown extension ''"),
        ("spine.csv", b"", "is empty"),
        ("spine.parquet", b"", "is empty"),
        ("spine.parquet", b"PAR1 and then nothing of use", "cannot be read"),
        ("spine.csv", b"a,b\n1,2\n3\n", "cannot be read"),
        ("spine.csv", b"a\n\xff\xfe\n", "cannot be read"),
        ("spine.csv", b"a,b\n", "has no rows"),
        ("spine.csv", b"a,a\n1,2\n", "more than one column 'a'"),
        ("spine.csv", b"a,b\n1,2\n3,NaN\n", "column 'b' holds NaN in row 2"),
        ("spine.csv", b"a,b\n-inf,2\n", "column 'a' holds -inf in row 1"),
    ],
)
def test_a_file_that_is_no_spine_is_refused(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    """Unknown kinds, empty, broken and ambiguous files are errors that name the file and what is wrong with it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableRejected, match=problem) as refused:
        read_spine(tmp_path / name)

    assert refused.value.table == str(tmp_path / name)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A typing error in a path is reported as such."""
    with pytest.raises(TableRejected, match="there is no such file"):
        read_spine(tmp_path / "spine.csv")


@pytest.mark.parametrize(
    ("out", "problem"), [("out.json", "unknown extension"), ("folder.csv", "is a folder"), ("none/out.csv", "does not exist")]
)
def test_an_output_that_cannot_be_written_is_refused_beforehand(tmp_path: Path, out: str, problem: str) -> None:
    """Nobody waits for an answer that has nowhere to go."""
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TableRejected, match=problem):
        check_output(tmp_path / out)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """Columns that a CSV cannot hold are refused; what was there before is still there, whole."""
    out = tmp_path / "out.csv"
    write_table(pa.table({"a": [1]}), out)
    with pytest.raises(TableRejected, match="cannot be written"):
        write_table(pa.table({"a": [1], "b": [[1, 2]]}), out)

    assert pa_csv.read_csv(out).to_pylist() == [{"a": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]


def test_a_written_file_is_replaced_whole(tmp_path: Path) -> None:
    """A second answer takes the place of the first."""
    out = tmp_path / "out.PARQUET"
    for value in (1, 2):
        write_table(pa.table({"a": [value]}), out)

    assert pq.read_table(out).to_pylist() == [{"a": 2}]
    assert [file.name for file in tmp_path.iterdir()] == ["out.PARQUET"]
