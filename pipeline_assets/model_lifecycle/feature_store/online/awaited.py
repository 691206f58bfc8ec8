"""Reads of one model on an event loop: over one connection, one after the other, and no thread waits for Postgres.

Threads that hand a question on to each other wait for the interpreter each time, which costs more than all else where one process answers
thousands of questions a second.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pyarrow as pa
from psycopg import OperationalError, errors

from pipeline_assets.core.dsn import limited, with_time_zone
from pipeline_assets.core.settings import ONLINE_DSN, OnlineSettings
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of_model
from pipeline_assets.model_lifecycle.feature_store.online.kept_values import Notes
from pipeline_assets.model_lifecycle.feature_store.online.position import Position
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader, Served
from pipeline_assets.model_lifecycle.feature_store.online.source import Found, Wanted
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.spec.models import Model

# How long connecting may take, and a question on the server that nobody waits for any more.
SECONDS = 5


class AwaitedReader:
    """Reads the features of a model. Of one event loop; a question is asked once the one before is answered."""

    def __init__(self, settings: OnlineSettings, feeds: Sequence[Feed], model: Model, notes: Notes | None = None) -> None:
        self._dsn = limited(with_time_zone(ONLINE_DSN, settings.online_dsn), SECONDS)
        self._model, self._feeds, self._notes = model, feeds_of_model(tuple(feeds), model), notes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"connect-{model.name}")
        self._opening: asyncio.Future[Stored] | None = None
        self._known: Reader | None = None

    async def read(self, questions: pa.Table) -> Served:
        """What the model's reader gives for checked questions.

        Raises NotOnline and BehindState as it does, psycopg.Error where the store cannot be reached or answers by an error. Where it is
        cancelled, the next question gets a connection of its own.
        """
        try:
            return await self._read(questions)
        except errors.UndefinedTable:
            # A feed was built anew meanwhile, which removes the tables that it had.
            self._known = None
        except OperationalError:
            # The database was started anew, or has ended this connection.
            pass
        return await self._read(questions)

    def close(self) -> None:
        """Closes the connection; one that is being opened, once it is."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._discard()
        if self._opening is not None:
            self._opening.add_done_callback(_close)

    async def _read(self, questions: pa.Table) -> Served:
        if self._known is None:
            self._known = Reader(await self._stored(), self._model.views, self._model.request_features, self._notes)
        try:
            return await self._known.awaited(questions, self._ask)
        except (psycopg.Error, asyncio.CancelledError):
            self._discard()
            raise

    async def _ask(self, wanted: Sequence[Sequence[Wanted]]) -> tuple[Found, list[Position]]:
        return await (await self._stored()).awaited(wanted)

    async def _stored(self) -> Stored:
        """The states on a connection, which is opened by a thread; whoever is cancelled leaves it to the next one."""
        if self._opening is None or (self._opening.done() and not _is_open(self._opening)):
            self._opening = asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        return await asyncio.shield(self._opening)

    def _open(self) -> Stored:
        connection = psycopg.connect(self._dsn, autocommit=True)
        try:
            return Stored(connection, self._feeds)
        except BaseException:
            connection.close()
            raise

    def _discard(self) -> None:
        """Closes the connection that there is; one that is being opened is for the next question."""
        if self._opening is not None and self._opening.done():
            _close(self._opening)
            self._opening = None


def _close(opening: "asyncio.Future[Stored]") -> None:
    if _is_open(opening):
        opening.result().connection.close()


def _is_open(opening: "asyncio.Future[Stored]") -> bool:
    return opening.done() and not opening.cancelled() and opening.exception() is None
