"""Proposals: the types, the key and the times that a sample shows, and text that stays Python whatever stands in a source."""

import ast
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline_assets.core.errors import ProposalRefused
from pipeline_assets.core.rules.problems import NAME
from pipeline_assets.ingestion.sources.json_rows import check_json_rows
from pipeline_assets.ingestion.sources.proposals import samples
from pipeline_assets.ingestion.sources.proposals.code import assignment, comment, text
from pipeline_assets.ingestion.sources.proposals.keys import guessed_key
from pipeline_assets.ingestion.sources.proposals.module import module_text
from pipeline_assets.ingestion.sources.proposals.proposal import Proposal, name_of, proposed
from pipeline_assets.ingestion.sources.proposals.samples import (
    Column,
    ReadRows,
    Sample,
    json_column,
    json_columns,
    text_column,
    text_columns,
)
from pipeline_assets.ingestion.sources.proposals.times import Times, guessed_times
from pipeline_assets.ingestion.sources.text_rows import check_texts
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import Files, JsonLines
from pipeline_assets_tests.proposed_modules import formatted, lint, problems_of, source

NOON = datetime(2013, 5, 1, 12, tzinfo=UTC)
HOSTILE = (
    '"', "'", "\\", '"""', "\n", "\r", "\0", "\x0c", "\u2028", "\u202e", "\ud800", "# noqa", "# fmt: off", "# type: ignore",
    "coding: latin-1",    '"), exit(1), ("', "{since}", "%s", "𝓪", "ｘ", "e\u0301",
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(HOSTILE), max_size=4).map("".join))
NAMES = st.one_of(st.from_regex(NAME, fullmatch=True), TEXTS)
TIMES = st.integers(0, 10**9).map(lambda seconds: NOON + timedelta(seconds=seconds))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), TEXTS, TIMES.map(datetime.isoformat),
    st.sampled_from(["", "007", "1.50", "true", "2013-05-01", "2013-05-01T12:00:00", "2013-05-01T12:00:00Z", "1e400"]),
    st.sampled_from(["-0", "99999999999999999999"]),
    st.lists(st.integers(), max_size=1), st.dictionaries(st.just("a"), st.integers(), max_size=1),
)  # fmt: skip


def sample_of(read: ReadRows, rows: int, **others: Any) -> Sample:
    """The sample of some rows."""
    return Sample(
        columns=read.columns, rows=len(read.kept), unreadable=rows - len(read.kept), looked_at="rows", remarks=read.remarks, **others
    )


def module_of(proposal: Proposal) -> str:
    """The module of a proposal for files."""
    origin = Files(folder="inbox", pattern="*.jsonl", format=JsonLines())
    return module_text(proposal, "Source", [("origin", origin), ("load", "snapshot")])


def columns_of(**values: Sequence[Any]) -> list[Column]:
    """Columns with values as JSON has them, times as what they are."""
    return [json_column(name, [one.isoformat() if isinstance(one, datetime) else one for one in each]) for name, each in values.items()]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, -(2**63)], "integer"),
        ([1, 2.5], "number"),
        ([1.0, 2.0], "number"),
        ([2**63, 1], "decimal"),
        ([Decimal("12345678901234567.25")], "decimal"),
        ([Decimal("0.30000000000000004")], "number"),
        ([True, None], "boolean"),
        (["2013-05-01T12:00:00Z", "2013-05-01T14:00:00.123456+02:00"], "timestamp"),
        (["2013-05-01T12:00:00", "2013-05-01T12:00:00Z"], "string"),
        (["2013-05-01"], "string"),
        (["1", "2"], "string"),
        (["0001-01-01T00:00:00Z"], "timestamp"),
    ],
)
def test_the_type_of_json_is_the_first_that_reads_every_value(values: list[Any], kind: str) -> None:
    """As the readers are strict, so is the guess: a text is no number, a time without a zone no instant, 1.0 not written as an integer."""
    assert json_column("a", values).type == kind


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "", "-20"], "integer"),
        (["007", "123"], "string"),
        (["1", "2.50"], "number"),
        (["01.5"], "string"),
        (["99999999999999999999", "1"], "string"),
        (["12345678901234567.25"], "decimal"),
        (["+4912345"], "string"),
        (["true", "false"], "boolean"),
        (["0", "1"], "integer"),
        (["2013-05-01T12:00:00Z"], "timestamp"),
        (["2013-05-01 12:00"], "string"),
        (["1e400"], "string"),
        (["NaN"], "string"),
    ],
)
def test_the_type_of_texts_loses_nothing(texts: list[str], kind: str) -> None:
    """Leading zeros, and whole numbers beyond 64 bits, would be lost in a number and stay text."""
    assert text_column("a", texts).type == kind


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([None], "no value was seen"),
        ([{"a": 1}], "objects: contracts have single values alone"),
        ([[1], None], "lists: contracts have single values alone"),
        (["a", 1], "its values are numbers and texts: a field has one type"),
        (["\0"], "texts that no field can hold"),
        ([float("nan")], "numbers that no field can hold"),
    ],
)
def test_what_no_field_can_hold_is_left_out_with_the_reason(values: list[Any], reason: str) -> None:
    """Nothing is served that would put rows in quarantine."""
    found = json_column("a", values)

    assert (found.type, found.reason) == (None, reason)


@pytest.mark.parametrize(
    ("texts", "remark"),
    [
        (["12345678901234567.25"], "guess: 2 digits after the point were seen, and 19 in all"),
        (["99999999999999999999"], "whole numbers, some of them beyond 64 bits"),
        (["2013-05-01", "2013-05-02T10:00"], "times or days without a zone name no instant, so they stay text"),
    ],
)
def test_what_a_type_does_not_say_is_remarked(texts: list[str], remark: str) -> None:
    """A person sees why a column is not of the type that they may expect, or what its type loses."""
    assert text_column("a", texts).remarks == (remark,)


def test_values_of_arrow_that_would_break_their_rows_leave_their_column_out() -> None:
    """The reason says how many, and what would be wrong with them."""
    found = samples.arrow_column(Column(name="a", type="number"), pa.array([1.0, float("nan"), None]))

    assert (found.type, found.reason) == (None, "number, but 1 of 3 values would put their rows in quarantine (not finite)")


@pytest.mark.parametrize(
    ("precision", "scale", "expected"),
    [
        (18, 0, ("integer", None, None)),
        (19, 0, ("decimal", 19, 0)),
        (9, 2, ("decimal", 9, 2)),
        (3, 5, ("decimal", 5, 5)),
        (3, -2, ("integer", None, None)),
        (30, -8, ("decimal", 38, 0)),
        (39, 0, ("number", None, None)),
    ],
)
def test_exact_numbers_are_of_the_type_that_holds_all_their_digits(
    precision: int, scale: int, expected: tuple[str, int | None, int | None]
) -> None:
    """Whole numbers below 64 bits are integers; what no decimal holds is a number, with a remark."""
    found = samples.decimal_column("a", precision, scale)

    assert (found.type, found.precision, found.scale) == expected
    assert bool(found.remarks) == (found.type == "number")


def test_times_that_stand_for_none_are_no_times_of_a_row() -> None:
    """They are values of a field, which a person may declare to be sentinels."""
    ends = [datetime(9999, 12, 31, tzinfo=UTC), NOON]
    proposal = proposed("a", Sample(columns=columns_of(id=[1, 2], updated_at=ends, sent_at=after(0, 1)), rows=2, looked_at=""))

    assert (proposal.contract.event_at, proposal.contract.known_at) == ("sent_at", "sent_at")
    assert "            # edit: years 1 and 9999 may stand for none, which `sentinels` say\n" in module_of(proposal)


def after(*minutes: float) -> list[datetime]:
    """Times so many minutes after noon."""
    return [NOON + timedelta(minutes=each) for each in minutes]


def times_of(days: Sequence[date] = (), **values: Sequence[datetime]) -> tuple[str, str]:
    """The names of the two times that are guessed."""
    found = guessed_times(columns_of(**values), days)
    assert found is not None
    return found.event_at, found.known_at


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("ordered_at", "recorded_at"), ("ordered_at", "recorded_at")),
        (("recorded_at", "ordered_at"), ("ordered_at", "recorded_at")),
        (("created_at", "updated_at"), ("updated_at", "updated_at")),
        (("read_at", "sent_at"), ("read_at", "sent_at")),
        (("departs", "recorded_at"), ("departs", "recorded_at")),
        (("valid_until", "updated_at"), ("updated_at", "updated_at")),
        (("seen", "noted"), ("seen", "noted")),
    ],
)
def test_times_are_guessed_by_their_names(names: tuple[str, str], expected: tuple[str, str]) -> None:
    """What is written later is known then; a row that is changed happens, as far as is known, when it is."""
    assert times_of(**dict.fromkeys(names, after(0, 10, 20))) == expected


def test_without_telling_names_the_later_time_is_that_of_knowing() -> None:
    """Nothing is known before it happens, so the order of the values tells the two apart."""
    assert times_of(a=after(5, 15, 25), b=after(0, 10, 20)) == ("b", "a")


def test_a_plan_is_no_event_while_there_is_another_time() -> None:
    """A time that lies ahead of what is known is one that was planned."""
    assert times_of(starts=after(600, 700), placed=after(0, 10), recorded_at=after(1, 11)) == ("placed", "recorded_at")


def test_a_time_that_is_ever_null_is_neither() -> None:
    """Both times are required of every row."""
    found = guessed_times(columns_of(paid_at=[NOON, None], recorded_at=after(0, 1)))

    assert found is not None
    assert (found.event_at, found.known_at) == ("recorded_at", "recorded_at")
    assert guessed_times(columns_of(paid_at=[NOON, None])) is None


def test_rows_of_a_day_happened_on_it() -> None:
    """Of two times the one that lies in the day that a file is about is that of the event."""
    values = {"observed_at": after(-24 * 60, -24 * 60), "ends": after(0, 1), "recorded_at": after(2, 3)}

    assert times_of(**values) == ("observed_at", "recorded_at")
    assert times_of([NOON.date()] * 2, **values) == ("ends", "recorded_at")


def bounds(**values: Sequence[datetime]) -> Times:
    """The times that are guessed."""
    found = guessed_times(columns_of(**values))
    assert found is not None
    return found


def test_lengths_of_time_are_round_and_at_least_twice_what_was_seen() -> None:
    """A sample rarely has the latest row of all; plans are known long before, and only those."""
    found = bounds(ordered_at=after(0, 60, 120), recorded_at=after(0, 70, 121))
    plans = bounds(scheduled_at=after(30_000, 40_000), recorded_at=after(0, 1))

    assert (found.lateness, found.earliness, found.freshness) == (timedelta(minutes=30), timedelta(minutes=5), timedelta(hours=2))
    assert (plans.event_at, plans.lateness, plans.earliness) == ("scheduled_at", timedelta(0), timedelta(days=90))


def key_of(**values: Sequence[Any]) -> tuple[str, ...]:
    """The key that is guessed."""
    columns = columns_of(**values)
    return guessed_key(columns, guessed_times(columns), len(columns[0].values)).fields


def test_the_key_is_what_no_two_rows_have_in_common() -> None:
    """Identifiers come before other fields, one field before several, in the order of the columns."""
    assert key_of(amount=[1, 2], order_id=["b", "a"], id=[8, 9]) == ("id",)
    assert key_of(amount=[1, 2], order_id=["b", "a"]) == ("order_id",)
    assert key_of(name=["a", "b"], price=[1.5, 2.5]) == ("name",)
    assert key_of(visitors=[7, 8], at=after(0, 1)) == ("at",)
    assert key_of(sensor=["a", "a"], level=[1, 2], read_at=after(0, 1)) == ("sensor", "read_at")
    assert key_of(sensor=["a", "a", "b"], level=[1, 2, 2], read_at=after(0, 1, 0), sent_at=after(2, 2, 2)) == ("sensor", "read_at")


def test_rows_with_one_identifier_and_other_times_are_versions() -> None:
    """The time of a change is no part of the key."""
    assert key_of(id=[1, 1, 2], flag=[True, True, False], updated_at=after(0, 1, 1)) == ("id",)


def test_rows_that_nothing_tells_apart_have_all_their_fields_as_key() -> None:
    """Rows that are the same in all fields count once."""
    assert key_of(a=["x", "x"], b=[1, 1], c=[None, 2]) == ("a", "b")


@given(st.lists(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=4, max_size=4), min_size=1, max_size=12))
def test_a_guessed_key_is_the_first_that_is_unique(rows: list[list[int | None]]) -> None:
    """Against a search through all fields and sets of fields by their size."""
    columns = [json_column(name, [row[place] for row in rows]) for place, name in enumerate(("a", "b", "c", "d"))]
    served = [column for column in columns if column.type is not None]
    able = [column for column in served if not column.nulls]

    found = guessed_key(served, None, len(rows)).fields

    smallest = _smallest_unique(able)
    assert (len(found) if smallest else found) == (smallest or tuple(column.name for column in able or served[:1]))


def _smallest_unique(columns: Sequence[Column]) -> int | None:
    """The size of the smallest set of columns, at most three, that no two rows have in common; by way of a table of bits."""
    for size in range(1, 4):
        for bits in range(1, 1 << len(columns)):
            chosen = [column for place, column in enumerate(columns) if bits >> place & 1]
            if len(chosen) == size and len(np.unique(np.array([column.values for column in chosen]), axis=1).T) == len(chosen[0].values):
                return size
    return None


@given(TEXTS)
def test_a_text_is_written_as_itself(value: str) -> None:
    """Python reads back what it was."""
    assert ast.literal_eval(text(value)) == value


@given(st.text(max_size=300), st.integers(0, 40))
def test_a_comment_is_one_line_that_fits(value: str, indent: int) -> None:
    """Nothing in it ends it."""
    line = comment(value, indent)

    assert len(line.splitlines()) == 1
    assert len(line) <= 140
    assert ast.parse(f"{line}\n").body == []


@settings(max_examples=60)
@given(st.lists(st.one_of(st.text(max_size=400), TEXTS), min_size=2, max_size=4), st.lists(TEXTS, max_size=3))
@example(["a" * 200, "b c" * 100], ["x" * 150])
@example(["描述" * 60, "描述 " * 60], [])
def test_declarations_are_laid_out_as_the_formatter_does(names: list[str], columns: list[str]) -> None:
    """Texts of any length and kind, in calls and tuples, come out of the formatter as they went in."""
    module = f"{assignment('made', Contract(**_CONTRACT, description=names[0], primary_key=(*names, *columns)))}\n"

    assert formatted(module.encode(errors="replace").decode()) == module


_CONTRACT: dict[str, Any] = {
    "name": "a", "version": "1", "owner": "team:a", "fields": (), "event_at": "b", "known_at": "c", "lateness": timedelta(hours=36),
    "freshness": timedelta(0), "broken_share": 0.1, "earliness": timedelta(seconds=1.5),
}  # fmt: skip


@settings(max_examples=150)
@given(st.lists(st.dictionaries(NAMES, SCALARS, max_size=5), min_size=1, max_size=5), TEXTS, TEXTS)
def test_json_of_any_kind_becomes_a_contract_that_it_keeps(objects: list[dict[str, Any]], looked_at: str, described: str) -> None:
    """Whatever names and values are: the text is Python, laid out as it should be, declares the fields, and the sample breaks no rule."""
    rows = [json.dumps(each).encode() for each in objects]
    read = json_columns(rows)
    columns = [replace(column, description=described) for column in read.columns]
    sample = Sample(columns=columns, rows=len(read.kept), looked_at=looked_at, description=described)
    try:
        proposal = proposed("any", sample)
    except ProposalRefused:
        assert not any(column.type is not None and NAME.fullmatch(column.name) for column in columns)
        return
    module = module_of(proposal)

    found = source(module)

    assert found.contract == proposal.contract
    assert {field.name for field in found.contract.fields} | {name for name, _ in proposal.left_out} == {
        name for each in objects for name in each
    }
    assert bool(problems_of(found)) == bool(proposal.problem)
    assert formatted(module) == module
    assert check_json_rows(found.contract, rows).broken == []


CELLS = st.one_of(
    st.sampled_from(["", "1", "007", "1.5", "true", "2013-05-01T12:00:00Z", "2013-05-01T12:00:00+02:00", "x", "99999999999999999999"]),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5), TIMES.map(datetime.isoformat), st.integers().map(str),
    st.floats().map(str),
)  # fmt: skip


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=6)))
def test_lines_of_any_texts_keep_the_contract_that_they_show(rows: list[list[str]]) -> None:
    """The texts are held against the contract by the reader of CSV files."""
    names = [f"c{number}" for number in range(len(rows[0]))]
    try:
        proposal = proposed("any", sample_of(text_columns(names, rows), len(rows)))
    except ProposalRefused:
        return
    contract = proposal.contract
    texts = {field.name: pa.array([row[names.index(field.name)] for row in rows], pa.string()) for field in contract.fields}

    assert list(check_texts(contract, pa.RecordBatch.from_pydict(texts), lambda row: str(rows[row]).encode()).broken) == []


ORDERS = [
    {
        "order_id": f"o{number}", "channel": "web" if number % 3 else "shop", "amount_eur": number + 0.5 if number % 10 else None,
        "lines": [number], "ordered_at": after(number)[0].isoformat(), "recorded_at": after(number + 2)[0].isoformat(),
        "class": 1, "Zip": "1",
    }
    for number in range(100)
]  # fmt: skip
PROPOSED = '''"""A proposal to be edited: what is marked as a guess was not said by the source, what was seen stands in comments."""

from datetime import timedelta

from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import Files, JsonLines, Source

# Looked at: 101 rows of a file.
# Rows among them that cannot be read: 1.
# Left out:
# - "lines": lists: contracts have single values alone
# - "Zip": string, but its name is not a lower-case name of letters, digits and underscores, at most 48 long
orders = Source(
    contract=Contract(
        name="orders",
        version="0.1.0",
        # edit: who answers for it
        owner="team:unknown",
        description="Rows of orders.",
        fields=(
            # seen: at most 3 characters
            Field(name="order_id", type="string", required=True, description="order_id"),
            # seen: at most 4 characters
            # the values seen: "shop", "web"
            Field(name="channel", type="string", required=True, description="channel"),
            # seen: 1.5 to 99.5; null in 10 of 100 rows
            Field(name="amount_eur", type="number", description="amount_eur"),
            # seen: 2013-05-01T12:00:00Z to 2013-05-01T13:39:00Z
            Field(name="ordered_at", type="timestamp", required=True, description="ordered_at"),
            # seen: 2013-05-01T12:02:00Z to 2013-05-01T13:41:00Z
            Field(name="recorded_at", type="timestamp", required=True, description="recorded_at"),
            # seen: 1 to 1
            Field(name="class", type="integer", required=True, description="class"),
        ),
        # guess: no two of 100 rows have it in common
        primary_key=("order_id",),
        # guess: by name and by the order of the values
        event_at="ordered_at",
        # guess: by name and by the order of the values
        known_at="recorded_at",
        # guess: known_at - event_at was at most 0:02:00
        lateness=timedelta(minutes=5),
        # guess: from one event_at to the next was at most 0:01:00
        freshness=timedelta(hours=1),
        # edit: which share of the rows may break
        broken_share=0.01,
    ),
    origin=Files(folder="inbox", pattern="*.jsonl", format=JsonLines()),
    load="snapshot",
)
'''


def test_a_proposal_as_a_person_reads_it() -> None:
    """The whole text: what the source promises as values, what was seen as comments, what was guessed marked; the linter finds nothing."""
    rows = [*(json.dumps(row).encode() for row in ORDERS), b"{"]
    sample = replace(sample_of(json_columns(rows), len(rows)), looked_at="101 rows of a file")

    module = module_of(proposed("orders", sample))

    assert module == PROPOSED
    assert lint(module) == "All checks passed!\n"


def test_without_a_time_the_proposal_says_what_is_to_be_edited() -> None:
    """It is Python and names the fields, and the rules of declarations refuse nothing but the two times."""
    proposal = proposed("orders", sample_of(json_columns([b'{"id": 1, "on": "2013-05-01"}']), 1))

    assert "no field can say when a row happened" in proposal.problem
    assert f"# This does not load yet: {proposal.problem}"[:130] in module_of(proposal)
    assert problems_of(source(module_of(proposal))) == ["event_at is '?'", "known_at is '?'"]


def test_what_the_source_promises_goes_before_what_was_seen() -> None:
    """Null where a catalog allows it though none was seen, values and lengths of a type, and the catalog's own key."""
    columns = [
        Column(name="id", type="integer", values=[1, 2], required=True),
        Column(name="code", type="string", values=["a", "b"], required=False, max_length=7, description="Code,\n of it."),
        Column(name="kind", type="string", values=["x", None], required=False, allowed=("x", "y")),
        Column(name="updated_at", type="timestamp", values=after(0, 1), required=False),
    ]
    contract = proposed("things", Sample(columns=columns, rows=2, looked_at="", key=("code", "id"), description="Things.")).contract
    fields = {field.name: field for field in contract.fields}

    assert [name for name, field in fields.items() if field.required] == ["id", "updated_at"]
    assert (fields["code"].max_length, fields["code"].description, fields["kind"].allowed) == (7, "Code, of it.", ("x", "y"))
    assert (contract.primary_key, contract.description) == (("code", "id"), "Things.")


def test_more_columns_than_anybody_reads_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects whose names are data are no reason to run out of memory; the proposal says so."""
    monkeypatch.setattr(samples, "MOST_COLUMNS", 3)
    read = json_columns([json.dumps({f"n{number}": number, "id": 1, "at": "2013-05-01T12:00:00Z"}).encode() for number in range(9)])

    assert [column.name for column in read.columns] == ["n0", "id", "at"]
    assert read.remarks == ("of 11 columns the first 3 were looked at",)


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [("Order Items", "order_items"), ("2013-orders.csv", "orders_csv"), ("…", "source"), ("a" * 60, "a" * 48), ("Ünïcode", "n_code")],
)
def test_the_name_of_a_contract_is_made_from_that_of_the_source(given_name: str, expected: str) -> None:
    """Whatever the source is called, a contract may have the name."""
    assert name_of(given_name) == expected
    assert NAME.fullmatch(name_of(given_name))


@pytest.mark.parametrize("name", ["class", "match", "timedelta", "print"])
def test_a_name_that_python_or_the_module_has_already_gets_a_sign_more(name: str) -> None:
    """The contract keeps the name; the variable is another."""
    module = module_of(proposed(name, sample_of(json_columns([b'{"id": 1, "at": "2013-05-01T12:00:00Z"}']), 1)))

    assert f"\n{name}_ = Source(" in module
    assert source(module).contract.name == name
