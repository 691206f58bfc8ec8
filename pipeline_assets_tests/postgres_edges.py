"""The types of Postgres with values at their edges, and what each is in a field: what batches and changes are both held against."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pipeline_assets.ingestion.sources.contracts import Reason
from pipeline_assets.ingestion.sources.postgres_types import SERVED
from pipeline_assets.spec.contracts import Contract, Field, FieldType

TYPES_DDL = """
    create extension if not exists citext;
    create type size_kind as enum ('S', 'M', 'Größe L');
    create domain sku as varchar(12);
    create domain short_sku as sku check (length(value) > 1);
    create domain pieces as integer check (value >= 0);
    create domain code as character(6);
    create domain size as size_kind;
"""
# Columns that no contract knows, of types that no field has: they must stop nothing.
BESIDE = (
    "o0 tsvector default 'a b'",
    "o1 point default '(1,2)'",
    "o2 integer[] default array[1,2]",
    "o3 interval default '1 day'",
    "o4 bit(3) default '101'",
    "o5 inet default '10.0.0.1'",
    "o6 money default 1",
    "o7 int4range default '[1,2)'",
    "o8 bytea default '\\x00'",
    "o9 date default '2013-05-01'",
    "o10 timestamp default now()",
    "o11 oid default 7",
    "o12 pg_lsn default '0/7'",
)
ODD_TEXT = 'Zoë 😀 "q" \\ line\nend\t, ; \u2028'


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A type of Postgres that serves a field of this type (with `options` of the field).

    good: texts in SQL, and the value each of them has. broken: texts in SQL, and why each of them breaks its row.
    """

    sql: str
    type: FieldType
    good: Mapping[str, Any] = field(default_factory=dict)
    broken: Mapping[str, Reason] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def _same(*texts: str) -> dict[str, str]:
    return {text: text for text in texts}


EDGES = (
    Edge(sql="smallint", type="integer", good={"-32768": -32768, "32767": 32767}),
    Edge(sql="integer", type="integer", good={"-2147483648": -(2**31)}),
    Edge(sql="bigint", type="integer", good={"9223372036854775807": 2**63 - 1, "-9223372036854775808": -(2**63)}),
    Edge(sql="pieces", type="integer", good={"0": 0, "7": 7}),
    Edge(
        sql="numeric(20,0)",
        type="integer",
        good={"9007199254740993": 2**53 + 1, "1234567890123456789": 1234567890123456789},
        broken={"99999999999999999999": "out of range"},
    ),
    Edge(sql="numeric(10,2)", type="integer", good={"10": 10, "-0.00": 0}, broken={"10.50": "wrong type"}),
    Edge(sql="numeric", type="integer", broken={"1e400": "out of range", "NaN": "not finite", "Infinity": "not finite"}),
    Edge(sql="bigint", type="number", good={"9007199254740992": 2.0**53}),
    Edge(
        sql="numeric",
        type="number",
        good={"0.1": 0.1, "12345678901234567890.123456789": 12345678901234567890.123456789, "1e-300": 1e-300, "-0.5": -0.5},
        broken={"1e400": "out of range", "1e-400": "out of range", "NaN": "not finite", "-Infinity": "not finite"},
    ),
    Edge(
        sql="real",
        type="number",
        good={
            "0.4": 0.4,
            "0.1": 0.1,
            "-0.3": -0.3,
            "3.4028235e38": 3.4028235e38,
            "1.17549435e-38": 1.1754944e-38,
            "16777216": 16777216.0,
            "1e-45": 1.4e-45,
            "1e-43": 9.9e-44,
            "2e-44": 2e-44,
            "1e10": 1e10,
        },
        broken={"NaN": "not finite", "Infinity": "not finite"},
    ),
    Edge(
        sql="double precision",
        type="number",
        good={"0.1": 0.1, "5e-324": 5e-324, "1.7976931348623157e308": 1.7976931348623157e308, "1e22": 1e22, "-0": 0.0},
        broken={"NaN": "not finite", "-Infinity": "not finite"},
    ),
    Edge(
        sql="numeric(30,10)",
        type="decimal",
        options={"precision": 30, "scale": 10},
        good={"12345678901234567890.123456789": Decimal("12345678901234567890.1234567890"), "-0.0000000001": Decimal("-0.0000000001")},
    ),
    Edge(
        sql="numeric",
        type="decimal",
        options={"precision": 12, "scale": 2},
        good={"1.50000": Decimal("1.50"), "9999999999.99": Decimal("9999999999.99"), "-3": Decimal("-3.00")},
        broken={"1.005": "too precise", "10000000000": "out of range", "1e400": "out of range", "NaN": "not finite"},
    ),
    Edge(
        sql="bigint", type="decimal", options={"precision": 20, "scale": 1}, good={"9223372036854775807": Decimal("9223372036854775807.0")}
    ),
    Edge(sql="boolean", type="boolean", good={"true": True, "false": False}),
    Edge(sql="text", type="string", good={**_same("", "NaN", "a  ", "null", ODD_TEXT), "x": "x"}),
    Edge(sql="varchar(12)", type="string", good=_same("two words  ", "")),
    Edge(sql="char(10)", type="string", good={"AB": "AB", " A B": " A B", "0123456789": "0123456789", "": "", "Größe": "Größe"}),
    Edge(sql="code", type="string", good={"AB": "AB", "ABCDEF": "ABCDEF"}),
    Edge(sql="name", type="string", good=_same("nick", "Größe")),
    Edge(sql="citext", type="string", good=_same("Case Kept")),
    Edge(sql="size_kind", type="string", good=_same("S", "Größe L")),
    Edge(sql="size", type="string", good=_same("M")),
    Edge(sql="sku", type="string", good=_same("AB-1")),
    Edge(sql="short_sku", type="string", good=_same("AB-2 ")),
    Edge(sql="uuid", type="string", good={"7D444840-9DC0-11D1-B245-5FFDCE74FAD2": "7d444840-9dc0-11d1-b245-5ffdce74fad2"}),
    Edge(sql="json", type="string", good=_same('{"b": 1,  "a": [1.50, null, "é"]}', "null")),
    Edge(sql="jsonb", type="string", good={'{"b": 1,  "a": [1.50, null, "é"]}': '{"a": [1.50, null, "é"], "b": 1}'}),
    Edge(
        sql="timestamptz",
        type="timestamp",
        good={
            "0001-01-01 00:00:00+00": datetime(1, 1, 1, tzinfo=UTC),
            "9999-12-31 23:59:59.999999+00": datetime.max.replace(tzinfo=UTC),
            "1969-12-31 23:59:59.999999+00": datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            "2013-05-01 00:00:00+05:30": datetime(2013, 4, 30, 18, 30, tzinfo=UTC),
        },
        broken={"infinity": "out of range", "-infinity": "out of range", "4713-01-01 00:00:00+00 BC": "out of range"},
    ),
    Edge(
        sql="timestamptz",
        type="timestamp",
        options={"sentinels": (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), float("inf"))},
        good={"9999-12-31 23:59:59+00": None, "infinity": None, "9999-12-31 00:00:00+00": datetime(9999, 12, 31, tzinfo=UTC)},
        broken={"-infinity": "out of range"},
    ),
    Edge(
        sql="numeric",
        type="decimal",
        options={"precision": 6, "scale": 1, "sentinels": (-999, float("nan"))},
        good={"-999": None, "NaN": None},
    ),
    Edge(
        sql="double precision", type="number", options={"sentinels": (float("nan"), float("-inf"))}, good={"NaN": None, "-Infinity": None}
    ),
    Edge(sql="text", type="string", options={"sentinels": ("N/A",)}, good={"N/A": None, "n/a": "n/a"}),
)
KEY, UPDATED = "id", "updated_at"


def column(number: int) -> str:
    """The name of the column of an edge."""
    return f"c{number}"


def edges_contract(name: str, key: str = KEY) -> Contract:
    """A contract with a field for each edge."""
    fields = [Field(name=column(number), type=edge.type, description=edge.sql, **edge.options) for number, edge in enumerate(EDGES)]
    return Contract(
        name=name,
        version="1.0.0",
        owner="owner@edges.example",
        description="Values at the edges of their types.",
        fields=(
            Field(name=key, type="integer", required=True, description="Which."),
            *fields,
            Field(name=UPDATED, type="timestamp", required=True, description="When."),
        ),
        primary_key=(key,),
        event_at=UPDATED,
        known_at=UPDATED,
        lateness=timedelta(0),
        freshness=timedelta(days=1),
        broken_share=1.0,
    )


def edges_ddl(table: str) -> str:
    """The table of the edges, and its types."""
    columns = ", ".join(f"{column(number)} {edge.sql}" for number, edge in enumerate(EDGES))
    beside = ", ".join(BESIDE)
    rest = f"{columns}, {beside}, {UPDATED} timestamptz not null default now()"
    return f"{TYPES_DDL} create table {table} ({KEY} bigint primary key, {rest});"


@dataclass(frozen=True, kw_only=True)
class EdgeRow:
    """A row of the table: its texts in SQL by column, and what it comes out as, or its one fault as field and reason."""

    texts: Mapping[str, str]
    values: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None


def edge_rows() -> Iterator[EdgeRow]:
    """Rows with a good value in as many columns as have one left, a row of nulls, then one row for each broken value."""
    nothing = {column(number): None for number in range(len(EDGES))}
    for place in range(max(len(edge.good) for edge in EDGES)):
        cells = {column(number): list(edge.good.items())[place] for number, edge in enumerate(EDGES) if place < len(edge.good)}
        texts = {name: text for name, (text, _) in cells.items()}
        yield EdgeRow(texts=texts, values=nothing | {name: value for name, (_, value) in cells.items()})
    yield EdgeRow(texts={}, values=nothing)
    for number, edge in enumerate(EDGES):
        for text, reason in edge.broken.items():
            yield EdgeRow(texts={column(number): text}, fault=f"{column(number)} {reason}")


def type_table() -> str:
    """What each type serves, and its values at the edges, as the documentation shows it."""
    lines = ["| type of Postgres | field | values that are kept | values that break their row |", "|---|---|---|---|"]
    for edge in EDGES:
        if not edge.options.get("sentinels"):
            digits = f"({edge.options['precision']}, {edge.options['scale']})" if edge.type == "decimal" else ""
            kept = ", ".join(_shown(text, value) for text, value in edge.good.items() if "\n" not in text)
            broken = ", ".join(f"`{text}` {reason}" for text, reason in edge.broken.items())
            lines.append(f"| {_named(edge.sql)} | {edge.type}{digits} | {kept} | {broken} |")
    return "\n".join(lines) + "\n"


def _named(kind: str) -> str:
    domains = {"pieces": "domain over `integer`", "code": "domain over `char(6)`", "sku": "domain over `varchar`"}
    domains |= {"short_sku": "domain over a domain", "size_kind": "enumeration", "size": "domain over an enumeration"}
    return domains.get(kind, f"`{kind}`")


def _shown(text: str, value: Any) -> str:
    read = value.isoformat() if isinstance(value, datetime) else str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`" if read == text else f"`{text}` as `{read}`" if text else "the empty text"


def unserved() -> set[str]:
    """The served types that no edge is of."""
    known = {"varchar(12)": "character varying", "char(10)": "character", "size_kind": "enum", "timestamptz": "timestamp with time zone"}
    return set(SERVED) - {known.get(edge.sql, edge.sql.partition("(")[0]) for edge in EDGES}
