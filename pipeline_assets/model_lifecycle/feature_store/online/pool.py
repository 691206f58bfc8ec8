"""Readers over a bounded pool of connections, for services that answer many questions at once."""

from collections.abc import Sequence

import pyarrow as pa
from psycopg import Connection, OperationalError, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from pipeline_assets.core.dsn import with_time_zone
from pipeline_assets.core.settings import ONLINE_DSN, OnlineSettings
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of_model
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader, Served
from pipeline_assets.spec.models import Model

MOST_CONNECTIONS, MOST_WAITING = 8, 200
# How long a question waits for a connection, and then for its answer.
SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 5.0, 5


class Readers:
    """The readers of some models; safe to be used by any number of threads. Connections are made when they are needed first."""

    def __init__(self, settings: OnlineSettings, feeds: Sequence[Feed]) -> None:
        self._feeds, self._readers = tuple(feeds), dict[str, Reader]()
        self._pool = ConnectionPool(
            _limited(with_time_zone(ONLINE_DSN, settings.online_dsn)),
            min_size=0,
            max_size=MOST_CONNECTIONS,
            max_waiting=MOST_WAITING,
            timeout=SECONDS_TO_CONNECT,
            kwargs={"autocommit": True},
            open=False,
            name="online",
        )

    def read(self, model: Model, questions: pa.Table) -> Served:
        """What a model's reader gives for checked questions.

        Raises NotOnline and BehindState as it does; psycopg.OperationalError where no connection is free in time, too many questions wait
        for one, the store cannot be reached or does not answer in time.
        """
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

    def _read(self, model: Model, questions: pa.Table) -> Served:
        with self._pool.connection() as connection:
            reader = self._readers.get(model.name)
            try:
                return (reader or self._made(connection, model)).on(connection).read(questions)
            except errors.UndefinedTable:
                # A feed was built anew meanwhile, which removes the tables that it had.
                return self._made(connection, model).read(questions)

    def _made(self, connection: Connection, model: Model) -> Reader:
        made = Reader(connection, feeds_of_model(self._feeds, model), model.views, model.request_features)
        self._readers[model.name] = made
        return made


def _limited(dsn: str) -> str:
    """The DSN with limits to how long connecting and answering may take."""
    options = f"{conninfo_to_dict(dsn).get('options', '')} -c statement_timeout={SECONDS_TO_ANSWER}s".strip()
    return make_conninfo(dsn, options=options, connect_timeout=int(SECONDS_TO_CONNECT))
