"""Foreign text – values, names, headers, answers of servers – as it may stand in a terminal, a log, an error and a page.

What is printed as it came may move the cursor, hide or rewrite what stands before it (ESC, CR, NUL, signs that turn the direction of
writing), or look like a line of its own. JSON needs none of this: it escapes all but ASCII.
"""

import logging
import re
from collections.abc import Iterable
from traceback import format_exception
from typing import Any

LONGEST, LONGEST_SENTENCE, LONGEST_TEXT = 200, 1_000, 20_000
# No letters, but of some scripts' words and sentences; they change nothing of what stands around them.
HARMLESS = frozenset("\u200c\u200d\u00a0\u2009\u202f\u3000")
LINES = frozenset("\n\t")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HIDDEN = "***"
# Shorter ones are found in ordinary words; a secret is longer.
SHORTEST_SECRET = 6
# Each begins with what is looked for, so that no text is gone through more than once, whatever is in it.
NAMED_SECRET = re.compile(
    r"""(?ix)
        ( (?: passw(?:or)?d | secret | token | (?: api | access ) [_-]? key | authorization | credential ) [\w.-]{0,64} ["']?
          \s* [:=] \s* )
        (?: "[^"]*"? | '[^']*'? | (?: (?: bearer | basic ) \s+ )? [^\s"',;&})]+ )""",
)
OF_URL = re.compile(r"(://[^\s/:@]*:)[^\s/@]+@")
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+(?=[a-z]*[\d._~+/=-])[\w.~+/=-]{6,}")


class SaidError(Exception):
    """An error whose message steers no terminal, whatever foreign text is in it; its own lines stay."""

    def __init__(self, *facts: object) -> None:
        super().__init__(*(shown_lines(fact) if isinstance(fact, str) else fact for fact in facts))


def shown(text: object, longest: int = LONGEST) -> str:
    """A foreign text as a part of one line: signs that are no letters are escaped, and only the first `longest` are there."""
    return _cut(str(text), longest, frozenset())


def shown_lines(text: object, longest: int = LONGEST_TEXT) -> str:
    """The same of a text whose own lines and tabs stay; colours are left out."""
    return _cut(COLOUR.sub("", str(text)), longest, LINES)


def in_page(text: object, longest: int = LONGEST) -> str:
    """The same for a page, a diagram or a table that somebody else's code makes: without the signs that begin and end a tag."""
    return shown(text, longest).translate({ord("<"): "‹", ord(">"): "›"})


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """A text of a server without the secrets that it was sent, and without what it calls a secret itself; of a long one the beginning."""
    # A secret that is cut would no longer be found, so more is looked at than is left.
    text = text[: 2 * LONGEST_TEXT]
    for secret in sorted((one for one in secrets if len(one) >= SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return OF_URL.sub(rf"\1{HIDDEN}@", BEARER.sub(rf"\1 {HIDDEN}", NAMED_SECRET.sub(rf"\1{HIDDEN}", text)))[:LONGEST_TEXT]


class SafeRecord(logging.LogRecord):
    """A record of a log whose message and trace steer no terminal; no line of theirs begins where a record begins."""

    def __init__(self, *facts: Any, **named: Any) -> None:
        super().__init__(*facts, **named)
        if self.exc_info is not None and self.exc_info[0] is not None:
            self.exc_text = "  " + _indented("".join(format_exception(*self.exc_info)).rstrip())

    def getMessage(self) -> str:  # noqa: N802 - the name is the library's
        """The message, escaped."""
        return _indented(super().getMessage())


def log_safely() -> None:
    """Has every logger of this process escape what it writes."""
    logging.setLogRecordFactory(SafeRecord)


def _indented(text: str) -> str:
    return shown_lines(text).replace("\n", "\n  ")


def _cut(text: str, longest: int, kept: frozenset[str]) -> str:
    first = text if len(text) <= longest else text[:longest]
    safe = first if first.isprintable() else "".join(_written(sign, kept) for sign in first)
    return safe if first is text else f"{safe}… ({len(text):,} characters)"


def _written(sign: str, kept: frozenset[str]) -> str:
    return sign if sign.isprintable() or sign in kept or sign in HARMLESS else sign.encode("unicode_escape").decode("ascii")
