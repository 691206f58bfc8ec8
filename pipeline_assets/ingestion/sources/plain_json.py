"""JSON records that hold nothing unusual, read as whole columns; any other record is left to the reading of one by one.

DuckDB's JSON is more lenient than ours (it takes a comma too many, `nan`, the text "1" for a number), so a record counts as plain only
where both must agree: a flat object without a repeated field, each field of exactly the contract's type, times written in full.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.ingestion.sources.arrow_types import arrow_type
from pipeline_assets.ingestion.sources.text_columns import INSTANT, from_texts, plain_text
from pipeline_assets.spec.contracts import Contract, Field, FieldType

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# What a text may hold that Python's JSON refuses, or that has no bytes: an escaped NUL, half of a surrogate pair.
ODD_ESCAPES = r"\\u(?:0000|[dD][89a-fA-F])"
# What DuckDB takes for a number and Python for an error; looked for only where a record has fields that the contract does not know.
ODD_NUMBERS = r"(?i):\s*[-+]?(?:nan|inf)"
# Numbers so near to 0 that DuckDB may make them 0, looked for where there are signs of one; decimals of more digits than a float keeps.
TINY, LONG_TEXT = r"[eE]-[0-9]{3}|[0-9]{300}", 300
LONG_DECIMAL = r'"(?:{names})"\s*:\s*-?[0-9.]{{16}}'
SQL_TYPES: dict[FieldType, str] = {
    "string": "VARCHAR",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "decimal": "VARCHAR",
    "boolean": "BOOLEAN",
    "timestamp": "VARCHAR",
}
JSON_TYPES: dict[FieldType, set[str]] = {
    "string": {"VARCHAR"},
    "integer": {"BIGINT", "UBIGINT"},
    "number": {"BIGINT", "UBIGINT", "DOUBLE"},
    "decimal": {"BIGINT", "UBIGINT", "DOUBLE", "VARCHAR"},
    "boolean": {"BOOLEAN"},
    "timestamp": {"VARCHAR"},
}
SAFE_NAME = re.compile(r"\w+", re.ASCII)
# Between the fields of a record, and between them and their JSON types. `ABSENT` has no value, or null.
SEPARATOR, END = "\x1f", "\x1e"
ABSENT = "NULL"
# Small enough that two cores share a batch.
SCANNED_ROWS = 8_192


@dataclass(frozen=True, kw_only=True)
class PlainRows:
    """The plain ones of some records: their places among all, the contract's fields as columns, and the values they are routed by.

    `fields` names what the records came with; `routes` is null where a record has no such field, and None where nothing is asked for.
    """

    places: np.ndarray
    columns: pa.RecordBatch
    routes: pa.Array | None
    fields: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What many records have in common: the fields that they came with, and the JSON types of those that are asked for."""

    fields: Sequence[str]
    kinds: Sequence[str]

    def is_plain(self, allowed: Sequence[set[str]]) -> bool:
        """Whether no field is repeated, and each that is asked for has an allowed type or no value."""
        is_distinct = len(set(self.fields)) == len(self.fields)
        return is_distinct and all(kind == ABSENT or kind in fitting for kind, fitting in zip(self.kinds, allowed, strict=True))


def plain_json(contract: Contract, route_field: str | None = None) -> "PlainJson | None":
    """A reader of plain records; None where a name needs care in SQL, which takes `Kind` and `kind` for one."""
    asked = {*(field.name for field in contract.fields), *([] if route_field is None else [route_field])}
    is_safe = all(SAFE_NAME.fullmatch(name) for name in asked) and len({name.lower() for name in asked}) == len(asked)
    return PlainJson(contract, route_field) if is_safe else None


class PlainJson:
    """Reads plain records of a contract."""

    def __init__(self, contract: Contract, route_field: str | None = None) -> None:
        self._contract, self._route_field = contract, route_field
        self._asked: dict[str, FieldType] = {field.name: field.type for field in contract.fields}
        if route_field is not None:
            self._asked.setdefault(route_field, "string")
        # The value that records are routed by is a text.
        routed = {} if route_field is None else {route_field: {"VARCHAR"}}
        self._allowed = [routed.get(name, JSON_TYPES[kind]) & JSON_TYPES[kind] for name, kind in self._asked.items()]
        self._query = _query(contract.fields, self._asked, route_field)

    @cached_property
    def _connection(self) -> "DuckDBPyConnection":
        """Opened for the first records: processes that may get some, as the prediction service, and never do, would load 40 MB for it."""
        import duckdb

        return duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})

    def read(self, payloads: pa.Array) -> PlainRows:
        """The plain ones of some payloads."""
        texts = _texts(payloads)
        rows = self._rows(texts)
        encoded = rows.column("shape").combine_chunks().dictionary_encode()
        shapes = [_shape(each) for each in encoded.dictionary.to_pylist()]
        is_plain = self._are_plain(texts, rows, encoded.indices.to_numpy(), shapes)
        if not is_plain.all():
            rows = rows.filter(pa.array(is_plain))
        (batch,) = rows.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], rows.schema)]
        columns = [_typed(field, batch.column(f"f{number}")) for number, field in enumerate(self._contract.fields)]
        return PlainRows(
            places=batch.column("place").to_numpy(),
            columns=pa.RecordBatch.from_arrays(columns, names=[field.name for field in self._contract.fields]),
            routes=batch.column("route") if self._route_field is not None else None,
            fields=frozenset(name for shape in shapes if shape.is_plain(self._allowed) for name in shape.fields),
        )

    def _are_plain(self, texts: pa.Array, rows: pa.Table, codes: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
        """Which rows are of a plain shape: each field that they came with was read, and no unknown field holds an odd number."""
        is_plain = np.array([shape.is_plain(self._allowed) for shape in shapes], dtype=bool)[codes]
        for number, field in enumerate(self._contract.fields):
            is_absent = np.array([shape.kinds[number] == ABSENT for shape in shapes], dtype=bool)
            is_plain &= is_absent[codes] | _is_read(field, rows.column(f"f{number}"))
        is_strange = np.array([not self._asked.keys() >= set(shape.fields) for shape in shapes], dtype=bool)
        asked = np.flatnonzero(is_strange[codes])
        if asked.size:
            strange = texts.take(rows.column("place").take(pa.array(asked)))
            is_plain[asked] &= ~np.asarray(pc.match_substring_regex(strange, ODD_NUMBERS))
        return np.asarray(is_plain, dtype=bool)

    def _rows(self, texts: pa.Array) -> pa.Table:
        records = pa.table({"place": np.arange(len(texts)), "text": texts})
        self._connection.register("records", pa.Table.from_batches(records.to_batches(SCANNED_ROWS), records.schema))
        found: pa.Table = self._connection.sql(self._query, params={"odd": ODD_ESCAPES, "tiny": TINY, "instant": INSTANT}).to_arrow_table()
        self._connection.unregister("records")
        return found


def _texts(payloads: pa.Array) -> pa.Array:
    """Payloads as text; null where one is none, or is not UTF-8."""
    try:
        return payloads.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_text(payload) for payload in payloads.to_pylist()], pa.string())


def _text(payload: bytes | None) -> str | None:
    try:
        return None if payload is None else payload.decode()
    except UnicodeDecodeError:
        return None


def _shape(text: str) -> Shape:
    fields, _, kinds = text.rpartition(END)
    return Shape(fields=fields.split(SEPARATOR), kinds=[kind.strip("'") for kind in kinds.strip("[]").split(", ")])


def _typed(field: Field, column: pa.Array) -> pa.Array:
    return from_texts(field, column)[0] if field.type == "decimal" else column.cast(arrow_type(field))


def _is_read(field: Field, column: pa.ChunkedArray) -> np.ndarray:
    """Which values of a column were read; none is where it does not fit the type."""
    if field.type == "decimal":
        found = pc.match_substring_regex(column, plain_text(field)).fill_null(False)
    else:
        found = pc.is_finite(column).fill_null(False) if field.type == "number" else column.is_valid()
    return np.asarray(found.to_numpy(), dtype=bool)


def _query(fields: Sequence[Field], asked: Mapping[str, FieldType], route_field: str | None) -> str:
    paths = ", ".join(f"'$.\"{name}\"'" for name in asked)
    shape = ", ".join(f'"{name}": "{SQL_TYPES[kind]}"' for name, kind in asked.items())
    values = [f"{_value(field)} as f{number}" for number, field in enumerate(fields)]
    if route_field is not None:
        values.append(f'found."{route_field}" as route')
    decimals = "|".join(field.name for field in fields if field.type == "decimal")
    is_exact = f"not regexp_matches(text, '{LONG_DECIMAL.format(names=decimals)}')" if decimals else "true"
    # A flat object ends with its first closing brace. Materialized, as else the fields of texts that are no JSON would be asked for, which
    # is an error.
    return f"""
        with plain as materialized (
            select place, text from records
            where starts_with(text, '{{') and instr(text, '}}') = length(text) and text[-2] not in (',', ' ', chr(9), chr(10), chr(13))
                and not contains(text, '[') and json_valid(text) and (not contains(text, '\\u') or not regexp_matches(text, $odd))
                and (
                    length(text) <= {LONG_TEXT} and not contains(text, 'e-') and not contains(text, 'E-')
                    or not regexp_matches(text, $tiny)
                )
                and {is_exact}
        ),
        read as (
            select
                place,
                array_to_string(json_keys(text), chr({ord(SEPARATOR)})) || chr({ord(END)}) || json_type(text, [{paths}])::varchar as shape,
                json_transform(text, '{{{shape}}}') as found
            from plain
        )
        select place, shape, {", ".join(values)} from read
    """  # noqa: S608 (made of the contract's names, which SAFE_NAME holds against)


def _value(field: Field) -> str:
    """The value of a field; of a time the microseconds since 1970 (DuckDB's own times need its time zones)."""
    column = f'found."{field.name}"'
    if field.type != "timestamp":
        return column
    return f"case when regexp_full_match({column}, $instant) then epoch_us(try_cast(upper({column}) as timestamptz)) end"
