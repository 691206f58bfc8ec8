"""By which columns an entity is known in each table: what declarations and the lineage of columns say, and nothing else.

The views that describe an entity name its key columns in cleaned tables; the observations of their models have the same. From there a
column is followed through dbt as long as it is only renamed, down to the fields of contracts and up to other tables. A register that is
joined by the key is the entity's own where that is the whole primary key of its contract.

Where a key is computed in dbt, the fields of contracts that it is computed from do not say it. There rows are found by the primary key of
their contract, as far as a table of dbt has that by renaming; so are rows of tables that have the primary key of rows of the entity, and
not its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from pipeline_assets.core import names
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.project import Project
from pipeline_assets.processing.cleaning.lineage import DbtLineage, SourceColumn
from pipeline_assets.spec.features import Entity

Columns = tuple[str, ...]
Place = tuple[AssetName, Columns]


@dataclass(frozen=True, kw_only=True)
class Keyed:
    """A table of dbt that has the primary key of a contract in these columns, in the order of that key."""

    table: AssetName
    columns: Columns
    contract: str


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Where an entity is known by its key: by table the columns that hold it, each in the order of the entity's keys.

    `computed` are tables whose rows say by their own key which rows of a contract are the entity's, as the contract has no field for it;
    `carried` have no key of the entity, and the primary key of rows that have it.
    """

    entity: Entity
    columns: Mapping[AssetName, tuple[Columns, ...]]
    computed: tuple[Keyed, ...] = ()
    carried: tuple[Keyed, ...] = ()

    def of(self, table: AssetName) -> tuple[Columns, ...]:
        """The columns of a table that hold the key; none where it is not known there."""
        return self.columns.get(table, ())


def entity_of(project: Project, name: str) -> Entity:
    """The entity of that name; raises UnknownName with those there are."""
    known = {view.entity.name: view.entity for view in project.views}
    if name not in known:
        raise UnknownName("entity", name, sorted(known))
    return known[name]


def identity_of(project: Project, dbt: DbtLineage, entity: Entity) -> Identity:
    """By which columns an entity is known in the tables of dbt and of contracts."""
    ways = _Ways(project, dbt)
    seeds = list(_seeds(project, entity))
    found = ways.spread(seeds)
    found |= ways.spread(ways.registers(found))
    columns: dict[AssetName, tuple[Columns, ...]] = {}
    for table, named in sorted(found):
        columns[table] = (*columns.get(table, ()), named)
    for stream in project.streams:
        if stream.history is not None and names.raw(stream.contract.name) in columns:
            theirs = stream.history.source.contract
            fields = {field.name for field in theirs.fields}
            own = tuple(one for one in columns[names.raw(stream.contract.name)] if fields.issuperset(one))
            columns.setdefault(names.raw(theirs.name), own)
    return Identity(
        entity=entity,
        columns=columns,
        computed=tuple(ways.computed(seeds, columns)),
        carried=tuple(ways.carried(columns)),
    )


def _seeds(project: Project, entity: Entity) -> Iterator[Place]:
    for view in project.views:
        if view.entity.name == entity.name:
            yield names.cleaned(view.source.name), entity.keys
            yield from ((names.cleaned(model.observations.table), entity.keys) for model in project.models_of(view))


class _Ways:
    """The ways on which a column of the project is only renamed."""

    def __init__(self, project: Project, dbt: DbtLineage) -> None:
        self._project, self._dbt = project, dbt
        self._above: dict[SourceColumn, list[SourceColumn]] = {}
        self._below: dict[SourceColumn, tuple[SourceColumn, ...]] = {}
        for table, model in dbt.models.items():
            for name, origin in model.columns.items():
                if not origin.expression and origin.same_row and not origin.other_rows:
                    self._below[table, name] = origin.same_row
                    for column in origin.same_row:
                        self._above.setdefault(column, []).append((table, name))

    def spread(self, seeds: Iterable[Place]) -> set[Place]:
        """These columns, and all that are the same by renaming."""
        found, left = set[Place](), list(seeds)
        while left:
            place = left.pop()
            if place not in found:
                found.add(place)
                left += [*self._next(place, self._below), *self._next(place, self._above)]
        return found

    def _next(self, place: Place, ways: "Mapping[SourceColumn, Iterable[SourceColumn]]") -> Iterator[Place]:
        """The same key one table further; of a key of several columns only where it is not in doubt which are meant."""
        table, columns = place
        reached = [list(ways.get((table, column), ())) for column in columns]
        for other in {one for one, _ in reached[0]}:
            named = [[column for theirs, column in each if theirs == other] for each in reached]
            if all(named) and (len(columns) == 1 or all(len(each) == 1 for each in named)):
                yield from ((other, chosen) for chosen in product(*named))

    def registers(self, found: Iterable[Place]) -> Iterator[Place]:
        """The tables of contracts whose whole primary key is joined to the key of an entity."""
        pairs = {pair for model in self._dbt.models.values() for one, other in model.joined for pair in ((one, other), (other, one))}
        for table, columns in found:
            for contract in self._project.contracts:
                raw = names.raw(contract.name)
                reached = [{root for one, other in pairs if one == (table, column) for root in self._roots(other)} for column in columns]
                chosen = [[name for theirs, name in each if theirs == raw] for each in reached]
                if all(len(each) == 1 for each in chosen) and sorted(each[0] for each in chosen) == sorted(contract.primary_key):
                    yield raw, tuple(each[0] for each in chosen)

    def computed(self, seeds: Iterable[Place], columns: Mapping[AssetName, object]) -> Iterator[Keyed]:
        """Of contracts that have no field for the key, the tables that have both it and their primary key."""
        for table, key in dict.fromkeys(seeds):
            behind = {theirs for theirs, _ in self._dbt.behind((table, column) for column in key).same_row}
            for contract in self._project.contracts:
                raw = names.raw(contract.name)
                if raw in behind and raw not in columns:
                    yield from self._keyed(table, contract.name)

    def carried(self, columns: Mapping[AssetName, object]) -> Iterator[Keyed]:
        """The tables of dbt without the key, that have the primary key of a contract with it."""
        for table in self._dbt.models:
            if table not in columns:
                for contract in self._project.contracts:
                    if names.raw(contract.name) in columns:
                        yield from self._keyed(table, contract.name)

    def _keyed(self, table: AssetName, contract_name: str) -> Iterator[Keyed]:
        contract = next(one for one in self._project.contracts if one.name == contract_name)
        raw, own = names.raw(contract_name), self._dbt.models[table].columns
        fields = [[name for name in own if self._roots((table, name)) == {(raw, field)}] for field in contract.primary_key]
        if all(fields):
            yield Keyed(table=table, columns=tuple(each[0] for each in fields), contract=contract_name)

    def _roots(self, column: SourceColumn) -> set[SourceColumn]:
        """The fields of contracts that a column is, by renaming alone."""
        found, left = set[SourceColumn](), [column]
        while left:
            one = left.pop()
            below = self._below.get(one)
            if below is None and one[0] not in self._dbt.models:
                found.add(one)
            left += below or ()
        return found
