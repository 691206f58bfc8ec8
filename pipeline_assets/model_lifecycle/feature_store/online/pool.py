"""Readers over a bounded pool of connections, or over copies, for services that answer many questions at once."""

from collections.abc import Sequence

import pyarrow as pa
from psycopg import Connection, OperationalError, errors
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from pipeline_assets.core.connections import online_copy
from pipeline_assets.core.dsn import limited, with_time_zone
from pipeline_assets.core.settings import ONLINE_DSN, OnlineSettings
from pipeline_assets.model_lifecycle.feature_store.online.copies import Copied, Copies
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of_model
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader, Served
from pipeline_assets.model_lifecycle.feature_store.online.source import Source
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.spec.models import Model

MOST_CONNECTIONS, MOST_WAITING = 8, 200
# How long a question waits for a connection, and then for its answer.
SECONDS = 5


class Readers:
    """The readers of some models; safe to be used by any number of threads. Connections are made when they are needed first."""

    def __init__(self, settings: OnlineSettings, feeds: Sequence[Feed]) -> None:
        self._feeds, self._readers, self._stored = tuple(feeds), dict[str, Reader](), dict[str, Stored]()
        self._server = online_copy(settings)
        self._pool = ConnectionPool(
            limited(with_time_zone(ONLINE_DSN, settings.online_dsn), SECONDS),
            min_size=0,
            max_size=MOST_CONNECTIONS,
            max_waiting=MOST_WAITING,
            timeout=SECONDS,
            kwargs={"autocommit": True},
            open=False,
            name="online",
        )

    def read(self, model: Model, questions: pa.Table) -> Served:
        """What a model's reader gives for checked questions.

        Raises NotOnline and BehindState as it does; psycopg.OperationalError where no connection is free in time, too many questions wait
        for one, the store cannot be reached or does not answer in time; SourceUnavailable where the copy does not answer.
        """
        if self._server is not None:
            return self._of(model, Copied(Copies(self._server), feeds_of_model(self._feeds, model))).read(questions)
        self._pool.open()
        try:
            return self._read(model, questions)
        except (PoolTimeout, TooManyRequests, errors.QueryCanceled):
            raise
        except OperationalError:
            # The database was started anew, or has ended this connection: those that are broken are replaced.
            self._pool.check()
            return self._read(model, questions)

    def close(self) -> None:
        """Closes the connections."""
        self._pool.close()
        if self._server is not None:
            self._server.close()  # type: ignore[no-untyped-call]

    def _read(self, model: Model, questions: pa.Table) -> Served:
        with self._pool.connection() as connection:
            stored = self._stored.get(model.name)
            try:
                return self._of(model, stored.on(connection) if stored else self._found(connection, model)).read(questions)
            except errors.UndefinedTable:
                # A feed was built anew meanwhile, which removes the tables that it had.
                self._readers.pop(model.name, None)
                return self._of(model, self._found(connection, model)).read(questions)

    def _found(self, connection: Connection, model: Model) -> Stored:
        found = Stored(connection, feeds_of_model(self._feeds, model))
        self._stored[model.name] = found
        return found

    def _of(self, model: Model, source: Source) -> Reader:
        """The reader of a model on a source, with what was remembered by others before it."""
        known = self._readers.get(model.name)
        if known is None:
            known = self._readers[model.name] = Reader(source, model.views, model.request_features)
        return known.of(source)
