"""The trace that a request belongs to, by the header `traceparent` of W3C Trace Context."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random, SystemRandom

# Later versions may have more after the flags; "ff" is none.
TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
FIRST_VERSION = b"00"
NO_TRACE, NO_SPAN = b"0" * 32, b"0" * 16
SAMPLED = 1
# Of the ids of traces, which are no secrets: a seed of the system, without a call of it for each.
CHANCE = Random(SystemRandom().getrandbits(256))  # noqa: S311


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A trace: its id, the span of the caller, and whether the caller records it; these are None where no caller said.

    header: what the caller sent, to be passed on, as far as this version of the standard knows it.
    """

    trace_id: str
    parent_id: str | None = None
    is_sampled: bool | None = None
    header: bytes | None = None


def trace_of(headers: Mapping[bytes, bytes]) -> Trace:
    """The trace that a request names, a new one where it names none or one that cannot be."""
    header = headers.get(b"traceparent", b"").strip()
    found = TRACEPARENT.fullmatch(header)
    if found is None or found[2] == NO_TRACE or found[3] == NO_SPAN or (found[1] == FIRST_VERSION and found[5] is not None):
        return Trace(trace_id=f"{CHANCE.getrandbits(128):032x}")
    known = b"-".join((FIRST_VERSION, found[2], found[3], found[4]))
    return Trace(trace_id=found[2].decode(), parent_id=found[3].decode(), is_sampled=bool(int(found[4], 16) & SAMPLED), header=known)


def header_of(trace_id: int, span_id: int) -> bytes:
    """What is passed on of a span that is recorded."""
    return b"00-%032x-%016x-01" % (trace_id, span_id)
