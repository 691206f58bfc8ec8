"""Entity keys as small integers within one bucket, and the bucket of a key."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.processing.features.columns import Ints, text_or_whole

NO_KEY = -1
SEPARATOR = b"\x1f"


def key_codes(requests: pa.Table, events: pa.Table, keys: Sequence[str], events_name: str) -> tuple[Ints, Ints, int]:
    """Codes of the requests, codes of the events, and how many codes there may be.

    Equal keys have equal codes from 0 upwards; NO_KEY stands for a key with a null part, and for an event whose key is in no request.
    Raises TableMismatch where a key column is missing or is neither text nor whole numbers, or differs in type between the tables.
    """
    asked, found, size = _part_codes(requests, events, keys[0], events_name)
    for key in keys[1:]:
        our_part, their_part, parts = _part_codes(requests, events, key, events_name)
        asked, found, size = _combined(asked, our_part, parts), _combined(found, their_part, parts), size * parts
        if size > len(asked):
            asked, found, size = _densify(asked, found)
    return asked, found, size


def key_columns(requests: pa.Table, events: pa.Table, key: str, events_name: str) -> tuple[pa.Array, pa.Array]:
    """One key column of both tables in one type; raises TableMismatch where they differ (a column of nothing but nulls fits any)."""
    ours, theirs = text_or_whole(requests, "requests", key), text_or_whole(events, events_name, key)
    if ours.type == theirs.type:
        return ours, theirs
    if ours.null_count < len(ours) and theirs.null_count < len(theirs):
        raise TableMismatch(events_name, f"has {theirs.type} in key column '{key}', the requests have {ours.type}", events.column_names)
    return ours, pa.nulls(len(theirs), ours.type)


def bucket_of(table: pa.Table, name: str, keys: Sequence[str], buckets: int) -> Ints:
    """The bucket of each row: crc32 of the UTF-8 texts of its key columns, joined by U+001F, modulo `buckets`.

    A null counts as empty text; such a key matches nothing anyway.
    """
    parts = [pc.cast(text_or_whole(table, name, key), pa.string()).fill_null("").dictionary_encode() for key in keys]
    code = np.zeros(table.num_rows, np.int64)
    for part in parts:
        code = code * max(len(part.dictionary), 1) + part.indices.to_numpy(zero_copy_only=False)
        code = np.unique(code, return_inverse=True)[1] if len(parts) > 1 else code
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    texts = zip(*[part.dictionary.take(part.indices.take(pa.array(first))).to_pylist() for part in parts], strict=True)
    sums = [crc32(SEPARATOR.join(text.encode() for text in row)) % buckets for row in texts]
    return np.array(sums, np.int64)[inverse]


def _part_codes(requests: pa.Table, events: pa.Table, key: str, events_name: str) -> tuple[Ints, Ints, int]:
    """The codes of one key column in both tables, and how many there may be."""
    ours, theirs = key_columns(requests, events, key, events_name)
    distinct = ours.unique().drop_null()
    return _places(ours, distinct), _places(theirs, distinct), max(len(distinct), 1)


def _places(values: pa.Array, distinct: pa.Array) -> Ints:
    places: Ints = pc.index_in(values, value_set=distinct).fill_null(NO_KEY).to_numpy(zero_copy_only=False).astype(np.int64)
    return places


def _combined(code: Ints, part: Ints, parts: int) -> Ints:
    """The code of the key with one more part; NO_KEY where either is unknown."""
    return np.where((code != NO_KEY) & (part != NO_KEY), code * parts + part, NO_KEY)


def _densify(asked: Ints, found: Ints) -> tuple[Ints, Ints, int]:
    """The same codes without gaps, so that products of many key columns stay small."""
    used = np.unique(asked[asked != NO_KEY])
    if len(used) == 0:
        return np.full_like(asked, NO_KEY), np.full_like(found, NO_KEY), 1
    return _find(asked, used), _find(found, used), len(used)


def _find(code: Ints, used: Ints) -> Ints:
    place = np.minimum(np.searchsorted(used, code), len(used) - 1)
    return np.where(used[place] == code, place, NO_KEY)
