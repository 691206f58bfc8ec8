"""Tables of Postgres with one wrong bit on disk, as a disk leaves them; what the server holds in memory is forgotten first."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pipeline_assets.core.settings import WarehouseSettings
from pipeline_assets.local_stack.plan import POSTGRES
from pipeline_assets_tests.stack_services import superuser_in
from pipeline_assets_tests.stream_records import until

PAGE_BYTES = 8192


@dataclass(frozen=True, kw_only=True)
class Pages:
    """The file of a table of the warehouse, whose name is `schema.table`, and a superuser's connection to its database."""

    connection: psycopg.Connection
    table: str
    path: Path

    @contextmanager
    def flipped(self, bit: int) -> Iterator[None]:
        """The table with another value of one bit of its file, counted from its start; it is as it was afterwards."""
        self._evict()
        self._flip(bit)
        try:
            yield
        finally:
            self._evict()
            self._flip(bit)

    def _flip(self, bit: int) -> None:
        place, which = divmod(bit, 8)
        with self.path.open("r+b", buffering=0) as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ (1 << which)]))

    def _evict(self) -> None:
        """Has the server forget all pages, once no other session, as that of the reader before or autovacuum, has one in its hands."""
        query = "select buffers_skipped from pg_buffercache_evict_relation(%s::regclass)"
        until(lambda: self.connection.execute(query, [self.table]).fetchone(), lambda found: found == (0,))


@contextmanager
def pages(settings: WarehouseSettings, home: Path, table: str) -> Iterator[Pages]:
    """The pages of a table of the warehouse in the local stack of a home, all of them on disk."""
    with closing(superuser_in(home, settings.warehouse_dsn)) as connection:
        connection.execute("create extension if not exists pg_buffercache")
        connection.execute(f"vacuum (freeze) {table}".encode())
        connection.execute("checkpoint")
        found = connection.execute("select pg_relation_filepath(%s::regclass)", [table]).fetchone()
        assert found is not None
        yield Pages(connection=connection, table=table, path=home / POSTGRES / "data" / found[0])
