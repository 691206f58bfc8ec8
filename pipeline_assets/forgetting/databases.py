"""Rows of an entity in databases: the quarantine, raw and cleaned tables, predictions, and the online store."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings
from pipeline_assets.forgetting.matches import Match, names_word
from pipeline_assets.forgetting.places import Places, columns_of
from pipeline_assets.ingestion.sources import quarantine

if TYPE_CHECKING:
    import psycopg

# Tables of dbt are built under a lock of their own, so only what a run has committed is gone through.
SCHEMAS = (names.RAW, names.STAGING, names.CLEANED)
ROWS_AT_ONCE = 10_000


def tables_of(connection: "psycopg.Connection", places: Places) -> Iterator[tuple[AssetName, Match]]:
    """The tables of the warehouse with what is looked for in each; views have no rows of their own."""
    query = (
        "select schemaname, tablename from pg_tables where schemaname = any(%s) order by array_position(%s, schemaname::text), tablename"
    )
    schemas = [*SCHEMAS, names.PREDICTIONS]
    for schema, table in connection.execute(query, [schemas, schemas]).fetchall():
        yield (schema, table), _match(places, (schema, table))


def _match(places: Places, table: AssetName) -> Match:
    if table[0] == names.RAW:
        return places.of_raw(table[1])
    if table[0] == names.PREDICTIONS:
        model = next((one for one in places.project.models if one.name == table[1]), None)
        return Match() if model is None else places.of_model(model)
    return places.of_table(table)


def count(connection: "psycopg.Connection", table: AssetName, match: Match) -> int:
    """How many rows of a table meet a condition."""
    from psycopg import sql

    condition = match.sql(columns_of(connection, table))
    if condition is None:
        return 0
    row = connection.execute(sql.SQL("select count(*) from {} where {}").format(sql.Identifier(*table), condition)).fetchone()
    return 0 if row is None else int(row[0])


def remove(settings: Settings, table: AssetName, match: Match) -> int:
    """Takes the rows of a table out, in one transaction, while no other writes to it."""
    from psycopg import sql

    with warehouse(settings) as connection:
        condition = match.sql(columns_of(connection, table))
        if condition is None:
            return 0
        name = sql.Identifier(*table)
        connection.execute(sql.SQL("lock table {} in share row exclusive mode").format(name))
        return connection.execute(sql.SQL("delete from {} where {}").format(name, condition)).rowcount


def quarantined(connection: "psycopg.Connection", contract: str, match: Match, text: str | None) -> list[int]:
    """The ids of a contract's rows in quarantine that are an entity's.

    Those whose bytes can be read as objects or lines say it themselves; others are taken for the entity's where they name its key as a word
    (`text`; None: a key without letters, which is in too many of them).
    """
    if not match.conditions or not columns_of(connection, (names.QUARANTINE, quarantine.TABLE)):
        return []
    query = f"select id, original, columns from {names.QUARANTINE}.{quarantine.TABLE} where source = %s"  # noqa: S608 - names of ours
    found: list[int] = []
    with connection.transaction(), connection.cursor(name="forgetting") as cursor:
        cursor.itersize = ROWS_AT_ONCE
        for row_id, original, columns in cursor.execute(query, [contract]):
            if match.is_in(bytes(original), columns) or (text is not None and names_word(bytes(original), text)):
                found.append(row_id)
    return found


def remove_quarantined(settings: Settings, contract: str, ids: Sequence[int]) -> None:
    """Takes rows out of the quarantine, while nobody replays or replaces those of their partitions."""
    if not ids:
        return
    with closing(warehouse(settings)) as connection:
        query = f"select distinct partition from {names.QUARANTINE}.{quarantine.TABLE} where id = any(%s)"  # noqa: S608 - names of ours
        partitions = [partition for (partition,) in connection.execute(query, [list(ids)]).fetchall()]
        connection.rollback()
        for partition in sorted(partitions):
            with quarantine.locked(connection, contract, partition), connection.transaction():
                quarantine.remove_rows(connection, ids)
