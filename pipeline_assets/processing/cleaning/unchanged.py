"""Which raw tables and models of dbt are as they would be made again, so that they are left as they are.

`publishing.built` has a note of each: a digest of all that it was made from, and one of what it held then. It is left as it is while both
are what they were, by a look at the tables themselves and not by time; so it does not matter who changed, restored or lost any of them, or
whether a note is older or newer than its table. What is made from depends on dbt's project with its version, on what each relation above
holds, and on those that tests compare with. A note is written once a table and all of its tests are done: a build that is killed before
leaves the note of an earlier one, which does not fit. Models that may give something else of the same rows are never noted
(`repeatable.py`).
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_assets.core import connections
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.cleaning.dbt import project_digest
from pipeline_assets.processing.cleaning.inspection import Held, read_held
from pipeline_assets.processing.cleaning.repeatable import is_repeatable

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composed

BUILDERS = ("dbt-core", "dbt-postgres")
MAKE = """
    select pg_advisory_xact_lock(hashtext('publishing.changed_days'));
    create schema if not exists publishing;
    create table if not exists publishing.built (relation text primary key, made_from text, held text, facts jsonb)
"""
NOTE = """
    insert into publishing.built values ({}, {}, {}, {}) on conflict (relation)
    do update set made_from = excluded.made_from, held = excluded.held, facts = excluded.facts
"""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The result of a test of dbt, as it is said again of a table that is left as it is."""

    name: str
    passed: bool
    severity: str
    description: str | None = None
    failed_rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is said again of a table that is left as it is: the results of its tests, and at which snapshot the lake has its copy."""

    tests: tuple[Tested, ...] = ()
    lake_snapshot: int | None = None


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a relation was made from, what it held then, and what is said of it again."""

    made_from: str
    held: str
    facts: Facts


def made_from(*parts: object) -> str:
    """A digest of what something is made from."""
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def make_notes(settings: Settings) -> None:
    """The table of notes, where it is not there yet."""
    with connections.warehouse(settings) as connection:
        if connection.execute("select to_regclass('publishing.built')").fetchone() == (None,):
            connection.execute(MAKE)


def read_notes(connection: "psycopg.Connection", tables: Iterable[AssetName]) -> dict[AssetName, Note]:
    """The notes of tables that have one."""
    if connection.execute("select to_regclass('publishing.built')").fetchone() == (None,):
        return {}
    asked = {".".join(table): table for table in tables}
    query = "select relation, made_from, held, facts from publishing.built where relation = any(%s)"
    return {
        asked[relation]: Note(made_from=made, held=held, facts=_facts(facts))
        for relation, made, held, facts in connection.execute(query, [list(asked)])
    }


def noting(table: AssetName, note: Note) -> "Composed":
    """The statement that puts a note in the place of the one before; `make_notes` was called."""
    from psycopg.sql import SQL

    return SQL(NOTE).format(".".join(table), note.made_from, note.held, json.dumps(asdict(note.facts)))


def _facts(found: Mapping[str, Any]) -> Facts:
    return Facts(tests=tuple(Tested(**test) for test in found["tests"]), lake_snapshot=found["lake_snapshot"])


def definition_of(project: Path) -> tuple[str, ...]:
    """What all models of a dbt project are made by: its files, and dbt."""
    return (project_digest(project), *map(version, BUILDERS))


@dataclass(frozen=True, kw_only=True)
class Registers:
    """Models of a dbt project that are not built by the day, by dbt's unique ids, with the tests that are run with them.

    definition: what they are made by, as it was before any of them was built.
    """

    definition: tuple[str, ...]
    manifest: Mapping[str, Any]
    models: frozenset[str]
    tests: frozenset[str]

    def tests_of(self, model: str) -> frozenset[str]:
        """The tests that read a model."""
        return self.tests.intersection(self.manifest["child_map"][model])

    def above(self, model: str) -> frozenset[str]:
        """All that a model and its tests read, directly or through others."""
        return self._read_by(model, *self.tests_of(model)) - {model}

    def in_order(self, models: Iterable[str]) -> list[str]:
        """The models, each after all that it reads."""
        return sorted(models, key=lambda model: (len(self._read_by(model)), model))

    def _read_by(self, *nodes: str) -> frozenset[str]:
        found, left = set[str](), list(nodes)
        while left:
            more = set(self.manifest["parent_map"].get(left.pop(), ())) - found
            found |= more
            left += more
        return frozenset(found)

    def table(self, name: str) -> AssetName:
        """The relation of a model or a source."""
        node = self.manifest["sources"].get(name) or self.manifest["nodes"][name]
        return node["schema"], node.get("identifier") or node["alias"]

    def due(self, changed: Collection[str]) -> frozenset[str]:
        """Models that changed, and all that read one of them or are compared with one."""
        found = set(changed)
        while more := {model for model in self.models - found if self.above(model) & found}:
            found |= more
        return frozenset(found)

    def made_from(self, model: str, held: Mapping[str, Held | None]) -> str | None:
        """What a model is made from while relations hold that; None where it is not known of one."""
        above = {".".join(self.table(one)): held[one] for one in self.above(model)}
        found = {name: one.digest for name, one in above.items() if one is not None}
        # What the environment and the target say in them as well.
        configs = [self.manifest["nodes"][one]["config"] for one in (model, *sorted(self.tests_of(model)))]
        return made_from(self.definition, configs, found) if len(found) == len(above) else None


@dataclass(frozen=True, kw_only=True)
class Look:
    """What registers and all above them held at a time, and which of them are as they would be built again, with their notes."""

    registers: Registers
    held: Mapping[str, Held | None]
    notes: Mapping[str, Note] = field(default_factory=dict)

    @cached_property
    def due(self) -> frozenset[str]:
        """The models that are to be built."""
        return self.registers.due([model for model in self.registers.models if not self._fits(model)])

    @property
    def unchanged(self) -> dict[str, Facts]:
        """The models that are as they would be built again, each after all that it reads, with what is said of them again."""
        return {model: self.notes[model].facts for model in self.registers.in_order(self.registers.models - self.due)}

    def rows(self, model: str) -> int | None:
        """The rows of a table; None of a view."""
        held = self.held[model]
        return None if held is None else held.rows

    def _fits(self, model: str) -> bool:
        note, held = self.notes.get(model), self.held[model]
        return (
            note is not None
            and held is not None
            and (note.held, note.made_from) == (held.digest, self.registers.made_from(model, self.held))
        )


def look_at(settings: Settings, registers: Registers) -> Look:
    """What registers and all above them hold now, each table read once, and their notes."""
    related = registers.models.union(*map(registers.above, registers.models))
    with connections.warehouse(settings) as connection:
        notes = read_notes(connection, map(registers.table, registers.models))
        held = {one: read_held(connection, registers.table(one)) for one in sorted(related)}
    by_model = {model: notes[registers.table(model)] for model in registers.models if registers.table(model) in notes}
    return Look(registers=registers, held=held, notes=by_model)


def note_built(settings: Settings, before: Look, facts: Mapping[str, Facts]) -> None:
    """Notes models that were just built, all of whose tests are done; `before` is the look that was taken before the first of them.

    One is left out whose rows above were changed by others meanwhile, as nobody knows which of them dbt read, and one that may give
    something else of the same rows.
    """
    registers = before.registers
    after = look_at(settings, registers)
    built = registers.models & facts.keys()
    moved = {one for one in after.held if one not in before.due and after.held[one] != before.held[one]}
    make_notes(settings)
    with connections.warehouse(settings) as connection:
        for model in sorted(built):
            made, held = registers.made_from(model, after.held), after.held[model]
            is_known = not registers.above(model) & moved and is_repeatable(registers.manifest, model, registers.tests_of(model))
            if made is not None and held is not None and is_known:
                connection.execute(noting(registers.table(model), Note(made_from=made, held=held.digest, facts=facts[model])))
