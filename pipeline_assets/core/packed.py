"""Pages on the object store: packed by gzip, and those of earlier versions as they are."""

from gzip import decompress

# How bytes begin that gzip wrote.
GZIP = b"\x1f\x8b"


def is_packed(content: bytes) -> bool:
    """Whether gzip wrote it."""
    return content.startswith(GZIP)


def unpacked(content: bytes) -> bytes:
    """The page in what is stored."""
    return decompress(content) if is_packed(content) else content
