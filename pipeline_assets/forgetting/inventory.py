"""The places of an entity's rows as things that can be looked at and emptied, in the order in which rows go their way."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import names
from pipeline_assets.core.connections import arrow_files, object_store, online, warehouse
from pipeline_assets.core.iceberg import open_table
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.packed import unpacked
from pipeline_assets.core.settings import Settings
from pipeline_assets.forgetting import databases, lake, staged
from pipeline_assets.forgetting.lake import Notes, RowsOf
from pipeline_assets.forgetting.matches import Match, names_word
from pipeline_assets.forgetting.places import LandedRows, Places, PlainRows, columns_of, lake_tables, streams_of
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.streaming.landing.offsets import Seen
from pipeline_assets.ingestion.streaming.streams import record_streams
from pipeline_assets.ingestion.streaming.typed.readers import reader_of
from pipeline_assets.ingestion.streaming.typed.table import position_of
from pipeline_assets.model_lifecycle.feature_store.online import forget as online_rows
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.build import follow
from pipeline_assets.model_lifecycle.feature_store.online.copies import open_copies
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.feature_store.online.served import newest_samples, remove_samples
from pipeline_assets.model_lifecycle.feature_store.online.session import open_session
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

REPORTS = "reports/"


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a place has of an entity: rows, files that have such rows, and snapshots that mention such files."""

    rows: int = 0
    files: int = 0
    snapshots: int = 0

    @property
    def is_nothing(self) -> bool:
        """Whether it has nothing."""
        return not (self.rows or self.files or self.snapshots)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place by its name; `look` reads all of it, `empty` removes what `look` finds and may be repeated."""

    name: str
    look: Callable[[], Held]
    empty: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Stores:
    """What places are reached by; `feeds` are those that are declared."""

    settings: Settings
    lake: "Catalog"
    feeds: tuple[Feed, ...]


def places_of(stores: Stores, places: Places, notes: Notes) -> Iterator[Place]:
    """Every place where the entity's rows can be."""
    yield from _of_quarantine(stores, places)
    yield from _of_lake(stores, places, notes, {names.LANDED, names.TYPED})
    yield from _of_staged(stores, places, notes)
    yield from _of_warehouse(stores, places)
    yield from _of_lake(stores, places, notes, {names.LAKE, names.CLEANED, names.FEATURES, names.vectors("")[0]})
    yield from _of_online(stores, places)
    yield from _of_served(stores, places)
    yield from _of_training(stores, places)
    yield from _of_reports(stores, places)


def undeclared(stores: Stores, places: Places) -> list[str]:
    """Tables that hold rows and that nobody declares, so that nobody can say which of them are the entity's."""
    topics = {names.landed(stream.topic) for stream in record_streams(places.project)}
    in_lake = [table for table, _ in lake_tables(stores.lake) if table[0] != names.LANDED and places.of_lake(table) is None]
    in_lake += [table for table, _ in lake_tables(stores.lake) if table[0] == names.LANDED and table not in topics]
    dbt, contracts = {names.STAGING, names.CLEANED}, {contract.name for contract in places.project.contracts}
    models = {model.name for model in places.project.models}
    with warehouse(stores.settings) as connection:
        found = [table for table, _ in databases.tables_of(connection, places)]
    known = {names.RAW: contracts, names.PREDICTIONS: models}
    in_warehouse = [table for table in found if table[0] not in dbt and table[1] not in known[table[0]]]
    return [f"lake {'.'.join(table)}" for table in in_lake] + [f"warehouse {'.'.join(table)}" for table in in_warehouse]


def word_of(places: Places) -> str | None:
    """The key as a word that can be looked for in bytes; None for one without letters, or of several parts."""
    (first, *others) = places.key
    return None if others or not any(sign.isalpha() for sign in first) else first


def _of_quarantine(stores: Stores, places: Places) -> Iterator[Place]:
    logs = (stream.contract.name for stream in record_streams(places.project))
    for name in dict.fromkeys((*(contract.name for contract in places.project.contracts), *logs)):
        yield Place(
            name=f"quarantine of {name}",
            look=partial(_look_at_quarantine, stores, places, name),
            empty=partial(_empty_quarantine, stores, places, name),
        )


def _quarantined(stores: Stores, places: Places, name: str) -> list[int]:
    quarantine.create(stores.settings)
    with warehouse(stores.settings) as connection:
        return databases.quarantined(connection, name, places.of_contract(name), word_of(places))


def _look_at_quarantine(stores: Stores, places: Places, name: str) -> Held:
    return Held(rows=len(_quarantined(stores, places, name)))


def _empty_quarantine(stores: Stores, places: Places, name: str) -> None:
    databases.remove_quarantined(stores.settings, name, _quarantined(stores, places, name))


def _of_lake(stores: Stores, places: Places, notes: Notes, namespaces: set[str]) -> Iterator[Place]:
    for identifier, table in lake_tables(stores.lake):
        if identifier[0] in namespaces:
            yield Place(
                name=f"lake {'.'.join(identifier)}",
                look=partial(_look_at_table, stores, places, identifier, table),
                empty=partial(_empty_table, stores, places, notes, identifier, table),
            )


def rows_of(stores: Stores, places: Places, identifier: AssetName, *, only_typed: bool) -> RowsOf:
    """Which rows of a table of the lake are the entity's; of landed records all, or only those that may go by now."""
    if identifier[0] != names.LANDED:
        return PlainRows(match=places.of_lake(identifier) or Match())
    streams, own = record_streams(places.project), streams_of(places.project, identifier)
    matches = [(stream, places.of_contract(stream.contract.name)) for stream in own]
    readers = [(reader_of(stores.settings, stores.lake, stream, streams), match) for stream, match in matches if match.conditions]
    seen = [_seen(stores.lake, stream.contract.name) for stream in own] if only_typed else None
    return LandedRows(readers=readers, seen=seen, word=word_of(places))


def _seen(lake_catalog: "Catalog", contract: str) -> Seen:
    table = open_table(lake_catalog, names.typed(contract))
    return Seen() if table is None else position_of(table).seen


def _look_at_table(stores: Stores, places: Places, identifier: AssetName, table: "Table") -> Held:
    held = lake.holding(table, rows_of(stores, places, identifier, only_typed=False))
    return Held(rows=sum(held.rows.values()), files=len(held.rows), snapshots=len(held.snapshots))


def _empty_table(stores: Stores, places: Places, notes: Notes, identifier: AssetName, table: "Table") -> None:
    """Empties a table of the lake; those of streams under the lock that typing holds."""
    own = streams_of(places.project, identifier) if identifier[0] == names.LANDED else ()
    locked = [stream.contract.name for stream in own] if identifier[0] == names.LANDED else [identifier[1]]
    with closing(warehouse(stores.settings)) as connection, ExitStack() as stack:
        for name in sorted(locked):
            if identifier[0] in (names.LANDED, names.TYPED):
                stack.enter_context(quarantine.locked(connection, name, names.STREAM))
        found = rows_of(stores, places, identifier, only_typed=True)
        lake.remove(arrow_files(stores.settings), table, found, lake.holding(table, found), notes)


def _of_staged(stores: Stores, places: Places, notes: Notes) -> Iterator[Place]:
    for contract in places.project.contracts:
        match = places.of_contract(contract.name)
        for partition in staged.partitions_of(stores.settings, contract.name) if match.conditions else ():
            yield Place(
                name=f"staged {contract.name} {partition}",
                look=partial(_look_at_staged, stores, contract.name, partition, match),
                empty=partial(staged.remove, stores.settings, contract.name, partition, match, notes),
            )


def _look_at_staged(stores: Stores, contract: str, partition: str, match: Match) -> Held:
    found = staged.count(stores.settings, contract, partition, match)
    return Held(rows=sum(found.values()), files=len(found))


def _of_warehouse(stores: Stores, places: Places) -> Iterator[Place]:
    with warehouse(stores.settings) as connection:
        found = [(table, match) for table, match in databases.tables_of(connection, places) if match.conditions]
    for table, match in found:
        yield Place(
            name=f"warehouse {'.'.join(table)}",
            look=partial(_look_at_warehouse, stores, table, match),
            empty=partial(_empty_warehouse, stores, table, match),
        )


def _look_at_warehouse(stores: Stores, table: AssetName, match: Match) -> Held:
    with warehouse(stores.settings) as connection:
        return Held(rows=databases.count(connection, table, match))


def _empty_warehouse(stores: Stores, table: AssetName, match: Match) -> None:
    databases.remove(stores.settings, table, match)


def _of_online(stores: Stores, places: Places) -> Iterator[Place]:
    with online(stores.settings) as connection:
        kept = [one for feed in stores.feeds if (one := store.find(connection, feed)) is not None]
        old = online_rows.old_versions(connection, [one.id for one in kept])
    for one in kept:
        yield Place(
            name=f"online {one.feed.name}",
            look=partial(_look_online, stores, places, one),
            empty=partial(_empty_online, stores, places, one),
        )
    for number in old:
        yield Place(
            name=f"online version {number}, not declared any more",
            look=partial(_look_at_old, stores, number),
            empty=partial(_drop_old, stores, number),
        )


def _parts(places: Places, kept: store.Kept, slot: int) -> list[online_rows.Part]:
    """Where in the keys of a view the entity's key stands."""
    keys = kept.feed.views[slot].entity.keys
    own = [columns for columns in places.identity.of(names.cleaned(kept.feed.table.name)) if set(columns) <= set(keys)]
    return [(tuple(keys.index(column) for column in columns), places.key) for columns in own]


def _look_online(stores: Stores, places: Places, kept: store.Kept) -> Held:
    with online(stores.settings) as connection:
        rows = databases.count(connection, (store.SCHEMA, f"rows_{kept.id}"), _of_rows(places, kept))
        raw = databases.count(connection, (store.SCHEMA, f"raw_{kept.id}"), _of_raw(places, kept))
        states = sum(online_rows.count_states(connection, kept, slot, _parts(places, kept, slot)) for slot in range(len(kept.feed.views)))
    return Held(rows=rows + raw + states)


def _of_rows(places: Places, kept: store.Kept) -> Match:
    return places.of_table(names.cleaned(kept.feed.table.name))


def _of_raw(places: Places, kept: store.Kept) -> Match:
    return Match() if kept.feed.stream is None else places.of_contract(kept.feed.contract.name)


def _empty_online(stores: Stores, places: Places, kept: store.Kept) -> None:
    with online(stores.settings) as connection:
        rows, raw = (
            match.sql(columns_of(connection, (store.SCHEMA, f"{table}_{kept.id}")))
            for table, match in (("rows", _of_rows(places, kept)), ("raw", _of_raw(places, kept)))
        )
        of_rows, of_raw = (None if one is None else one.as_string(connection) for one in (rows, raw))
        slots = range(len(kept.feed.views))
        states = [one for slot in slots for one in online_rows.states_of(connection, kept, slot, _parts(places, kept, slot))]
    if kept.feed.stream is None:
        follow(stores.settings, kept.feed)
    with open_session(stores.settings, kept) as session:
        online_rows.take_out(session, of_rows, of_raw, states)


def _look_at_old(stores: Stores, number: int) -> Held:
    with online(stores.settings) as connection:
        return Held(files=int(number in online_rows.old_versions(connection, [])))


def _drop_old(stores: Stores, number: int) -> None:
    with online(stores.settings) as connection, open_copies(stores.settings) as copies:
        found = online_rows.old_versions(connection, []).get(number)
        if found is not None and copies is not None:
            copies.remove_version(*found)
        store.drop_version(connection, number)


def _of_served(stores: Stores, places: Places) -> Iterator[Place]:
    for model in places.project.models:
        match = places.of_table(names.cleaned(model.observations.table))
        if match.conditions:
            yield Place(
                name=f"served vectors of {model.name}",
                look=partial(_look_at_served, stores, model, match),
                empty=partial(_empty_served, stores, model, match),
            )


def _served(stores: Stores, model: Model, match: Match) -> list[int]:
    with online(stores.settings) as connection:
        return [one.id for one in newest_samples(connection, model) if match.names(one.asked)]


def _look_at_served(stores: Stores, model: Model, match: Match) -> Held:
    return Held(rows=len(_served(stores, model, match)))


def _empty_served(stores: Stores, model: Model, match: Match) -> None:
    found = _served(stores, model, match)
    with online(stores.settings) as connection:
        remove_samples(connection, found)


def _of_training(stores: Stores, places: Places) -> Iterator[Place]:
    for model in places.project.models:
        match = places.of_model(model)
        for path in archive.files_of(stores.settings, model) if any(one.keys for one in match.conditions) else ():
            yield Place(
                name=f"training set of {model.name} {archive.digest_of(path)}",
                look=partial(_look_at_training_set, stores, path, match),
                empty=partial(_empty_training_set, stores, model, path, match),
            )


def _look_at_training_set(stores: Stores, path: str, match: Match) -> Held:
    files = arrow_files(stores.settings)
    if not files.get_file_info(path.removeprefix("s3://")).is_file:
        return Held()
    with files.open_input_file(path.removeprefix("s3://")) as opened:
        parquet = pq.ParquetFile(opened)
        rows = int(match.holds(parquet.read(columns=list(match.within(parquet.schema_arrow.names).columns))).sum())
    return Held(rows=rows, files=int(rows > 0))


def _empty_training_set(stores: Stores, model: Model, path: str, match: Match) -> None:
    rows = archive.read_path(stores.settings, path, archive.digest_of(path))
    archive.leave(stores.settings, model, path, rows.filter(pa.array(~match.holds(rows))))


def _of_reports(stores: Stores, places: Places) -> Iterator[Place]:
    """Pages with samples of features: they have no keys, but for those that are categories."""
    word = word_of(places)
    client, bucket = object_store(stores.settings), stores.settings.s3_bucket
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=REPORTS) if word is not None else ():
        for key in (entry["Key"] for entry in page.get("Contents", ())):
            yield Place(name=key, look=partial(_look_at_report, stores, key, str(word)), empty=partial(_delete_report, stores, key))


def _look_at_report(stores: Stores, key: str, word: str) -> Held:
    client = object_store(stores.settings)
    try:
        content = client.get_object(Bucket=stores.settings.s3_bucket, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey:
        return Held()
    return Held(files=int(names_word(unpacked(content), word)))


def _delete_report(stores: Stores, key: str) -> None:
    object_store(stores.settings).delete_object(Bucket=stores.settings.s3_bucket, Key=key)
