"""What stands before a record that was written with a schema registry, in Confluent's wire format.

That is a zero, the id of its schema, and in Protobuf the place of its message in the schema.
"""

from pipeline_assets.ingestion.sources.json_objects import Fault

FRAME_BYTES = 5
# A message stands within at most so many others: the compiler of Protobuf takes no more.
MOST_INDEXES = 64
# A varint of 32 bits has seven of them in each byte.
VARINT_BYTES, INT32_BITS = 5, 32
# The place that is written as a single zero.
FIRST_MESSAGE = (0,)


def schema_id(payload: bytes) -> int:
    """The id in a frame: four bytes after a zero."""
    if len(payload) < FRAME_BYTES or payload[0]:
        raise Fault("no schema id")
    return int.from_bytes(payload[1:FRAME_BYTES])


def message_place(payload: bytes) -> tuple[tuple[int, ...], int]:
    """The place of a framed message among those of its schema, and where the message begins; raises Fault where there is no such place."""
    count, start = _varint(payload, FRAME_BYTES)
    if not count:
        return FIRST_MESSAGE, start
    if not 0 < count <= MOST_INDEXES:
        raise Fault("not this Protobuf message")
    place = []
    for _ in range(count):
        index, start = _varint(payload, start)
        place.append(index)
    return tuple(place), start


def _varint(payload: bytes, start: int) -> tuple[int, int]:
    """A number of 32 bits (zigzag), and where it ends."""
    found = 0
    for position, byte in enumerate(payload[start : start + VARINT_BYTES]):
        found |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            if found >> INT32_BITS:
                break
            return (found >> 1) ^ -(found & 1), start + position + 1
    raise Fault("not this Protobuf message")
