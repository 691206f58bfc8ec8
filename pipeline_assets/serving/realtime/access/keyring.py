"""The keys that a running service knows: the file's, taken up within half a second of a change, without restart and without database."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from time import monotonic

from pipeline_assets.serving.realtime.access.callers import Caller
from pipeline_assets.serving.realtime.access.errors import KeyFileRefused
from pipeline_assets.serving.realtime.access.key_file import read_keys
from pipeline_assets.serving.realtime.access.keys import Key, find_key, is_live, utc_now

LOOK_SECONDS = 0.5
LOG = logging.getLogger(__name__)
# Size, owner, mode and times: what changes where the file is written, replaced or opened to others.
Seen = tuple[int, int, int, int, int, int] | None


class Keyring:
    """The keys of a file.

    A file that is broken, exposed or gone after the start leaves the keys that were known: their ends still count, and `problem` says what
    is wrong, which is logged as an error once per change of the file. At the start a file that is not there is no key, so that a key
    can be made while the service runs; one that cannot be used is KeyFileRefused.

    For one event loop: a look costs one `stat`, and a change the reading of a small file.
    """

    def __init__(self, path: Path, *, now: Callable[[], datetime] = utc_now) -> None:
        self.path, self.problem = path, ""
        self._now, self._looked = now, monotonic()
        self._seen = self._look()
        self._keys: Mapping[str, Key] = read_keys(path) if self._seen is not None else {}
        if self._seen is None:
            LOG.warning("There are no API keys yet (%s): nobody may ask. Make one with `pipeline serve-keys create`.", path)

    def caller(self, text: str) -> Caller | None:
        """Who asks with a key; None where the text is no valid one."""
        self.refresh()
        found = find_key(self._keys, text, self._now())
        return None if found is None else found.caller()

    def live(self, key_id: str) -> Key | None:
        """The key with an id, if any secret of it works; for a session that was begun with it."""
        self.refresh()
        found = self._keys.get(key_id)
        return found if found is not None and is_live(found, self._now()) else None

    def refresh(self) -> None:
        """Takes up what the file has become, at most every half a second."""
        if monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = monotonic()
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys, self.problem = read_keys(self.path), ""
            LOG.info("API keys read anew: %d live", sum(is_live(key, self._now()) for key in self._keys.values()))
        except (KeyFileRefused, OSError) as error:
            self.problem = str(error)
            LOG.error("API keys are those read before, as their file cannot be used: %s", error)  # noqa: TRY400 - the sentence says it all

    def _look(self) -> Seen:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mode, found.st_uid, found.st_mtime_ns, found.st_ctime_ns
