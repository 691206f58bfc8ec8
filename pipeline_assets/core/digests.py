"""Digests by which a later run sees whether something is as it was."""

from hashlib import sha256


def digest_of(facts: object) -> str:
    """The SHA-256 of facts as Python writes them, in 64 digits: declarations, or tuples and lists of plain values."""
    return sha256(repr(facts).encode()).hexdigest()
