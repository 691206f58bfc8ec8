"""The spool of one worker: made when it is first written, with what dead workers left, and gone when nothing is left in it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline_assets.serving.realtime.log.folders import OwnFolder, left_folders, own_folder
from pipeline_assets.serving.realtime.log.spool import SUFFIX, Record, Segment, Spool

LOG = logging.getLogger(__name__)


@dataclass(kw_only=True)
class WorkerSpool:
    """The spool of this process in a folder of its own below `parent`, for one thread.

    `half_written` counts records that a kill cut off.
    """

    parent: Path
    limit_bytes: int
    segment_bytes: int
    half_written: int = 0
    spool: Spool | None = None
    _own: OwnFolder | None = field(default=None)

    @property
    def is_read(self) -> bool:
        """Whether all that was written has been read."""
        return self.spool is None or self.spool.is_read

    def append(self, records: Sequence[Record]) -> Segment:
        """As `Spool.append`."""
        return self._opened().append(records)

    def read(self, most: int) -> list[tuple[Record, Segment]]:
        """As `Spool.read`."""
        return [] if self.spool is None else self.spool.read(most)

    def take_over(self) -> int:
        """Takes over what dead workers left; how many records. Raises the OSError of the disk."""
        if not self.parent.exists():
            return 0
        before = 0 if self.spool is None else self.spool.records
        for folder in left_folders(self.parent):
            for path in sorted(folder.glob(f"*{SUFFIX}")):
                broken = self._opened().adopt(path)
                if broken:
                    self.half_written += 1
                    LOG.error("%s ends with %d bytes that are no whole record of a prediction; one was lost.", path, broken)
        return 0 if self.spool is None else self.spool.records - before

    def close(self) -> None:
        """Leaves what is not done for the next worker."""
        try:
            if self.spool is not None:
                self.spool.close()
                self.spool.sync()
        finally:
            if self._own is not None:
                self._own.leave()
                self._own = None

    def _opened(self) -> Spool:
        if self.spool is None:
            self._own = own_folder(self.parent)
            self.spool = Spool(folder=self._own.path, limit_bytes=self.limit_bytes, segment_bytes=self.segment_bytes)
        return self.spool
