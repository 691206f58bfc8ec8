"""Forgets an entity: one job that may be killed anywhere and started again, and that ends in the same state.

First the key is not taken in any more: from then on a reader that takes the lock of a partition leaves its rows out. Then the keys of the
entity's rows are noted, by which they are found where its own key is not. All places are looked at and emptied in the order in which
rows go their way, sources first, so that what a run makes meanwhile of what is gone by then is without the entity; then they are looked at
again. What is left then was written by a run that had read before: it is removed again, and if more keeps coming the job stays open.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline_assets.core.connections import catalog, online, warehouse
from pipeline_assets.core.forgetting_errors import KeyMalformed, NotForgotten
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.forgetting.identity import Identity, entity_of, identity_of
from pipeline_assets.forgetting.inventory import Held, Place, Stores, places_of, undeclared
from pipeline_assets.forgetting.ledger import Job, Proof, close_job, open_job
from pipeline_assets.forgetting.leftovers import delete_leftovers
from pipeline_assets.forgetting.places import Found, Key, Places, find
from pipeline_assets.ingestion.sources import forgotten
from pipeline_assets.ingestion.streaming.streams import record_streams
from pipeline_assets.model_lifecycle.feature_store.online import store
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed
from pipeline_assets.model_lifecycle.registry import versions
from pipeline_assets.processing.cleaning.lineage import DbtLineage
from pipeline_assets.spec.features import Entity

if TYPE_CHECKING:
    import psycopg

ROUNDS = 3
Listener = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What is declared: use cases, the lineage of dbt, and the feeds of the online store."""

    project: Project
    dbt: DbtLineage
    feeds: tuple[Feed, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be removed: of each place that has anything what it has, and by which columns the entity is known there."""

    identity: Identity
    held: Mapping[str, Held]


class _NoNotes:
    """Nothing is noted where nothing is changed."""

    def will_delete(self, paths: object) -> None:
        """Nothing."""

    def will_commit(self, name: str) -> None:
        """Nothing."""


def key_of(declared: Declared, entity: Entity, given: Sequence[str]) -> Key:
    """The key as texts, as rows have it; raises KeyMalformed for too few or many parts, an empty one, or one that is no whole number."""
    table = next(view.source.name for view in declared.project.views if view.entity.name == entity.name)
    kinds = {column: declared.project.kind_of(table, column) for column in entity.keys}
    shown = {column: "a whole number" if kind == "integer" else "text" for column, kind in kinds.items()}
    if len(given) != len(entity.keys):
        raise KeyMalformed(entity.name, shown, given, f"{len(entity.keys)} are expected")
    for (column, kind), text in zip(kinds.items(), given, strict=True):
        if not text:
            raise KeyMalformed(entity.name, shown, given, f"that of '{column}' is empty")
        if kind == "integer" and (not text.lstrip("-").isdecimal() or str(int(text)) != text):
            raise KeyMalformed(entity.name, shown, given, f"that of '{column}' is no whole number")
    return tuple(given)


def plan(settings: Settings, declared: Declared, entity_name: str, given: Sequence[str], on_step: Listener) -> Plan:
    """What would be removed; nothing is written."""
    entity = entity_of(declared.project, entity_name)
    key = key_of(declared, entity, given)
    identity = identity_of(declared.project, declared.dbt, entity)
    with catalog(settings) as lake:
        stores = Stores(settings=settings, lake=lake, feeds=declared.feeds)
        places = Places(project=declared.project, identity=identity, key=key)
        places = replace(places, found=find(settings, lake, places))
        return Plan(identity=identity, held=_looked(list(places_of(stores, places, _NoNotes())), on_step))


def forget(settings: Settings, declared: Declared, entity_name: str, given: Sequence[str], on_step: Listener) -> tuple[Proof, str]:
    """Removes an entity from everything, or goes on with that; the proof, and where it is kept.

    Raises UnknownName for an entity that is not declared, KeyMalformed for a key that it cannot have (nothing is changed then),
    NotForgotten where runs write its rows again and again, LakeBusy if other writers of a table always came first.
    """
    entity = entity_of(declared.project, entity_name)
    key = key_of(declared, entity, given)
    identity = identity_of(declared.project, declared.dbt, entity)
    with _alone(settings) as connection, catalog(settings) as lake:
        with connection.transaction():
            salt = forgotten.create(connection)
        digest = forgotten.digest(salt, key)
        job = open_job(connection, entity.name, digest)
        stores = Stores(settings=settings, lake=lake, feeds=declared.feeds)
        places = Places(project=declared.project, identity=identity, key=key)
        on_step("Noting the key, so that it is not taken in again")
        _do_not_take_in(settings, job, places, salt)
        places = _with_rows(stores, job, places)
        _do_not_take_in(settings, job, places, salt)
        _remove(stores, job, places, on_step)
        on_step("Deleting files that held rows of the entity")
        left = delete_leftovers(stores, job, places)
        proof = _proof(stores, job, places, digest, left)
        return proof, close_job(settings, job, proof)


@contextmanager
def _alone(settings: Settings) -> "Iterator[psycopg.Connection]":
    """A connection that commits each statement, while no other job of forgetting runs."""
    with closing(warehouse(settings)) as connection:
        connection.autocommit = True
        connection.execute("select pg_advisory_lock(hashtext('forgotten'), 1)")
        yield connection


def _do_not_take_in(settings: Settings, job: Job, places: Places, salt: bytes) -> None:
    """Has readers leave the rows of the entity out: in the warehouse, and in the online store, which may be another database."""
    rules = {name: [(one.columns, sorted(forgotten.digest(salt, key) for key in one.keys)) for one in places.of_contract(name).conditions]
             for name in _contracts(places)}  # fmt: skip
    with job.connection.transaction():
        for name, found in rules.items():
            for columns, digests in found:
                forgotten.remember(job.connection, name, columns, digests, places.identity.entity.name)
    with online(settings) as connection:
        store.create(connection)
        for name, found in rules.items():
            connection.cursor().executemany(
                "insert into online.forgotten (contract, columns, digest, salt) values (%s, %s, %s, %s) on conflict do nothing",
                [(name, json.dumps(columns), one, salt) for columns, digests in found for one in digests],
            )


def _contracts(places: Places) -> list[str]:
    """All contracts, and those of change logs."""
    streams = record_streams(places.project)
    return list(dict.fromkeys([*(one.name for one in places.project.contracts), *(stream.contract.name for stream in streams)]))


def _with_rows(stores: Stores, job: Job, places: Places) -> Places:
    """The places with the keys of the entity's rows: those that are there now, and those that were when the job began."""
    now, before = find(stores.settings, stores.lake, places), job.state.get("found", {"by_contract": {}, "by_model": {}})
    found = Found(
        by_contract={name: keys | _keys(before["by_contract"].get(name, ())) for name, keys in now.by_contract.items()},
        by_model={name: keys | _keys(before["by_model"].get(name, ())) for name, keys in now.by_model.items()},
    )
    noted = {part: {name: sorted(keys) for name, keys in each.items()} for part, each in vars(found).items()}
    job.note("found", noted)
    return replace(places, found=found)


def _keys(noted: Sequence[Sequence[str]]) -> frozenset[Key]:
    return frozenset(tuple(key) for key in noted)


def _looked(places: Sequence[Place], on_step: Listener) -> dict[str, Held]:
    """What places have, those that have anything."""
    found = {}
    for number, place in enumerate(places, start=1):
        on_step(f"Looking at {place.name} ({number} of {len(places)})")
        held = place.look()
        if not held.is_nothing:
            found[place.name] = held
    return found


def _remove(stores: Stores, job: Job, places: Places, on_step: Listener) -> None:
    """Empties all places until nothing is found; raises NotForgotten."""
    for _ in range(ROUNDS):
        every = list(places_of(stores, places, job))
        held = _looked(every, on_step)
        if not held:
            return
        _note_seen(stores, job, places, held)
        for place in every:
            if place.name in held:
                on_step(f"Removing {held[place.name].rows:,} rows from {place.name}")
                place.empty()
    left = _looked(list(places_of(stores, places, job)), on_step)
    if left:
        raise NotForgotten(places.identity.entity.name, {name: one.rows for name, one in left.items()})


def _note_seen(stores: Stores, job: Job, places: Places, held: Mapping[str, Held]) -> None:
    """Notes what is about to be removed, at most so much of each place as was there at once, and which models learned from it."""
    before = job.state.get("held", {})
    most = {name: {part: max(before.get(name, {}).get(part, 0), count) for part, count in vars(one).items()} for name, one in held.items()}
    job.note("held", {**before, **most})
    sets, models = set(job.state.get("training_sets", ())), dict(job.state.get("model_versions", {}))
    for model in places.project.models:
        of_model = f"training set of {model.name} "
        seen = {name.removeprefix(of_model) for name in held if name.startswith(of_model)}
        if seen:
            learned = versions.trained_on(stores.settings, model)
            models[model.name] = sorted({*models.get(model.name, ()), *(number for number, one in learned.items() if one in seen)})
            sets |= {f"{model.name} {one}" for one in seen}
    job.note("training_sets", sorted(sets))
    job.note("model_versions", models)


def _proof(stores: Stores, job: Job, places: Places, digest: str, left: Sequence[str]) -> Proof:
    conditions = {name: places.of_contract(name).conditions for name in _contracts(places)}
    known = {name: sorted({", ".join(one.columns) for one in found}) for name, found in conditions.items() if found}
    topics = sorted({stream.topic for stream in record_streams(places.project) if stream.contract.name in known})
    return Proof(
        id=job.id,
        entity=places.identity.entity.name,
        key_digest=digest,
        begun_at=job.begun_at.astimezone(UTC),
        done_at=datetime.now(UTC),
        places=job.state.get("held", {}),
        training_sets=job.state.get("training_sets", []),
        model_versions=job.state.get("model_versions", {}),
        left=left,
        undeclared=undeclared(stores, places),
        topics=topics,
        not_taken_in=known,
    )
