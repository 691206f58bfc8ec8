"""What was forgotten, and so is not taken in again: salted hashes of keys, which readers of sources hold their rows against.

A rule says of one contract by which of its fields an entity is known there. The key itself is nowhere: only the hash of its texts under a
secret of this platform, which stands beside it. Who can read both can try out keys, so a key of few digits is hidden from a glance alone.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.settings import WarehouseSettings
from pipeline_assets.ingestion.sources.contracts import BrokenRow, Checked

if TYPE_CHECKING:
    import polars as pl
    import psycopg

DIGEST_BYTES = 16
# `keys->>tailnum`: of the field `keys`, which is JSON as text, the value of `tailnum`.
WITHIN = "->>"
SURROGATE = re.compile("[\ud800-\udfff]")
CREATE = """
    select pg_advisory_xact_lock(hashtext('forgotten'));
    create schema if not exists forgotten;
    create table if not exists forgotten.salt (one boolean primary key default true check (one), salt bytea not null);
    create table if not exists forgotten.keys (
        contract text not null,
        columns text[] not null,
        digest text not null,
        entity text not null,
        forgotten_at timestamptz not null default now(),
        primary key (contract, columns, digest)
    );
"""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Of one contract, the fields that together are a key, and the hashes of keys that are forgotten.

    A column may be `field->>name`: what a field that is JSON as text has by a name.
    """

    columns: tuple[str, ...]
    digests: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What is not taken in of one contract; nothing where there are no rules."""

    rules: tuple[Rule, ...] = ()
    salt: bytes = b""

    def holds(self, rows: pa.RecordBatch | pa.Table) -> np.ndarray:
        """Which rows are of a forgotten key (one boolean per row); a key with a null is nobody's."""
        found = np.zeros(rows.num_rows, dtype=bool)
        for rule in self.rules:
            if rows.num_rows and set(map(field_of, rule.columns)) <= set(rows.schema.names):
                found |= self._held(rule, rows)
        return found

    def without(self, checked: Checked) -> Checked:
        """A checked part without the rows of forgotten keys, good and broken ones."""
        if not self.rules:
            return checked
        kept = ~self.holds(checked.good)
        originals = None if checked.originals is None else [one for one, is_kept in zip(checked.originals, kept, strict=True) if is_kept]
        broken = [row for row in checked.broken if not self.is_in(row)]
        good = checked.good.filter(pa.array(kept))
        return replace(checked, good=good, positions=checked.positions[kept], originals=originals, broken=broken)

    def names(self, values: Mapping[str, Any]) -> bool:
        """Whether these values, or those of an object within them, are of a forgotten key."""
        return any(self._is_named(rule, one) for one in objects_in(values) for rule in self.rules)

    def is_in(self, row: BrokenRow) -> bool:
        """Whether a row that broke its contract is of a forgotten key, as far as its bytes are JSON, or a line whose columns it knows."""
        return bool(self.rules) and any(self.names(one) for one in readings(row.original, row.columns))

    def _held(self, rule: Rule, rows: pa.RecordBatch | pa.Table) -> np.ndarray:
        import polars as pl

        frame = texts_in(rows, rule.columns)
        distinct = frame.unique().drop_nulls()
        digests = [digest(self.salt, texts) in rule.digests for texts in distinct.rows()]
        held = distinct.filter(pl.Series(digests, dtype=pl.Boolean))
        found = np.zeros(rows.num_rows, dtype=bool)
        if held.height:
            found[frame.with_row_index("__place").join(held, on=list(rule.columns), how="semi")["__place"].to_numpy()] = True
        return found

    def _is_named(self, rule: Rule, values: Mapping[str, Any]) -> bool:
        texts = [text_of(value_at(values, column)) for column in rule.columns]
        return None not in texts and digest(self.salt, [str(text) for text in texts]) in rule.digests


NOTHING = Forgotten()


def create(connection: "psycopg.Connection") -> bytes:
    """Makes the tables where they are missing; the salt of this platform. In the connection's transaction."""
    from secrets import token_bytes

    connection.execute(CREATE)
    connection.execute("insert into forgotten.salt (salt) values (%s) on conflict do nothing", [token_bytes(32)])
    return salt_of(connection)


def salt_of(connection: "psycopg.Connection") -> bytes:
    """The salt; empty where nothing was ever forgotten."""
    if connection.execute("select to_regclass('forgotten.salt')").fetchone() == (None,):
        return b""
    row = connection.execute("select salt from forgotten.salt").fetchone()
    return b"" if row is None else bytes(row[0])


def forgotten_of(settings: WarehouseSettings, contract: str) -> Forgotten:
    """What is not taken in of a contract, as it stands now."""
    with warehouse(settings) as connection:
        return read_rules(connection, contract)


def read_rules(connection: "psycopg.Connection", contract: str) -> Forgotten:
    """What is not taken in of a contract, by a connection to the warehouse."""
    salt = salt_of(connection)
    if not salt:
        return NOTHING
    found = connection.execute(
        "select columns, array_agg(digest) from forgotten.keys where contract = %s group by columns order by columns", [contract]
    ).fetchall()
    return Forgotten(salt=salt, rules=tuple(Rule(columns=tuple(columns), digests=frozenset(each)) for columns, each in found))


def remember(connection: "psycopg.Connection", contract: str, columns: Sequence[str], digests: Iterable[str], entity: str) -> None:
    """Has keys of a contract not taken in from the commit of this transaction on; one that is there stays."""
    connection.cursor().executemany(
        f"insert into {names.FORGOTTEN}.keys (contract, columns, digest, entity) values (%s, %s, %s, %s) on conflict do nothing",  # noqa: S608
        [(contract, list(columns), one, entity) for one in digests],
    )


def digest(salt: bytes, texts: Sequence[str]) -> str:
    """The hash of a key, given as the texts of its parts in order."""
    return blake2b(json.dumps(list(texts)).encode(), key=salt, digest_size=DIGEST_BYTES).hexdigest()


def text_of(value: object) -> str | None:
    """A part of a key as text: text as it is, a whole number in digits; None for null and what is no part of a key."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else None


def field_of(column: str) -> str:
    """The field that a column of a key stands in."""
    return column.partition(WITHIN)[0]


def value_at(values: Mapping[str, Any], column: str) -> object:
    """The value of a column of a key in an object; None where there is none."""
    name, _, within = column.partition(WITHIN)
    found = values.get(name)
    if not within:
        return found
    try:
        held = json.loads(found) if isinstance(found, str) else None
    except (ValueError, RecursionError):
        return None
    return held.get(within) if isinstance(held, dict) else None


def texts_in(rows: pa.RecordBatch | pa.Table, columns: Sequence[str]) -> "pl.DataFrame":
    """The columns of a key as texts, each under its name, null where there is no value."""
    import polars as pl

    fields = list(dict.fromkeys(map(field_of, columns)))
    frame = pl.DataFrame(pl.from_arrow(rows.select(fields))).select(pl.all().cast(pl.String))
    return pl.DataFrame([_texts(frame[field_of(column)], column).alias(column) for column in columns])


def _texts(values: "pl.Series", column: str) -> "pl.Series":
    import polars as pl

    if WITHIN not in column:
        return values
    found = (text_of(value_at({values.name: value}, column)) for value in values)
    # Half a surrogate, which JSON may have escaped, is no text and nobody's key.
    return pl.Series([None if one is None or SURROGATE.search(one) else one for one in found], dtype=pl.String)


def readings(original: bytes, columns: Sequence[str] | None = None) -> list[Mapping[str, Any]]:
    """The objects that bytes can be read as: JSON, after a schema registry's frame too, or a line of values in columns that are known."""
    import csv
    from io import StringIO

    for skipped in (0, 5) if original[:1] == b"\0" else (0,):
        try:
            found = json.loads(original[skipped:])
        except (ValueError, RecursionError):
            continue
        return [found] if isinstance(found, dict) else []
    if not columns:
        return []
    text = original.decode(errors="replace")
    lines = (next(csv.reader(StringIO(text), delimiter=sign), []) for sign in (",", ";", "\t", "|"))
    return [dict(zip(columns, line, strict=False)) for line in lines if len(line) == len(columns)]


def objects_in(values: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """An object and all objects within it, as an envelope holds the row before and after a change."""
    left: list[Mapping[str, Any]] = [values]
    while left:
        one = left.pop()
        yield one
        left += [value for value in one.values() if isinstance(value, Mapping)]
