"""Metadata of the lake's tables that this process has read lately: its objects never change, so they are not fetched and decoded again.

A step asks for the same snapshot of the same table many times: what it holds, what its days were made from, which files a range has. To
decode a manifest of some hundred files of seventy columns takes as long as to compute their features.
"""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import TypeVar, cast

T = TypeVar("T")
# Entries of manifests and lists, and properties and snapshots of tables: of a file of seventy columns some 12 kB are held.
MOST_ENTRIES = 4_000


class HeldMetadata:
    """Decoded objects by path; of those that were asked for last the longest. Any number of threads may use it."""

    def __init__(self, most_entries: int) -> None:
        self._most, self._entries, self._lock = most_entries, 0, Lock()
        self._objects: OrderedDict[str, tuple[object, int]] = OrderedDict()

    @property
    def entries(self) -> int:
        """How many entries are held; an object counts as one more."""
        return self._entries

    def of(self, path: str, read: Callable[[], T], size: Callable[[T], int]) -> T:
        """What the object at a path holds, read where it is not held yet; `size` says how many entries that are. Nobody changes it."""
        with self._lock:
            if path in self._objects:
                self._objects.move_to_end(path)
                return cast("T", self._objects[path][0])
        found = read()
        with self._lock:
            self._entries += size(found) + 1 - self._objects.pop(path, (None, 0))[1]
            self._objects[path] = found, size(found) + 1
            while self._entries > self._most:
                self._entries -= self._objects.popitem(last=False)[1][1]
        return found


HELD = HeldMetadata(MOST_ENTRIES)
