"""Small files of the lake that this process has read or written lately: files never change, so they are not fetched and decoded again.

The views of a run read the same observations and events, and its vectors the features that were written right before.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

import pyarrow as pa

# The events, observations and seven feature tables of five months of 1,000 decisions a day, and then some.
MOST_BYTES = 160 << 20
# A column of a file by its name, as a type.
Column = tuple[str, pa.DataType]


@dataclass(kw_only=True)
class Held:
    """What is held of a file: its bytes, where it was read, and its columns as far as they were asked for; `nbytes` are those of all."""

    content: pa.Buffer | None = None
    columns: dict[Column, pa.ChunkedArray] = field(default_factory=dict)
    nbytes: int = 0


class Recent:
    """What is held of files, by path; of the file that was asked for last the longest. Any number of threads may use it."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes, self._lock = most_bytes, 0, Lock()
        self._files: OrderedDict[str, Held] = OrderedDict()

    def of(self, path: str) -> Held:
        """What is held of a file; nothing of one that is not known."""
        with self._lock:
            held = self._files.get(path)
            if held is None:
                return Held()
            self._files.move_to_end(path)
            return Held(content=held.content, columns=dict(held.columns), nbytes=held.nbytes)

    def hold(self, path: str, columns: Mapping[Column, pa.ChunkedArray], content: pa.Buffer | None = None) -> None:
        """Holds more of a file, and lets go of the files that were asked for the longest ago where it is too much."""
        with self._lock:
            held = self._files.setdefault(path, Held())
            replaced = [held.columns[name] for name in columns if name in held.columns]
            added = sum(int(column.nbytes) for column in columns.values()) - sum(int(column.nbytes) for column in replaced)
            held.columns.update(columns)
            if content is not None:
                added += int(content.size) - (0 if held.content is None else int(held.content.size))
                held.content = content
            held.nbytes += added
            self._bytes += added
            self._files.move_to_end(path)
            while self._bytes > self._most:
                _, gone = self._files.popitem(last=False)
                self._bytes -= gone.nbytes


RECENT = Recent(MOST_BYTES)
