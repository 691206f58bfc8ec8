"""Pages of JSON: the records of one as the bytes that they came in, and the cursor of the next.

What is wrong with one record breaks that record, when it is read: a number of any length, bytes that are no text, control characters, too
many brackets. The page is refused where it is not certain where a record ends.
"""

import json
from dataclasses import dataclass

from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.core.http_errors import said
from pipeline_assets.ingestion.sources.json_objects import end_of_value

CURSOR = "next_cursor"
# Bytes that are not UTF-8 come back as they were, so that only the record they stand in is broken.
KEEP_BYTES = "surrogateescape"
BYTE_ORDER_MARK = "\ufeff"
# Numbers stay the text that they are: Python makes no integer of more than 4,300 digits, and a cursor may be one.
RECORDS = json.JSONDecoder(parse_int=str, parse_float=str, strict=False)
# Of which Python's parser itself makes an error, before it takes memory.
DEEPEST = 1_000


@dataclass(frozen=True, kw_only=True)
class Page:
    """The records of one answer as the bytes they came in, and the cursor of the next page; None on the last."""

    records: list[bytes]
    next_cursor: str | None


def read_page(source: str, content: bytes, records: str, cursor: str | None = CURSOR, error: str | None = None) -> Page:
    """The page that an answer holds, its records and its cursor at these places in it (names with dots between them).

    A list that is null is an empty one, unless the page reports an error. A cursor is a text or a number, as it was written; null, an empty
    text and none at all end the pages. Raises SourceRefused for an answer without one list of records, with two members of one name beside
    them, or with an error.
    """
    text = content.decode(errors=KEEP_BYTES).removeprefix(BYTE_ORDER_MARK)
    try:
        found = _answer(text, records.split(".") if records else [])
    except RecursionError as problem:
        raise SourceRefused(source, f"its answer is nested deeper than {DEEPEST:,} levels, the limit of JSON here") from problem
    except ValueError as problem:
        raise SourceRefused(source, f"it answered no page of JSON ({problem}): {said(text)}") from problem
    reported = _at(found, error) if error is not None else None
    if reported:
        raise SourceRefused(source, f"it reports an error: {said(str(reported))}")
    rows = _at(found, records, ...)
    if rows is None and not any(_at(found, name) for name in ("error", "errors")):
        rows = []
    if not isinstance(rows, list):
        raise SourceRefused(source, f"its page has no list '{records}': {said(text)}")
    return Page(records=rows, next_cursor=None if cursor is None else _cursor(source, cursor, _at(found, cursor)))


def _at(found: object, path: str, absent: object = None) -> object:
    """What stands at a place, or what `absent` is; null where a member on the way is null."""
    for name in path.split(".") if path else ():
        if found is None:
            return None
        if not isinstance(found, dict) or name not in found:
            return absent
        found = found[name]
    return found


def _cursor(source: str, name: str, found: object) -> str | None:
    if found is None or isinstance(found, str):
        if found and found.encode(errors="replace").decode() != found:
            raise SourceRefused(source, f"its page has a {name} with characters that are none")
        return found or None
    raise SourceRefused(source, f"its page has a {name} that is neither a text nor a number")


def _answer(text: str, path: list[str]) -> object:
    """What an answer says, with each element of the list at `path` as the bytes it was written in."""
    start = _blank(text, 0)
    found, end = _value(text, start, path)
    if _blank(text, end) != len(text):
        raise ValueError(f"more text at character {end}")
    return found


def _value(text: str, place: int, path: list[str] | None) -> tuple[object, int]:
    """The value at `place` and the place after it; `path` leads from it to the records, None where it does not."""
    first = text[place : place + 1]
    if path == [] and first == "[":
        return _elements(text, place)
    if path and first == "{":
        return _members(text, place, path)
    return DECODER.raw_decode(text, place)


def _members(text: str, place: int, path: list[str]) -> tuple[dict[str, object], int]:
    """The members of the object at `place`, on the way to the records, and the place after it."""
    found: dict[str, object] = {}
    place = _expect(text, place, "{")
    while text[place : place + 1] != "}":
        is_named = text[place : place + 1] == '"'
        name, place = DECODER.raw_decode(text, place)
        if not is_named or name in found:
            raise ValueError(f"a member that is named twice or by no text before character {place}")
        place = _expect(text, place, ":")
        found[name], place = _value(text, place, path[1:] if name == path[0] else None)
        place = _next(text, place, "}")
    return found, place + 1


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("two members of one name")
    return found


def _elements(text: str, place: int) -> tuple[list[bytes], int]:
    """The elements of the list that starts at `place`, and the place after it."""
    elements: list[bytes] = []
    place = _expect(text, place, "[")
    while text[place : place + 1] != "]":
        end = _end(text, place)
        elements.append(text[place:end].encode(errors=KEEP_BYTES))
        place = _next(text, end, "]")
    return elements, place + 1


def _end(text: str, place: int) -> int:
    """The place after the value that begins at `place`."""
    try:
        return RECORDS.raw_decode(text, place)[1]
    except RecursionError:
        end = end_of_value(text, place)
        if end is None:
            raise
        return end


# Beside the records two members of one name are two answers; which of a record's counts is found when it is read.
DECODER = json.JSONDecoder(parse_int=str, parse_float=str, strict=False, object_pairs_hook=_distinct)


def _next(text: str, place: int, end: str) -> int:
    """The place of the next element, or of `end`."""
    place = _blank(text, place)
    if text[place : place + 1] == end:
        return place
    place = _expect(text, place, ",")
    if text[place : place + 1] == end:
        raise ValueError(f"a comma too many before character {place}")
    return place


def _expect(text: str, place: int, character: str) -> int:
    place = _blank(text, place)
    if text[place : place + 1] != character:
        raise ValueError(f"no '{character}' at character {place}")
    return _blank(text, place + 1)


def _blank(text: str, place: int) -> int:
    while text[place : place + 1] in {" ", "\n", "\r", "\t"}:
        place += 1
    return place
