"""Python text of declarations, laid out as `ruff format` lays it out; whatever a name or a value has in it, it stays one value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import timedelta
from typing import Any
from unicodedata import category, east_asian_width

LINE = 140
INDENT = 4
UNITS = {"days": timedelta(days=1), "hours": timedelta(hours=1), "minutes": timedelta(minutes=1), "seconds": timedelta(seconds=1)}


@dataclass(frozen=True, kw_only=True)
class Noted:
    """A value with comments above it."""

    value: Any
    comments: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call with arguments by name."""

    name: str
    arguments: Sequence[tuple[str, Any]]


def call_of(declared: Any, comments: Mapping[str, Sequence[str]] | None = None) -> Call:
    """The call that makes a dataclass, without arguments that are at their default; `comments` stand above the fields they name."""
    noted = comments or {}
    given = [(one.name, getattr(declared, one.name), one.default) for one in fields(declared)]
    kept = [(name, value) for name, value, default in given if default is MISSING or value != default]
    return Call(
        name=type(declared).__name__,
        arguments=[(name, Noted(value=value, comments=noted[name]) if noted.get(name) else value) for name, value in kept],
    )


def assignment(name: str, value: Any) -> str:
    """The lines that give a value a name."""
    return "\n".join(_lines(value, f"{name} = ", "", 0))


def comment(text: str, indent: int = 0) -> str:
    """One line of comment, cut off where it is too long."""
    line = " " * indent + "# " + "".join(sign if sign.isprintable() else _escaped(sign) for sign in text[: LINE + 1])
    if max(len(line), _width(line)) <= LINE:
        return line
    line = line[: LINE - 1]
    while _width(line) >= LINE:
        line = line[:-1]
    return f"{line.rstrip()}…"


def text(value: str) -> str:
    """A text as Python writes it, in the quotes that need fewer escapes."""
    body = "".join("\\\\" if sign == "\\" else sign if sign.isprintable() else _escaped(sign) for sign in value)
    quote = "'" if body.count('"') > body.count("'") else '"'
    return quote + body.replace(quote, f"\\{quote}") + quote


def names_in(value: Any) -> Iterator[str]:
    """The names of all that is called in a value."""
    if isinstance(value, Noted):
        yield from names_in(value.value)
    elif isinstance(value, Call):
        yield value.name
        for _, argument in value.arguments:
            yield from names_in(argument)
    elif isinstance(value, tuple):
        for part in value:
            yield from names_in(part)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from names_in(call_of(value))
    elif isinstance(value, timedelta):
        yield "timedelta"


def _lines(value: Any, before: str, after: str, indent: int) -> list[str]:
    """A value between two texts, in one line if it has no comments and fits, else part by part."""
    if isinstance(value, Noted):
        return [*(comment(line, indent) for line in value.comments), *_lines(value.value, before, after, indent)]
    if is_dataclass(value) and not isinstance(value, Call | type):
        return _lines(call_of(value), before, after, indent)
    line = None if _has_comments(value) else f"{' ' * indent}{before}{_flat(value)}{after}"
    if line is not None and (_fits(value, line) or not isinstance(value, Call | tuple | str)):
        return [line]
    if isinstance(value, str):
        return _pieces(value, before, after, indent)
    opening, parts = _parts(value)
    inner = [line for prefix, part in parts for line in _lines(part, prefix, ",", indent + INDENT)]
    return [f"{' ' * indent}{before}{opening}(", *inner, f"{' ' * indent}){after}"]


def _parts(value: Call | tuple[Any, ...]) -> tuple[str, list[tuple[str, Any]]]:
    if isinstance(value, Call):
        return value.name, [(f"{name}=", argument) for name, argument in value.arguments]
    return "", [("", part) for part in value]


def _pieces(value: str, before: str, after: str, indent: int) -> list[str]:
    """A long text as several that follow each other, one a line."""
    room = LINE - indent - INDENT - len('""')
    pieces, piece = list[str](), ""
    for word in value.split(" "):
        longer = f"{piece}{word} "
        if piece and _width(text(longer)) > room:
            pieces.append(piece)
            longer = f"{word} "
        piece = longer
    pieces.append(piece[:-1])
    if len(pieces) == 1:
        return [f"{' ' * indent}{before}{text(value)}{after}"]
    return [f"{' ' * indent}{before}(", *(f"{' ' * (indent + INDENT)}{text(each)}" for each in pieces if each), f"{' ' * indent}){after}"]


def _flat(value: Any) -> str:
    if isinstance(value, Call):
        return f"{value.name}({', '.join(f'{name}={_flat(argument)}' for name, argument in value.arguments)})"
    if isinstance(value, str):
        return text(value)
    if isinstance(value, timedelta):
        return _length(value)
    if isinstance(value, tuple):
        parts = [_flat(part) for part in value]
        return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    return _flat(call_of(value)) if is_dataclass(value) else repr(value)


def _length(value: timedelta) -> str:
    """A length of time in the largest unit that divides it."""
    for unit, size in UNITS.items():
        if value and value % size == timedelta(0):
            return f"timedelta({unit}={value // size})"
    return f"timedelta(seconds={value.total_seconds()})" if value else "timedelta(0)"


def _has_comments(value: Any) -> bool:
    if isinstance(value, Call):
        return any(_has_comments(argument) for _, argument in value.arguments)
    return isinstance(value, Noted) or (isinstance(value, tuple) and any(map(_has_comments, value)))


def _escaped(sign: str) -> str:
    return repr(sign)[1:-1]


def _fits(value: Any, line: str) -> bool:
    """Whether a value stands in one line: where the width of a sign is not certain, in the way that the formatter leaves as it is."""
    is_left_in_parts = isinstance(value, Call) or (isinstance(value, tuple) and len(value) > 1)
    return (sum(1 if sign.isascii() else 2 for sign in line) if is_left_in_parts else _width(line)) <= LINE


def _width(line: str) -> int:
    return sum(0 if category(sign) in {"Mn", "Me"} else 2 if east_asian_width(sign) in "WF" else 1 for sign in line)
