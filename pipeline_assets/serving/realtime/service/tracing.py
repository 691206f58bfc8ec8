"""W3C trace context: the trace that a request belongs to, taken from its `traceparent` or begun."""

import re
import secrets
from collections.abc import Mapping

PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def trace_of(headers: Mapping[str, str]) -> str:
    """The id of the trace (32 hexadecimal digits); a `traceparent` that is none of version 00 or later begins another."""
    found = PARENT.fullmatch(headers.get("traceparent", "")[:200])
    return secrets.token_hex(16) if found is None else found[1]
