"""Checks of tables as rules of fields: what PostgreSQL writes of them, and which are none."""

import pytest

from pipeline_assets.ingestion.batch.proposals.checks import Promise, promised
from pipeline_assets.spec.contracts import FieldType


@pytest.mark.parametrize(
    ("kind", "checks", "expected"),
    [
        ("number", ["CHECK ((amount >= (0)::numeric))"], Promise(minimum=0)),
        ("number", ["CHECK ((share <= '-0.5'::numeric))"], Promise(maximum=-0.5)),
        ("integer", ["CHECK (((a >= 1) AND (a <= 5)))"], Promise(minimum=1, maximum=5)),
        ("integer", ["CHECK ((VALUE > 0))", "CHECK ((VALUE < 10))"], Promise(minimum=1, maximum=9)),
        ("integer", ["CHECK ((a >= 1))", "CHECK ((a >= '-3'::integer))"], Promise(minimum=1)),
        ("string", ["CHECK ((kind = ANY (ARRAY['a'::text, 'it''s, b'::text])))"], Promise(allowed=("a", "it's, b"))),
        (
            "string",
            ["CHECK (((k)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))"],
            Promise(allowed=("a", "b")),
        ),
        ("string", ["CHECK ((k = ANY (ARRAY['a'::text, 'b'::text])))", "CHECK ((k = ANY (ARRAY['b'::text])))"], Promise(allowed=("b",))),
    ],
)
def test_ranges_and_lists_are_promises(kind: FieldType, checks: list[str], expected: Promise) -> None:
    """Bounds are inclusive, and all checks of a column hold together."""
    assert promised(kind, checks) == expected


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        ("number", "CHECK ((amount > (0)::numeric))"),
        ("integer", "CHECK (((a >= 1) OR (a <= -5)))"),
        ("integer", "CHECK (((a >= 1) AND ((a % 2) = 0)))"),
        ("integer", "CHECK ((a >= 1)) NOT VALID"),
        ("integer", "CHECK ((abs(a) >= 1))"),
        ("integer", "CHECK ((NOT (a >= 1)))"),
        ("string", "CHECK ((kind <> ALL (ARRAY['a'::text])))"),
        ("string", "CHECK ((lower(kind) = ANY (ARRAY['a'::text])))"),
        ("string", "CHECK ((kind = ANY (ARRAY['a'::text, other])))"),
        ("string", "CHECK ((kind >= '1'::text))"),
        ("timestamp", "CHECK ((at >= '2013-01-01 00:00:00+00'::timestamp with time zone))"),
        (None, "CHECK ((a >= 1))"),
    ],
)
def test_any_other_check_promises_nothing(kind: FieldType | None, check: str) -> None:
    """It is kept as it is written."""
    assert promised(kind, [check]) == Promise(others=(check,))
