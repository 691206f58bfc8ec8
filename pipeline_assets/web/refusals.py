"""Refusals in the audit log, bounded: anybody can have the guard refuse as often as they like, and nobody is to fill a disk by that.

Of a kind (status, network of the client, caller, what would have changed) the first is written at once. Those of the next minute are
counted, and then written as one line: that of the last, with how many they were (`times`).
"""

import asyncio
from dataclasses import dataclass

from pipeline_assets.serving.realtime.access.audit import Asked, write_audit
from pipeline_assets.serving.realtime.access.buckets import network_of
from pipeline_assets.serving.realtime.access.callers import Caller
from pipeline_assets.serving.realtime.access.problems import Refusal

SECONDS, MOST_KINDS = 60.0, 1_000
# In place of the client once there are so many kinds.
OTHERS = "others"
Kind = tuple[int, str, str, tuple[str, ...]]


@dataclass(kw_only=True)
class Counted:
    """The refusals of a kind since its last line: how many, the last of them, and what ends the minute."""

    timer: asyncio.TimerHandle
    times: int = 0
    last: tuple[Asked, Caller | None, Refusal] | None = None


class Refusals:
    """Writes refusals, of an event loop alone."""

    def __init__(self, *, seconds: float = SECONDS, most: int = MOST_KINDS) -> None:
        self._seconds, self._most, self._counted = seconds, most, dict[Kind, Counted]()

    def write(self, asked: Asked, caller: Caller | None, refusal: Refusal) -> None:
        """Writes or counts one."""
        kind = self._kind(asked, caller, refusal)
        counted = self._counted.get(kind)
        if counted is None:
            write_audit(asked, caller, refusal.status, refusal.detail)
            self._begin(kind)
        else:
            counted.times, counted.last = counted.times + 1, (asked, caller, refusal)

    def end(self) -> None:
        """Writes what was only counted so far."""
        for counted in self._counted.values():
            counted.timer.cancel()
            _write(counted)
        self._counted.clear()

    def _kind(self, asked: Asked, caller: Caller | None, refusal: Refusal) -> Kind:
        name = "" if caller is None else caller.id
        kind = (int(refusal.status), network_of(asked.address), name, asked.changes)
        return kind if kind in self._counted or len(self._counted) < self._most else (int(refusal.status), OTHERS, "", ())

    def _begin(self, kind: Kind) -> None:
        self._counted[kind] = Counted(timer=asyncio.get_running_loop().call_later(self._seconds, self._end, kind))

    def _end(self, kind: Kind) -> None:
        counted = self._counted.pop(kind)
        if counted.times:
            _write(counted)
            self._begin(kind)


def _write(counted: Counted) -> None:
    if counted.last is not None:
        asked, caller, refusal = counted.last
        write_audit(asked, caller, refusal.status, refusal.detail, times=counted.times)
