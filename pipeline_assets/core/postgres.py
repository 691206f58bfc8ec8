"""Sessions of Postgres by psycopg and by ADBC whose statements are bounded, say whom they wait for, and end with their process.

Every connection of a run or a command is opened here; `core/connections` has those of the platform's own databases.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

import adbc_driver_manager
import adbc_driver_postgresql
import psycopg
import pyarrow as pa
from adbc_driver_manager import dbapi
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pipeline_assets.core.dsn import ALIVE
from pipeline_assets.core.waits import CANCEL_SECONDS, CONNECT_SECONDS, STEP_SECONDS, Place, Wait, Worker, connecting, wait_for

T = TypeVar("T")

NOT_READY = 0


class Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection of psycopg; its statements raise LockTimedOut and StatementTimedOut, and end at a signal or where their thread stops."""

    place: Place | None = None
    pid = 0

    def wait(self, gen: PQGen[T], interval: float = STEP_SECONDS, timeout: float | None = None) -> T:
        """As psycopg's own, in steps."""
        if self.place is None:
            return super().wait(gen, interval, timeout)
        waited = Wait(self.place, self.pid)
        try:
            return super().wait(_in_steps(gen, waited), interval, timeout)
        except psycopg.Error as error:
            found = waited.error(error.sqlstate, str(error))
            if found is None:
                raise
            raise found from error
        except BaseException:
            self._give_up(gen)
            raise

    def _give_up(self, gen: PQGen[T]) -> None:
        """Ends what runs on the server, so that the connection can be rolled back and closed by whoever has it."""
        if self.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            return
        with suppress(Exception):
            self.cancel_safe(timeout=CANCEL_SECONDS)
            super().wait(gen, STEP_SECONDS, CANCEL_SECONDS)
        if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            self.pgconn.finish()


def _in_steps(gen: PQGen[T], waited: Wait) -> Generator[Any, Any, T]:
    """The same, with a step of the wait whenever nothing came within STEP_SECONDS."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready == NOT_READY:
                waited.step()
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


class ArrowCursor(dbapi.Cursor):
    """A cursor of ADBC that waits as a `Session` does; those of its methods that the platform uses.

    In the main thread ADBC would put a handler of its own in the place of Python's for SIGINT, which makes a database error of it.
    """

    def execute(self, operation: bytes | str, parameters: Any = None) -> "ArrowCursor":
        """As ADBC's own."""
        self._session.begin_statement()
        self._session.waited(partial(super().execute, operation, parameters))
        return self

    def adbc_ingest(self, *args: Any, **kwargs: Any) -> int:
        """As ADBC's own."""
        self._session.begin_statement()
        return self._session.waited(partial(super().adbc_ingest, *args, **kwargs))

    def fetchone(self) -> tuple[Any, ...] | None:
        """As ADBC's own."""
        return self._session.waited(super().fetchone)

    def fetchall(self) -> list[tuple[Any, ...]]:
        """As ADBC's own."""
        return self._session.waited(super().fetchall)

    def fetch_arrow_table(self) -> pa.Table:
        """As ADBC's own."""
        return self._session.waited(super().fetch_arrow_table)

    def fetch_record_batch(self) -> pa.RecordBatchReader:
        """As ADBC's own."""
        reader = super().fetch_record_batch()
        return pa.RecordBatchReader.from_batches(reader.schema, self._batches(reader))

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while (batch := self._session.waited(partial(next, reader, None))) is not None:
            yield batch

    def close(self) -> None:
        """As ADBC's own; one whose statement did not end though it was cancelled is left alone, as the driver still works on it."""
        if not self._session.is_abandoned:
            super().close()

    @property
    def _session(self) -> "ArrowSession":
        return cast("ArrowSession", self._conn)


class ArrowSession(dbapi.Connection):
    """A connection of ADBC; errors and interrupts as those of a `Session`."""

    place: Place
    worker: Worker
    pid = 0
    is_abandoned = False

    def begin_statement(self) -> None:
        """Waits that follow are of a new statement, whose rows may come while they are fetched."""
        self._wait = Wait(self.place, self.pid)

    def cursor(self, *, adbc_stmt_kwargs: Any = None) -> ArrowCursor:
        """As ADBC's own."""
        cursor = ArrowCursor(self, adbc_stmt_kwargs, dbapi_backend=self._backend)
        self._cursors.add(cursor)
        return cursor

    def waited(self, work: Callable[[], T]) -> T:
        """What `work` on this connection returns."""
        future = self.worker.begin(work)
        try:
            return wait_for(future, self._wait, self.adbc_cancel)
        except dbapi.Error as error:
            found = self._wait.error(error.sqlstate, str(error))
            if found is None:
                raise
            raise found from error
        finally:
            self.is_abandoned = not future.done()

    def close(self) -> None:
        """As ADBC's own; a connection whose statement did not end though it was cancelled is left to the end of the process."""
        if not self.is_abandoned:
            super().close()
            self.worker.end()

    def begin(self) -> None:
        """Has statements make up transactions from now on, each until commit, rollback or close."""
        self._conn.set_autocommit(False)
        self._autocommit, self._commit_supported = False, True

    def commit(self) -> None:
        """As ADBC's own."""
        self.begin_statement()
        self.waited(super().commit)


def open_session(place: Place, *, autocommit: bool = False) -> Session:
    """A new session, which its caller closes; raises DatabaseFull, and psycopg's own error where the database cannot be reached."""
    with connecting(place.setting):
        session = Session.connect(_bounded(place), autocommit=True)
    try:
        ((session.pid, *_),) = session.execute(_limiting(place)).fetchall()
        session.autocommit, session.place = autocommit, place
    except BaseException:
        session.close()
        raise
    return session


def open_arrow_session(place: Place) -> ArrowSession:
    """The same by ADBC, whose errors are its own."""
    worker = Worker()
    try:
        with connecting(place.setting):
            session = wait_for(worker.begin(partial(_connect, place, worker)), None, lambda: None)
    except BaseException:
        worker.end()
        raise
    try:
        with session.cursor() as cursor:
            cursor.execute(_limiting(place))
            ((session.pid, *_),) = cursor.fetchall()
        session.begin()
    except BaseException:
        session.close()
        raise
    return session


def _connect(place: Place, worker: Worker) -> ArrowSession:
    database = adbc_driver_postgresql.connect(_bounded(place))
    try:
        connection = adbc_driver_manager.AdbcConnection(database)
    except BaseException:
        database.close()
        raise
    session = ArrowSession(database, connection, autocommit=True)
    session.place, session.worker = place, worker
    return session


def _bounded(place: Place) -> str:
    """How to connect, within CONNECT_SECONDS; of a server that is gone without a word it is known soon. What the settings say stays."""
    said = conninfo_to_dict(place.conninfo)
    limits: dict[str, str | int] = {**ALIVE, "connect_timeout": CONNECT_SECONDS}
    unsaid = {name: value for name, value in limits.items() if name not in said}
    return make_conninfo(place.conninfo, **unsaid)


def _limiting(place: Place) -> str:
    """Sets the limits of a session, but for those that its connection string sets, and asks for the id of its server process.

    By a statement, as what pools connections between it and the server may refuse settings in the options of a connection.
    """
    said = str(conninfo_to_dict(place.conninfo).get("options", ""))
    unsaid = [f"set_config('{name}', '{value}', false)" for name, value in place.limits.values.items() if name not in said]
    return f"select {', '.join(['pg_backend_pid()', *unsaid])}"
