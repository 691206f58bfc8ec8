"""Which rows are an entity's, and which are left out of what comes: equal to going through them one by one."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.forgetting.matches import Condition, Match, names_word
from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked
from pipeline_assets.ingestion.sources.forgotten import NOTHING, Forgotten, Rule, digest, readings

SALT = b"a secret of a test"
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "b", "A", " a", "é", "a\x1fb", "1"]))
NUMBERS = st.one_of(st.none(), st.integers(-2, 3))
ROWS = st.lists(st.tuples(TEXTS, NUMBERS), max_size=12)
SCHEMA = pa.schema([("who", pa.string()), ("number", pa.int64())])


def table(rows: list[tuple[str | None, int | None]]) -> pa.Table:
    """Rows as columns."""
    return pa.table({"who": [who for who, _ in rows], "number": [number for _, number in rows]}, schema=SCHEMA)


def forgets(*rules: tuple[tuple[str, ...], tuple[str, ...]]) -> Forgotten:
    """What forgets keys, each by its columns and texts."""
    made = (Rule(columns=columns, digests=frozenset({digest(SALT, texts)})) for columns, texts in rules)
    return Forgotten(rules=tuple(made), salt=SALT)


@given(rows=ROWS, who=st.sampled_from(["a", "b", ""]), number=st.integers(-2, 3))
def test_rows_of_a_key_are_those_that_have_each_of_its_parts(rows: list[tuple[str | None, int | None]], who: str, number: int) -> None:
    """By one column, by two together, and by either of two conditions; null is equal to nothing."""
    one, two = Condition(columns=("who",), keys=frozenset({(who,)})), Condition(
        columns=("who", "number"), keys=frozenset({(who, str(number)), ("b", "1")})
    )  # fmt: skip
    pairs = {(who, number), ("b", 1)}

    assert Match(conditions=(one,)).holds(table(rows)).tolist() == [row[0] == who for row in rows]
    assert Match(conditions=(two,)).holds(table(rows)).tolist() == [row in pairs for row in rows]
    assert Match(conditions=(one, two)).holds(table(rows)).tolist() == [row[0] == who or row in pairs for row in rows]
    assert Match().holds(table(rows)).tolist() == [False] * len(rows)


@given(rows=ROWS, who=st.sampled_from(["a", "b", ""]), number=st.integers(-2, 3))
def test_what_is_left_out_by_hashes_is_what_is_found_by_keys(rows: list[tuple[str | None, int | None]], who: str, number: int) -> None:
    """Hashes under the salt leave out the same rows, as columns and one by one; under another salt none."""
    found, single = table(rows), forgets((("who",), (who,)))
    pair = forgets((("who", "number"), (who, str(number))))

    assert single.holds(found).tolist() == [row[0] == who for row in rows]
    assert pair.holds(found).tolist() == [row == (who, number) for row in rows]
    assert [pair.names(row) for row in found.to_pylist()] == pair.holds(found).tolist()
    assert not Forgotten(rules=single.rules, salt=b"another").holds(found).any()


@given(
    asked=st.lists(st.tuples(st.sampled_from(["m", "n"]), TEXTS, NUMBERS), max_size=12),
    model=st.sampled_from(["m", "n"]),
    who=st.sampled_from(["a", "b", ""]),
    number=st.integers(-2, 3),
)
def test_what_stands_within_a_field_is_found_as_columns_are(
    asked: list[tuple[str, str | None, int | None]], model: str, who: str, number: int
) -> None:
    """JSON as text in a column: the same rows as of columns, by keys and by hashes, as tables and one by one."""
    columns, texts = ("model", "keys->>who", "keys->>number"), (model, who, str(number))
    rows = pa.table(
        {"model": [one for one, *_ in asked], "keys": [json.dumps({"who": whose, "number": which}) for _, whose, which in asked]},
        schema=pa.schema([("model", pa.string()), ("keys", pa.string())]),
    )
    match, forgotten = Match(conditions=(Condition(columns=columns, keys=frozenset({texts})),)), forgets((columns, texts))
    expected = [row == (model, who, number) for row in asked]

    assert match.holds(rows).tolist() == expected
    assert forgotten.holds(rows).tolist() == expected
    assert [match.names(row) for row in rows.to_pylist()] == expected
    assert [forgotten.names(row) for row in rows.to_pylist()] == expected
    assert match.columns == ("model", "keys")
    assert match.sql(rows.column_names) is None


@pytest.mark.parametrize("text", ["{", "[]", "7", "null", "", '{"who": {"a": 1}}', '{"who": "\\ud800"}', "[" * 100_000])
def test_a_field_that_is_no_such_object_is_nobodys(text: str) -> None:
    """Neither found nor in the way, whatever a producer wrote there."""
    match, rows = Match(conditions=(Condition(columns=("keys->>who",), keys=frozenset({("a",)})),)), pa.table({"keys": [text]})

    assert match.holds(rows).tolist() == [False]
    assert forgets((("keys->>who",), ("a",))).holds(rows).tolist() == [False]
    assert not match.names({"keys": text})


@pytest.mark.parametrize(
    ("bound", "is_shown"),
    [
        (b'{"who":"kiosk-Zr', True), (b'{"who":"kiosk-Zq7"}', True), (b'{"who":"kiozkz', False), (b'{"who":"pier"}', False),
        (b'{"who":"', False), (b'{"a":1,"who":"kj', True), (b'{"a":1}', False), (b'{"who":7}', False),
    ],
)  # fmt: skip
def test_a_bound_shows_a_key_within_a_field(bound: bytes, is_shown: bool) -> None:  # noqa: FBT001 - a case
    """Where the signs that were kept of it reach into the value, of which the last may be another."""
    match = Match(conditions=(Condition(columns=("keys->>who",), keys=frozenset({("kiosk-Zq7",)})),))

    assert match.shows({"keys": [bound]}) is is_shown


def test_parts_of_a_key_are_not_run_together() -> None:
    """Two parts are another key than the same signs cut elsewhere."""
    assert digest(SALT, ["a", "bc"]) != digest(SALT, ["ab", "c"])
    assert digest(SALT, ["a\x1fb"]) != digest(SALT, ["a", "b"])


def test_a_checked_part_loses_good_and_broken_rows_of_the_key_and_keeps_places_and_bytes_of_the_others() -> None:
    """Positions and originals go with their rows; broken rows are known by JSON, or by a line in columns that are known."""
    good = table([("a", 1), ("b", 2), ("a", 3)]).combine_chunks().to_batches()[0]
    broken = [
        BrokenRow(position=3, field="number", reason="wrong type", original=b'{"who": "a", "number": "x"}'),
        BrokenRow(position=4, field="number", reason="wrong type", original=b"a;x", columns=("who", "number")),
        BrokenRow(position=5, field="number", reason="wrong type", original=b"b;x", columns=("who", "number")),
    ]
    part = Checked(good=good, positions=np.arange(3), broken=broken, originals=[b"0", b"1", b"2"])

    left = forgets((("who",), ("a",))).without(part)

    assert (left.good.to_pylist(), left.positions.tolist(), left.originals) == ([{"who": "b", "number": 2}], [1], [b"1"])
    assert [row.position for row in left.broken] == [5]
    assert NOTHING.without(part) is part


@pytest.mark.parametrize(
    ("payload", "is_of"),
    [
        ({"who": "a"}, True),
        ({"who": "b"}, False),
        ({"before": {"who": "a", "number": 1}, "after": {"who": "b"}}, True),
        ({"data": {"deep": {"who": "a"}}}, True),
        ({"who": None}, False),
        (["a"], False),
    ],
)
def test_a_record_is_of_a_key_that_any_object_in_it_has(payload: Any, is_of: bool) -> None:  # noqa: FBT001 - what is expected
    """A row before a change, or within an envelope, is the entity's as one that stands alone."""
    match = Match(conditions=(Condition(columns=("who",), keys=frozenset({("a",)})),))
    plain, framed = json.dumps(payload).encode(), b"\0\0\0\0\7" + json.dumps(payload).encode()

    assert match.is_in(plain) is is_of
    assert match.is_in(framed) is is_of


@pytest.mark.parametrize("original", [b"", b"\xff\xfe", b"{", b"null", b"[" * 100_000, b'"a"', b"\0\1"])
def test_bytes_that_are_no_object_are_read_as_none(original: bytes) -> None:
    """Whatever they are, nothing fails."""
    assert readings(original) == []
    assert readings(original, ("a", "b", "c")) == []


def test_bounds_of_a_manifest_tell_a_key_from_its_first_signs_on() -> None:
    """Text is cut to sixteen signs, whole numbers stand as eight bytes; other columns tell nothing."""
    match = Match(conditions=(Condition(columns=("who",), keys=frozenset({("a-name-of-more-than-sixteen-signs",)})),))
    number = Match(conditions=(Condition(columns=("number",), keys=frozenset({("-7",)})),))

    assert match.shows({"who": [b"a-name-of-more-t"]})
    assert not match.shows({"who": [b"a-name"], "other": [b"a-name-of-more-t"]})
    assert number.shows({"number": [(-7).to_bytes(8, "little", signed=True)]})
    assert not number.shows({"number": [(7).to_bytes(8, "little", signed=True)]})


@given(
    word=st.text(min_size=1),
    around=st.sampled_from([("", ""), (" ", "."), ('{"who": "', '"}')]),
    writes=st.sampled_from([json.dumps, partial(json.dumps, ensure_ascii=False)]),
)
def test_a_word_is_found_as_it_is_and_in_json(word: str, around: tuple[str, str], writes: Callable[[str], str]) -> None:
    """In any letters and signs, as writers of JSON escape them or do not."""
    before, after = around

    assert names_word(f"{before}{word}{after}".encode(), word)
    assert names_word(f"{before}{writes(word)[1:-1]}{after}".encode(), word)


@pytest.mark.parametrize("written", ["Zürichs", "xZürich", json.dumps("Zürich7"), "Zurich", json.dumps("zürich")])
def test_a_part_of_a_word_is_another_word(written: str) -> None:
    """Where a letter or digit stands beside it, or a sign is another one."""
    assert not names_word(written.encode(), "Zürich")
