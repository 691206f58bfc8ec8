"""Spines: tables of entity keys and times that people bring, to look up what was known at each time.

A spine has one row for each question: the keys of every entity that the model's views describe, and `decision_at`. A row may lack a key
(null): then nothing is known of that entity. Any further columns are kept as they are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.core.errors import TableRejected
from pipeline_assets.processing.features.catalogue import feature_columns
from pipeline_assets.processing.features.columns import DECISION_AT, is_text
from pipeline_assets.spec.features import RequestFeature
from pipeline_assets.spec.models import Model

INSTANT = pa.timestamp("us", "UTC")
NOT_NUMBERS = ("nan", "NaN", "inf", "-inf", "+inf", "Inf", "-Inf", "infinity", "-infinity", "Infinity", "-Infinity")
MOST_COLUMNS = 2_000
EXAMPLE = "like 2013-01-31T16:40:00Z"
ZONED = r"\d{2}:\d{2}.*(Z|[+-]\d{2}(:?\d{2})?)$"


def check_table(name: str, table: pa.Table) -> None:
    """Raises TableRejected if `table` has no rows, two columns of one name, or NaN or an infinite value in a column of numbers.

    Before all else if it has more than MOST_COLUMNS columns.
    """
    check_width(name, table.num_columns)
    twice = sorted(column for column, count in Counter(table.column_names).items() if count > 1)
    if twice:
        raise TableRejected(name, f"has more than one column {_quoted(twice)}", "each column once")
    if table.num_rows == 0:
        raise TableRejected(name, "has no rows", "at least one row")
    for field in table.schema:
        if pa.types.is_floating(field.type):
            check_finite(name, field.name, table[field.name])


def check_width(name: str, columns: int) -> None:
    """Raises TableRejected for more columns than a spine may have: each is looked at by itself."""
    if columns > MOST_COLUMNS:
        raise TableRejected(name, f"has {columns:,} columns", f"at most {MOST_COLUMNS:,} (the limit of a spine)")


def check_finite(name: str, column: str, values: pa.ChunkedArray) -> None:
    """Raises TableRejected with the first row that is NaN or infinite: a float, or text that spells one."""
    broken = pc.is_in(values, pa.array(NOT_NUMBERS, values.type)) if is_text(values.type) else pc.invert(pc.is_finite(values))
    if pc.any(broken).as_py():
        row = _first(broken)
        raise TableRejected(name, f"column {column!r} holds {values[row - 1].as_py()} in row {row}", "finite numbers, or null")


def check_requests(name: str, model: Model, spine: pa.Table, kinds: Mapping[str, ColumnKind]) -> pa.Table:
    """The columns of `spine` from which the model's features are computed, typed: entity keys, `decision_at`, columns of the request.

    kinds: those of the columns of the model's observations. `decision_at` and columns of time become UTC in microseconds, dates and
    booleans such, integer keys whole, columns of numbers 64-bit floats; other keys and categories lose a dictionary encoding. Columns of
    the request that the spine lacks are left out (see `left_out`).
    Raises TableRejected as `check_table` does, and if a key or `decision_at` is missing, a decision has no time, a time has no zone, a
    number cannot be read, a key spells NaN, or a column has the name of a feature.
    """
    check_table(name, spine)
    _check_names(name, model, spine.column_names)
    columns = {key: _key(name, key, spine[key], kinds.get(key, "other")) for key in entity_keys(model)}
    for key in (key for key, values in columns.items() if is_text(values.type)):
        check_finite(name, key, columns[key])
    columns[DECISION_AT] = _decisions(name, spine[DECISION_AT])
    for feature in model.request_features:
        # A key that the request takes as it is has the type of a key, which is a number already.
        is_number = feature.column in columns and not feature.values
        if feature.column in spine.column_names and not is_number:
            columns[feature.column] = _request_column(name, feature, spine[feature.column], kinds.get(feature.column, "other"))
    return pa.table(columns)


def check_keys(name: str, requests: pa.Table, events: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The requests with the `keys` in the type that they have in `events`: whole numbers are read from text where needed.

    Raises TableRejected if a key cannot be read so, or is of another kind.
    """
    for key in dict.fromkeys(keys):
        asked, wanted = requests[key], events.schema.field(key).type
        if pa.types.is_integer(wanted) and not pa.types.is_integer(asked.type):
            requests = requests.set_column(requests.column_names.index(key), key, _converted(name, key, asked, wanted, "a whole number"))
        elif is_text(wanted) and not (is_text(asked.type) or pa.types.is_null(asked.type)):
            raise TableRejected(name, f"the key {key!r} is of type {asked.type}", "text")
    return requests


def entity_keys(model: Model) -> tuple[str, ...]:
    """The key columns of all entities that the model's views describe, each once, in the order of the views."""
    return tuple(dict.fromkeys(key for view in model.views for key in view.entity.keys))


def left_out(model: Model, columns: Sequence[str]) -> tuple[RequestFeature, ...]:
    """The request features that a spine with `columns` says nothing about, and that have no default: they are not computed."""
    return tuple(feature for feature in model.request_features if feature.column not in columns and feature.default is None)


def _check_names(name: str, model: Model, columns: Sequence[str]) -> None:
    keys = entity_keys(model)
    missing = [column for column in (*keys, DECISION_AT) if column not in columns]
    if missing:
        expected = f"the entity keys {_quoted(keys)} and {DECISION_AT!r}; it has {_quoted(columns)}"
        raise TableRejected(name, f"lacks {_quoted(missing)}", expected)
    taken = [feature.name for feature in feature_columns(model) if feature.name in columns]
    if taken:
        raise TableRejected(name, f"has columns with the names of features: {_quoted(taken)}", "other names")


def _decisions(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    decided = _instants(name, DECISION_AT, values)
    if decided.null_count:
        raise TableRejected(name, f"column {DECISION_AT!r} is empty in row {_first(pc.is_null(decided))}", "a time in every row")
    return decided


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _key(name: str, key: str, values: pa.ChunkedArray, kind: ColumnKind) -> pa.ChunkedArray:
    return _converted(name, key, values, pa.int64(), "a whole number") if kind == "integer" else _plain(values)


def _request_column(name: str, feature: RequestFeature, values: pa.ChunkedArray, kind: ColumnKind) -> pa.ChunkedArray:
    if feature.transform != "value" or kind == "timestamp":
        return _instants(name, feature.column, values)
    if feature.values:
        return _text(name, feature.column, values)
    if kind == "date":
        return _converted(name, feature.column, values, pa.date32(), "dates like 2013-01-31")
    if kind == "boolean":
        return _converted(name, feature.column, values, pa.bool_(), "true or false")
    numbers = _converted(name, feature.column, values, pa.float64(), "a number")
    check_finite(name, feature.column, numbers)
    return numbers


def _text(name: str, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    plain = _plain(values)
    if not (is_text(plain.type) or pa.types.is_null(plain.type)):
        raise TableRejected(name, f"column {column!r} is of type {plain.type}", "text")
    return plain.cast(pa.string())


def _instants(name: str, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times in UTC; text must be ISO 8601 with a zone, timestamps must have one. Below a microsecond is cut off."""
    plain = _plain(values)
    if pa.types.is_null(plain.type):
        return plain.cast(INSTANT)
    if pa.types.is_timestamp(plain.type):
        if plain.type.tz is None:
            raise TableRejected(name, f"the times in column {column!r} are naive", "times with a zone, such as UTC")
        return plain.cast(INSTANT, safe=False)
    if not is_text(plain.type):
        raise TableRejected(name, f"column {column!r} is of type {plain.type}", f"times with a zone, {EXAMPLE}")
    naive = pc.invert(pc.match_substring_regex(plain, ZONED))
    if pc.any(naive).as_py():
        row = _first(naive)
        problem = f"column {column!r} holds {plain[row - 1].as_py()!r} in row {row}, which is no time with a zone"
        raise TableRejected(name, problem, f"times with a zone, {EXAMPLE}")
    return _converted(name, column, plain, INSTANT, f"times {EXAMPLE}")


def _converted(name: str, column: str, values: pa.ChunkedArray, to: pa.DataType, expected: str) -> pa.ChunkedArray:
    plain = _plain(values)
    try:
        return plain.cast(to)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        row = next((row for row in range(1, len(plain) + 1) if not _can_cast(plain[row - 1], to)), 1)
        raise TableRejected(name, f"column {column!r} holds {plain[row - 1].as_py()!r} in row {row}", expected) from error


def _can_cast(value: pa.Scalar, to: pa.DataType) -> bool:
    try:
        value.cast(to)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _first(is_so: pa.ChunkedArray) -> int:
    """The first row, counted from 1, where `is_so` is true."""
    return int(pc.index(is_so, True).as_py()) + 1


def _quoted(columns: Sequence[str]) -> str:
    return ", ".join(repr(column) for column in columns)
