"""Sessions of Postgres that stay open between the looks of those who look again and again; nothing heavy is imported for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from select import POLLIN, poll
from typing import TYPE_CHECKING
from weakref import finalize

if TYPE_CHECKING:
    from pipeline_assets.core.postgres import Session


class KeptSession:
    """A session that stays open between its uses, which are one at a time; it is opened anew where the server has ended it.

    To connect costs both sides more than most questions of those who look every other second.
    """

    def __init__(self, open_new: "Callable[[], Session]") -> None:
        self._open, self._kept = open_new, list["Session"]()
        # Whoever let go of this has no use for the session.
        finalize(self, _close, self._kept)

    @contextmanager
    def use(self) -> "Iterator[Session]":
        """The session, whose transaction is committed at the end of the block; after an error it is closed."""
        if self._kept and not _is_open(self._kept[0]):
            _close(self._kept)
        if not self._kept:
            self._kept.append(self._open())
        try:
            yield self._kept[0]
            self._kept[0].commit()
        except BaseException:
            _close(self._kept)
            raise


def _is_open(session: "Session") -> bool:
    """Whether a session that nobody uses is open: the server says something on it only to end it."""
    if session.closed:
        return False
    silence = poll()
    silence.register(session.fileno(), POLLIN)
    return not silence.poll(0)


def _close(kept: "list[Session]") -> None:
    while kept:
        kept.pop().close()
