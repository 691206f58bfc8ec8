"""Every place where rows of an entity are kept, and by what they are found there.

Tables of the lake and of the warehouse are gone through as they are, not as they should be: one that nobody declares any more is named in
the proof, as nobody knows which of its columns mean what.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.iceberg import open_table, tables_of
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.forgetting import predicted
from pipeline_assets.forgetting.identity import Columns, Identity, Keyed
from pipeline_assets.forgetting.matches import Condition, Match, names_word, texts_of
from pipeline_assets.ingestion.streaming.decoding.records import RecordReader
from pipeline_assets.ingestion.streaming.landing import tables as landing
from pipeline_assets.ingestion.streaming.landing.offsets import Seen
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.ingestion.streaming.streams import record_streams
from pipeline_assets.processing.lake import scans
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.sources import RecordStream

if TYPE_CHECKING:
    import psycopg
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

Key = tuple[str, ...]
OF_DECLARATIONS = (names.LANDED, names.TYPED, names.LAKE, names.CLEANED, names.FEATURES, names.vectors("")[0])


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found of an entity before anything is removed: keys of rows, by contract (primary keys) and by model (of observations)."""

    by_contract: Mapping[str, frozenset[Key]] = field(default_factory=dict)
    by_model: Mapping[str, frozenset[Key]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where rows of one key of an entity are, by what is known of its identity and of the keys of its rows."""

    project: Project
    identity: Identity
    key: Key
    found: Found = field(default_factory=Found)

    def of_contract(self, name: str) -> Match:
        """The rows of a contract, wherever they are kept; of a change log those of its table."""
        if self.project.platform is not None and name in (predicted.LOG, predicted.FEEDBACK):
            return self._of_predictions(name)
        own = self._declared(name)
        direct = _conditions(self.identity.of(names.raw(own)), self.key)
        keys = self.found.by_contract.get(own, frozenset())
        is_computed = any(one.contract == own for one in self.identity.computed)
        contract = next((one for one in self.project.contracts if one.name == own), None)
        if is_computed and contract is not None:
            direct += (Condition(columns=contract.primary_key, keys=keys),)
        return Match(conditions=direct)

    def of_raw(self, name: str) -> Match:
        """The rows of a contract in the warehouse, where those of predictions are found by their ids."""
        return self.of_contract(predicted.FEEDBACK if name == predicted.LOG else name)

    def _of_predictions(self, name: str) -> Match:
        asked = predicted.asked_about(self.project, self.identity, self.key)
        ids = (predicted.by_id(self.found.by_contract.get(predicted.LOG, frozenset())),) if asked else ()
        return Match(conditions=asked if name == predicted.LOG else ids)

    def of_table(self, table: AssetName) -> Match:
        """The rows of a table that dbt builds."""
        carried = [one for one in self.identity.carried if one.table == table]
        by_key = (Condition(columns=one.columns, keys=self.found.by_contract.get(one.contract, frozenset())) for one in carried)
        return Match(conditions=(*_conditions(self.identity.of(table), self.key), *by_key))

    def of_view(self, name: str) -> Match:
        """The rows of a table of features: those that have the key in the keys of their view."""
        view = next((one for one in self.project.views if one.name == name), None)
        if view is None:
            return Match()
        own = [columns for columns in self.identity.of(names.cleaned(view.source.name)) if set(columns) <= set(view.entity.keys)]
        return Match(conditions=_conditions(own, self.key))

    def of_model(self, model: Model) -> Match:
        """The rows of vectors, training sets and predictions of a model: those of observations about the entity."""
        keys = self.found.by_model.get(model.name, frozenset())
        return Match(conditions=(Condition(columns=model.observations.keys, keys=keys),))

    def of_lake(self, table: AssetName) -> Match | None:
        """The rows of a table of the lake, landed records aside; None where nobody declares it."""
        namespace, name = table
        if namespace in (names.TYPED, names.LAKE):
            is_known = name in {one.name for one in self.project.contracts} or name != self._declared(name)
            return self.of_contract(name) if is_known else None
        if namespace == names.CLEANED:
            return self.of_table(table)
        if namespace == names.FEATURES:
            return self.of_view(name) if name in {view.name for view in self.project.views} else None
        model = next((one for one in self.project.models if one.name == name), None)
        return None if model is None else self.of_model(model)

    def _declared(self, contract: str) -> str:
        """The contract itself, or that of the table whose change log it is of."""
        logs = {log_contract(source.contract).name: source.contract.name for source in self.project.sources if source.load == "changes"}
        return logs.get(contract, contract)


def _conditions(columns: Sequence[Columns], key: Key) -> tuple[Condition, ...]:
    return tuple(Condition(columns=one, keys=frozenset({key})) for one in columns)


@dataclass(frozen=True, kw_only=True)
class PlainRows:
    """The rows of a table of columns."""

    match: Match

    def columns(self, present: Sequence[str]) -> Sequence[str]:
        """The columns by which rows are found."""
        return self.match.within(present).columns

    def holds(self, rows: pa.Table) -> np.ndarray:
        """Which rows are found."""
        return self.match.holds(rows)

    def shows(self, bounds: Mapping[str, Sequence[bytes]]) -> bool:
        """Whether bounds show a key."""
        return self.match.shows(bounds)


@dataclass(frozen=True, kw_only=True)
class LandedRows:
    """The records of a topic as they came: `readers` are those of its streams, each with what it finds.

    `seen` are the offsets that each stream has typed: others do not go, as typing would look for them. None: all are taken for typed.
    `word` is the key as a word, by which records that cannot be read are found; None where it is none.
    """

    readers: Sequence[tuple[RecordReader, Match]]
    seen: Sequence[Seen] | None
    word: str | None
    one_at_a_time: AbstractContextManager[object] = field(default_factory=Lock)

    def columns(self, present: Sequence[str]) -> Sequence[str]:
        """All columns: records are decoded."""
        return present

    def holds(self, rows: pa.Table) -> np.ndarray:
        """Which records are found, and may go as they have been typed."""
        # A reader decodes for one thread at a time.
        with self.one_at_a_time:
            found = self._found(rows)
        for seen in self.seen or ():
            found &= _are_in(seen, rows)
        return found

    def _found(self, rows: pa.Table) -> np.ndarray:
        found = np.zeros(rows.num_rows, dtype=bool)
        payloads = rows.column(landing.PAYLOAD)
        for reader, match in self.readers:
            if not match.conditions:
                continue
            whole = rows.select([name for name in landing.schema_with(reader.headers).names if name in rows.column_names])
            checked = reader.read(_with_headers(whole, reader)).checked
            found[checked.positions[match.holds(checked.good)]] = True
            # Broken records, and what stands in the envelope of others, such as the row before a change.
            found |= np.array([payload is not None and match.is_in(payload) for payload in payloads.to_pylist()], dtype=bool)
            named = [row.position for row in checked.broken if self.word is not None and names_word(row.original, self.word)]
            found[named] = True
        return found

    def shows(self, bounds: Mapping[str, Sequence[bytes]]) -> bool:
        """Bounds of records as bytes show nothing that can be taken for a key."""
        return any(match.conditions for _, match in self.readers) and bool(bounds.get(landing.PAYLOAD))


def _are_in(seen: Seen, rows: pa.Table) -> np.ndarray:
    partitions, offsets = rows.column(landing.PARTITION).to_numpy(), rows.column(landing.OFFSET).to_numpy()
    found = np.zeros(rows.num_rows, dtype=bool)
    for number in np.unique(partitions):
        own = partitions == number
        found[own] = seen.has(int(number), offsets[own])
    return found


def _with_headers(rows: pa.Table, reader: RecordReader) -> pa.Table:
    schema = landing.schema_with(reader.headers)
    for name in schema.names:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, schema.field(name).type))
    return rows


def streams_of(project: Project, table: AssetName) -> list[RecordStream]:
    """The streams whose records land in a table."""
    return [stream for stream in record_streams(project) if names.landed(stream.topic) == table]


def lake_tables(lake: "Catalog") -> "Iterator[tuple[AssetName, Table]]":
    """All tables of the lake that hold rows, in the order of the way of a row."""
    for namespace in OF_DECLARATIONS:
        for table in tables_of(lake, namespace):
            yield (namespace, table.name()[-1]), table


def find(settings: Settings, lake: "Catalog", places: Places) -> Found:
    """The keys of the entity's rows, by which they are found where its own key is not: in warehouse and lake, as they are now."""
    contracts = {one.contract for one in (*places.identity.computed, *places.identity.carried)}
    with warehouse(settings) as connection:
        by_contract = {name: frozenset(_of_contract(connection, lake, places, name)) for name in sorted(contracts)}
        by_model = {model.name: frozenset(_of_model(connection, lake, places, model)) for model in places.project.models}
        by_contract[predicted.LOG] = frozenset(_predicted(connection, lake, places))
    return Found(by_contract=by_contract, by_model=by_model)


def _of_contract(connection: "psycopg.Connection", lake: "Catalog", places: Places, name: str) -> Iterator[Key]:
    """The primary keys of a contract's rows: where it has the key, from itself, else from the tables that are computed from it."""
    contract = next(one for one in places.project.contracts if one.name == name)
    if places.identity.of(names.raw(name)):
        match = Match(conditions=_conditions(places.identity.of(names.raw(name)), places.key))
        yield from _keys(connection, names.raw(name), contract.primary_key, match)
        yield from _lake_keys(lake, names.lake(name), contract.primary_key, match)
    for keyed in places.identity.computed:
        if keyed.contract == name:
            yield from _computed(connection, lake, places, keyed)


def _computed(connection: "psycopg.Connection", lake: "Catalog", places: Places, keyed: Keyed) -> Iterator[Key]:
    match = Match(conditions=_conditions(places.identity.of(keyed.table), places.key))
    yield from _keys(connection, keyed.table, keyed.columns, match)
    yield from _lake_keys(lake, keyed.table, keyed.columns, match)


def _of_model(connection: "psycopg.Connection", lake: "Catalog", places: Places, model: Model) -> Iterator[Key]:
    """The keys of observations about the entity."""
    table, keys = names.cleaned(model.observations.table), model.observations.keys
    match = Match(conditions=_conditions(places.identity.of(table), places.key))
    yield from _keys(connection, table, keys, match)
    yield from _lake_keys(lake, table, keys, match)


def _predicted(connection: "psycopg.Connection", lake: "Catalog", places: Places) -> Iterator[Key]:
    """The ids of predictions about the entity."""
    match = places.of_contract(predicted.LOG)
    if not match.conditions:
        return
    if columns_of(connection, names.raw(predicted.LOG)):
        yield from predicted.ids_in_warehouse(connection, match)
    for table in (names.lake(predicted.LOG), names.typed(predicted.LOG)):
        yield from _lake_keys(lake, table, predicted.ID, match)


def _keys(connection: "psycopg.Connection", table: AssetName, columns: Columns, match: Match) -> Iterator[Key]:
    from psycopg import sql

    condition = match.sql(columns_of(connection, table))
    if condition is not None:
        chosen = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns)
        found = connection.execute(sql.SQL("select distinct {} from {} where {}").format(chosen, sql.Identifier(*table), condition))
        yield from (tuple(row) for row in found if None not in row)


def _lake_keys(lake: "Catalog", identifier: AssetName, columns: Columns, match: Match) -> Iterator[Key]:
    table = open_table(lake, identifier)
    if table is None or not set(columns) <= set(table.schema().column_names):
        return
    wanted = match.within(table.schema().column_names)
    if wanted.conditions:
        rows = scans.reader(table, None, list(dict.fromkeys((*columns, *wanted.columns))))
        yield from texts_of((batch.filter(pa.array(wanted.holds(batch))) for batch in rows), columns)


def columns_of(connection: "psycopg.Connection", table: AssetName) -> list[str]:
    """The columns of a table or view of a database; none where there is none."""
    query = "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attnum"
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in table)
    return [name for (name,) in connection.execute(query, [quoted]).fetchall()]
