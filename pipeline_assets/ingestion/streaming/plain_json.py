"""JSON records that hold nothing unusual, read as whole columns; any other record is left to the reading of one by one.

DuckDB's JSON is more lenient than ours (it takes a comma too many, `nan`, the text "1" for a number), so a record counts as plain only
where both must agree: a flat object without a repeated field, each field of exactly the contract's type, times written in full.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.ingestion.sources.contracts import ARROW_TYPES
from pipeline_assets.spec.contracts import Contract, Field, FieldType

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# What a text may hold that Python's JSON refuses, or that has no bytes: an escaped NUL, half of a surrogate pair.
ODD_ESCAPES = r"\\u(?:0000|[dD][89a-fA-F])"
# What DuckDB takes for a number and Python for an error; looked for only where a record has fields that the contract does not know.
ODD_NUMBERS = r"(?i):\s*[-+]?(?:nan|inf)"
INSTANT = r"[12]\d{3}-\d\d-\d\d[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{3}(?:\d{3})?)?(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)"
SQL_TYPES: dict[FieldType, str] = {
    "string": "VARCHAR",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "timestamp": "VARCHAR",
}
JSON_TYPES: dict[FieldType, tuple[str, ...]] = {
    "string": ("VARCHAR",),
    "integer": ("BIGINT", "UBIGINT"),
    "number": ("BIGINT", "UBIGINT", "DOUBLE"),
    "boolean": ("BOOLEAN",),
    "timestamp": ("VARCHAR",),
}
SAFE_NAME = re.compile(r"\w+", re.ASCII)
SEPARATOR = "\x1f"
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


def plain_json(contract: Contract, route_field: str | None = None) -> "PlainJson | None":
    """A reader of plain records; None where a name needs care in SQL, which does not tell `Kind` from `kind`."""
    asked = {*(field.name for field in contract.fields), *([] if route_field is None else [route_field])}
    is_safe = all(SAFE_NAME.fullmatch(name) for name in asked) and len({name.lower() for name in asked}) == len(asked)
    return PlainJson(contract, route_field) if is_safe else None


class PlainJson:
    """Reads plain records of a contract."""

    def __init__(self, contract: Contract, route_field: str | None = None) -> None:
        self._contract, self._route_field = contract, route_field
        extracted = [(field.name, field.type) for field in contract.fields]
        if route_field is not None and route_field not in dict(extracted):
            extracted.append((route_field, "string"))
        self._query = _query(contract.fields, extracted, route_field)
        self._known = {name for name, _ in extracted}
        self._connection = _database()

    def read(self, payloads: pa.Array) -> PlainRows:
        """The plain ones of some payloads."""
        rows = self._rows(payloads)
        shapes = rows.column("shape").combine_chunks().dictionary_encode()
        names = [shape.split(SEPARATOR) for shape in shapes.dictionary.to_pylist()]
        is_plain = self._are_plain(payloads, rows.column("place"), shapes.indices.to_numpy(), names)
        if not is_plain.all():
            rows = rows.filter(pa.array(is_plain))
        (batch,) = rows.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], rows.schema)]
        columns = [batch.column(f"f{number}").cast(ARROW_TYPES[field.type]) for number, field in enumerate(self._contract.fields)]
        return PlainRows(
            places=batch.column("place").to_numpy(),
            columns=pa.RecordBatch.from_arrays(columns, names=[field.name for field in self._contract.fields]),
            routes=batch.column("route") if self._route_field is not None else None,
            fields=frozenset(name for fields in names if len(set(fields)) == len(fields) for name in fields),
        )

    def _are_plain(self, payloads: pa.Array, places: pa.Array, shapes: np.ndarray, names: Sequence[Sequence[str]]) -> np.ndarray:
        """Which records repeat no field and have no odd number in a field that the contract does not know."""
        distinct = np.array([len(set(fields)) == len(fields) for fields in names], dtype=bool)
        strange = np.array([not self._known.issuperset(fields) for fields in names], dtype=bool)
        is_plain = distinct[shapes]
        asked = np.flatnonzero(strange[shapes])
        if asked.size:
            texts = payloads.take(places.take(pa.array(asked))).cast(pa.string())
            is_plain[asked] &= ~np.asarray(pc.match_substring_regex(texts, ODD_NUMBERS))
        return np.asarray(is_plain, dtype=bool)

    def _rows(self, payloads: pa.Array) -> pa.Table:
        records = pa.table({"place": np.arange(len(payloads)), "payload": payloads})
        self._connection.register("records", pa.Table.from_batches(records.to_batches(SCANNED_ROWS), records.schema))
        found: pa.Table = self._connection.sql(self._query, params={"odd": ODD_ESCAPES, "instant": INSTANT}).to_arrow_table()
        self._connection.unregister("records")
        return found


def _database() -> "DuckDBPyConnection":
    import duckdb

    return duckdb.connect(config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})


def _query(fields: Sequence[Field], extracted: Sequence[tuple[str, FieldType]], route_field: str | None) -> str:
    paths = ", ".join(f"'$.\"{name}\"'" for name, _ in extracted)
    shape = ", ".join(f'"{name}": "{SQL_TYPES[kind]}"' for name, kind in extracted)
    values = [f"{_value(field)} as f{number}" for number, field in enumerate(fields)]
    fits = [f"({_fits(number, field)})" for number, field in enumerate(fields)]
    if route_field is not None:
        number = [name for name, _ in extracted].index(route_field)
        values.append(f'found."{route_field}" as route')
        fits.append(f"coalesce(kinds[{number + 1}], 'NULL') in ('VARCHAR', 'NULL')")
    # A flat object ends with its first closing brace. Materialized, as a condition that were pushed down would ask for the fields of texts
    # that are no JSON, which is an error.
    return f"""
        with plain as materialized (
            select place, text from (select place, try(decode(payload)) as text from records)
            where text[1] = '{{' and instr(text, '}}') = length(text) and text[-2] not in (',', ' ', chr(9), chr(10), chr(13))
                and not contains(text, '[') and json_valid(text)
                and case when contains(text, '\\u') then not regexp_matches(text, $odd) else true end
        ),
        read as (
            select
                place,
                array_to_string(json_keys(text), chr({ord(SEPARATOR)})) as shape,
                json_type(text, [{paths}]) as kinds,
                json_transform(text, '{{{shape}}}') as found
            from plain
        ),
        valued as materialized (select place, shape, kinds, {", ".join(values)} from read)
        select * exclude (kinds) from valued where {" and ".join(fits)}
    """  # noqa: S608 (made of the contract's names, which SAFE_NAME holds against)


def _value(field: Field) -> str:
    """The value of a field; of a time the microseconds since 1970 (DuckDB's own times need its time zones)."""
    column = f'found."{field.name}"'
    if field.type != "timestamp":
        return column
    return f"case when regexp_full_match({column}, $instant) then epoch_us(try_cast({column} as timestamptz)) end"


def _fits(number: int, field: Field) -> str:
    """Whether a field is absent, null, or of its type with a value that was read."""
    kinds = ", ".join(f"'{kind}'" for kind in JSON_TYPES[field.type])
    read = f"isfinite(f{number})" if field.type == "number" else f"f{number} is not null"
    return f"coalesce(kinds[{number + 1}], 'NULL') = 'NULL' or (kinds[{number + 1}] in ({kinds}) and {read})"
