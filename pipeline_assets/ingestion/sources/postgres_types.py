"""The types of Postgres: which fields each may serve, and how its values are read, by one rule in batches and in changes.

Held type by type, with edge values, against both ways of loading by `integration/ingestion/streaming/test_postgres_types.py`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pipeline_assets.spec.contracts import Contract, FieldType

if TYPE_CHECKING:
    import psycopg

CHARACTER, NUMERIC, TEXT = "character", "numeric", "text"
WHOLE: tuple[FieldType, ...] = ("integer", "number", "decimal")
# By type the fields that its columns may serve. An enumeration, and a domain by the type below it, have no name of their own here.
SERVED: Mapping[str, tuple[FieldType, ...]] = {
    "smallint": WHOLE, "integer": WHOLE, "bigint": WHOLE, NUMERIC: WHOLE, "real": ("number",), "double precision": ("number",),
    "boolean": ("boolean",), "timestamp with time zone": ("timestamp",),
    TEXT: ("string",), "character varying": ("string",), CHARACTER: ("string",), "name": ("string",), "citext": ("string",),
    "enum": ("string",), "uuid": ("string",), "json": ("string",), "jsonb": ("string",),
}  # fmt: skip
# Types whose values Arrow's driver gives as something else than their text; those of `character` lose the blanks that fill them up.
READ_AS_TEXT = frozenset({CHARACTER, "name", "citext", "enum", "uuid", "json", "jsonb"})
# Why other types serve no field, and what to do.
REFUSED: Mapping[str, str] = {
    "timestamp without time zone": "names no instant; give it a zone: alter its type to timestamptz using … at time zone 'UTC'",
    "date": "names no instant; declare a view of the table with a cast to the timestamptz at which its days begin, or to text",
    "money": "depends on the locale of the database; alter its type to numeric",
    "bytea": "is no text; declare a view of the table with encode(…, 'base64')",
}
OTHERWISE = "has no type of contracts; leave it out, or declare a view of the table with a cast"
COLUMNS = """
    with recursive base (name, number, type, kind, below, modifier) as (
        select a.attname, a.attnum, t.oid, t.typtype, t.typbasetype, case t.typtype when 'd' then t.typtypmod else a.atttypmod end
        from pg_attribute as a join pg_type as t on t.oid = a.atttypid
        where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped
        union all
        select b.name, b.number, t.oid, t.typtype, t.typbasetype, case t.typtype when 'd' then t.typtypmod else b.modifier end
        from base as b join pg_type as t on t.oid = b.below
        where b.kind = 'd'
    )
    select name, case kind when 'e' then 'enum' else format_type(type, null) end, modifier from base where kind <> 'd' order by number
"""


# What Postgres adds to a length, or to digits, before it keeps them as a type's modifier; -1 stands for none.
MODIFIER_OFFSET = 4


class Column(NamedTuple):
    """The type of a column, without its length or digits, and these as the catalog keeps them; of a domain those of what it is made of."""

    type: str
    modifier: int = -1

    @property
    def length(self) -> int | None:
        """The most characters of a value."""
        has_length = self.type in {CHARACTER, "character varying"} and self.modifier > MODIFIER_OFFSET
        return self.modifier - MODIFIER_OFFSET if has_length else None

    @property
    def width(self) -> int | None:
        """How many characters each value has, blanks included; None but of `character(n)`."""
        return self.length if self.type == CHARACTER else None

    @property
    def digits(self) -> tuple[int, int] | None:
        """Precision and scale of a `numeric` that has them; the scale may be negative, or beyond the precision."""
        if self.type != NUMERIC or self.modifier < 0:
            return None
        digits = self.modifier - MODIFIER_OFFSET
        # Eleven bits with a sign, behind the digits that there are.
        return digits >> 16 & 0xFFFF, (digits & 0x7FF ^ 0x400) - 0x400


Columns = Mapping[str, Column]


def columns_of(connection: "psycopg.Connection", table: str) -> dict[str, Column]:
    """The columns of a table, given as SQL writes it; none where there is no such table."""
    return {name: Column(kind, modifier) for name, kind, modifier in connection.execute(COLUMNS, [table]).fetchall()}


def misfits(contract: Contract, columns: Columns) -> dict[str, str]:
    """The fields of a contract that have no column, or one of a type that cannot serve them, with what is wrong."""
    return {
        field.name: f"({field.type}) has no column"
        if field.name not in columns
        else f"is {columns[field.name].type}, expected {field.type}{_remedy(columns[field.name].type)}"
        for field in contract.fields
        if field.name not in columns or field.type not in SERVED.get(columns[field.name].type, ())
    }


def _remedy(kind: str) -> str:
    return "" if kind in SERVED else f": {kind} {REFUSED.get(kind, OTHERWISE)}"
