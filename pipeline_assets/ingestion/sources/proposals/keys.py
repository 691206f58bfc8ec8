"""Which fields are the key of a source that does not say so: the first ones that no two rows of the sample have in common."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from pipeline_assets.ingestion.sources.proposals.samples import Column
from pipeline_assets.ingestion.sources.proposals.times import Times

IDENTIFIER = re.compile(r"(?:.*_)?(?:id|ids|key|uuid|guid|code|no|nr|num|number|name|sku|isbn|email)")
# Of so many columns at most so many together are tried.
TRIED, TOGETHER = 8, 3
LONGEST_KEY = 100


@dataclass(frozen=True, kw_only=True)
class Key:
    """The fields of a key, and why they are."""

    fields: tuple[str, ...]
    why: str


def guessed_key(columns: Sequence[Column], times: Times | None, rows: int) -> Key:
    """The key of a sample: one field, else several, else one whose rows are versions, else all that is never null."""
    able = sorted((column for column in columns if _is_able(column)), key=_preference)
    for found in _candidates(able, times):
        if _is_unique(found):
            in_order = [column for column in columns if any(column is one for one in found)]
            return Key(fields=_names(in_order), why=f"no two of {rows:,} rows have it in common" if rows else "no row was seen")
    known = next((column for column in columns if times is not None and column.name == times.known_at), None)
    for column in able:
        if known is not None and IDENTIFIER.fullmatch(column.name) and _is_unique((column, known)):
            return Key(fields=(column.name,), why=f"rows that have it in common are versions of one, by {known.name}")
    whole = [column for column in columns if column.type is not None and not column.nulls]
    return Key(fields=_names(whole or columns[:1]), why=f"no few fields tell {rows:,} rows apart")


def _candidates(able: Sequence[Column], times: Times | None) -> Iterator[Sequence[Column]]:
    """The fields that may be the key, in the order in which they are tried.

    Numbers that are no identifiers are often different without meaning to, and so are times: one that is goes with what happened to.
    """
    telling = [column for column in able if column.type == "string" or (column.is_whole and IDENTIFIER.fullmatch(column.name))]
    events = [column for column in able if times is not None and column.name == times.event_at]
    yield from ([column] for column in telling)
    if events and _is_unique(events):
        yield [*telling[:1], *events]
    yield from ([column] for column in able if column.is_whole)
    changing = {times.known_at} if times is not None and times.is_changed else set[str]()
    tried = [column for column in able if (column.type != "timestamp" or column in events) and column.name not in changing][:TRIED]
    for count in range(2, TOGETHER + 1):
        yield from combinations(tried, count)


def _is_able(column: Column) -> bool:
    """Whether a column may be of a key: whole numbers, short texts and times that are never null."""
    if not (column.is_whole or column.type in {"string", "timestamp"}) or column.nulls:
        return False
    return column.type != "string" or all(len(value) <= LONGEST_KEY for value in column.values)


def _preference(column: Column) -> tuple[bool, ...]:
    """What may never be null comes first, then identifiers, then times, as the second field of a key is most often one; then the rest."""
    return (column.required is False, column.name != "id", not IDENTIFIER.fullmatch(column.name), column.type != "timestamp")


def _is_unique(columns: Sequence[Column]) -> bool:
    rows = list(zip(*(column.values for column in columns), strict=True))
    return len(set(rows)) == len(rows)


def _names(columns: Sequence[Column]) -> tuple[str, ...]:
    return tuple(column.name for column in columns)
