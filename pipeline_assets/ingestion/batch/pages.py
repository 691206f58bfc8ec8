"""Pages of JSON: the records of one as the bytes that they came in, and the cursor of the next.

What is wrong with one record breaks that record, when it is read: a number of any length, bytes that are no text, control characters, too
many brackets. The page is refused where it is not certain where a record ends.
"""

import json
import re
from dataclasses import dataclass

from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.core.http_errors import shown

CURSOR = "next_cursor"
# Bytes that are not UTF-8 come back as they were, so that only the record they stand in is broken.
KEEP_BYTES = "surrogateescape"
BYTE_ORDER_MARK = "\ufeff"
# Numbers stay the text that they are: Python makes no integer of more than 4,300 digits, and a cursor may be one.
DECODER = json.JSONDecoder(parse_int=str, parse_float=str, strict=False)
# What begins and ends a value that holds others, and texts, which may have such signs in them.
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Page:
    """The records of one answer as the bytes they came in, and the cursor of the next page; None on the last."""

    records: list[bytes]
    next_cursor: str | None


def read_page(source: str, content: bytes, records: str) -> Page:
    """The page that an answer holds; raises SourceRefused if it is not an object with one list of these records and at most one cursor.

    A list that is null is an empty one, unless the page reports an error. A cursor is a text or a number, as it was written; null, an empty
    text and none at all end the pages.
    """
    text = content.decode(errors=KEEP_BYTES).removeprefix(BYTE_ORDER_MARK)
    try:
        found = _members(text, records)
    except (ValueError, RecursionError) as error:
        raise SourceRefused(source, f"it answered no page of JSON ({error}): {shown(text)}") from error
    rows = found.get(records, ...)
    if rows is None and not any(found.get(name) for name in ("error", "errors")):
        rows = []
    if not isinstance(rows, list):
        raise SourceRefused(source, f"its page has no list '{records}': {shown(text)}")
    return Page(records=rows, next_cursor=_cursor(source, found.get(CURSOR)))


def _cursor(source: str, found: object) -> str | None:
    if found is None or isinstance(found, str):
        return found or None
    raise SourceRefused(source, f"its page has a {CURSOR} that is neither a text nor a number")


def _members(text: str, records: str) -> dict[str, object]:
    """The members of a JSON object, with each element of the list `records` as the bytes it was written in; ValueError for a name twice."""
    found: dict[str, object] = {}
    place = _expect(text, 0, "{")
    while text[place : place + 1] != "}":
        is_named = text[place : place + 1] == '"'
        name, place = DECODER.raw_decode(text, place)
        if not is_named or name in found:
            raise ValueError(f"a member that is named twice or by no text before character {place}")
        place = _expect(text, place, ":")
        is_list = name == records and text[place : place + 1] == "["
        found[name], place = _elements(text, place) if is_list else DECODER.raw_decode(text, place)
        place = _next(text, place, "}")
    if _blank(text, place + 1) != len(text):
        raise ValueError(f"more text at character {place + 1}")
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
        return DECODER.raw_decode(text, place)[1]
    except RecursionError:
        depth = 0
        for found in BRACKETS.finditer(text, place):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found.group(), 0)
            if depth == 0:
                return found.end()
        raise


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
