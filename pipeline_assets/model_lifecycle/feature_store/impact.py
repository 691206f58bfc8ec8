"""What depends on a field of a contract, or on a column of a dbt model."""

from collections.abc import Collection
from dataclasses import dataclass

from pipeline_assets.core import names
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.model_lifecycle.feature_store.lineage import DECISION, LABEL, OF_REQUEST, SLICE, ProjectLineage, by_table
from pipeline_assets.model_lifecycle.feature_store.origins import Origin, origin_of
from pipeline_assets.processing.cleaning.lineage import SourceColumn

OF_MODELS = frozenset({DECISION, LABEL, OF_REQUEST, SLICE})


@dataclass(frozen=True, kw_only=True)
class Dependents:
    """What depends on a column in one way.

    columns: those of dbt models, by table. features: of views by name, with those of requests as <model>: <feature>. labels, decisions and
    slices: by model, the columns that its label, its decisions (keys, times, versions) and its slices are read from.
    """

    columns: dict[str, tuple[str, ...]]
    features: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    decisions: dict[str, tuple[str, ...]]
    slices: dict[str, tuple[str, ...]]

    @property
    def is_empty(self) -> bool:
        """Whether nothing depends on the column in this way."""
        return not (self.columns or self.features or self.labels or self.decisions or self.slices)


@dataclass(frozen=True, kw_only=True)
class Impact:
    """What a change of a column changes: what is computed from it, and what has its rows kept, joined or distinguished by it alone.

    models: those that learn from any of that, with the tables of their predictions. unread: tables whose SQL could not be read, so that
    what depends on the column through them is not known, with the reason.
    """

    column: Origin
    computed_from_it: Dependents
    rows_decided_by_it: Dependents
    models: dict[str, str]
    unread: dict[str, str]

    @property
    def is_empty(self) -> bool:
        """Whether nothing depends on the column."""
        return self.computed_from_it.is_empty and self.rows_decided_by_it.is_empty


def impact_of(lineage: ProjectLineage, name: str) -> Impact:
    """What depends on `<contract>.<field>`, `<dbt model>.<column>` or `<schema>.<table>.<column>`; raises UnknownName."""
    column = find_column(lineage, name)
    reached = lineage.reached(column)
    return Impact(
        column=origin_of(lineage, column),
        computed_from_it=_dependents(reached.computed),
        rows_decided_by_it=_dependents(reached.decided),
        models=_models(lineage, reached.computed | reached.decided),
        unread={".".join(table): model.unread for table, model in lineage.dbt.models.items() if model.unread is not None},
    )


def find_column(lineage: ProjectLineage, name: str) -> SourceColumn:
    """The column that a person names; a contract goes before a dbt model of the same name, whose schema can be written before it."""
    known = _known(lineage)
    if name not in known:
        raise UnknownName("contract field or dbt column", name, list(known))
    return known[name]


def _known(lineage: ProjectLineage) -> dict[str, SourceColumn]:
    found: dict[str, SourceColumn] = {}
    for contract in lineage.project.contracts:
        found |= {f"{contract.name}.{field.name}": (names.raw(contract.name), field.name) for field in contract.fields}
    for (schema, table), model in lineage.dbt.models.items():
        for column in model.columns:
            found.setdefault(f"{table}.{column}", ((schema, table), column))
            found[f"{schema}.{table}.{column}"] = ((schema, table), column)
    return found


def _dependents(columns: Collection[SourceColumn]) -> Dependents:
    of_requests = (f"{model}: {feature}" for (kind, model), feature in columns if kind == OF_REQUEST)
    of_views = (column for (schema, _), column in columns if schema == names.FEATURES and "__" in column)
    tables = [column for column in columns if column[0][0] not in {*OF_MODELS, names.FEATURES, names.RAW}]
    return Dependents(
        columns=by_table(tables),
        features=(*sorted(of_views), *sorted(of_requests)),
        **{
            f"{kind}s": {table.partition(".")[2]: found for table, found in by_table(one for one in columns if one[0][0] == kind).items()}
            for kind in (LABEL, DECISION, SLICE)
        },
    )


def _models(lineage: ProjectLineage, columns: Collection[SourceColumn]) -> dict[str, str]:
    views = {view for (schema, view), _ in columns if schema == names.FEATURES}
    found = {model for (kind, model), _ in columns if kind in OF_MODELS}
    users = [model.name for model in lineage.project.models if model.name in found or views & {view.name for view in model.views}]
    return {name: ".".join(names.predictions(name)) for name in users}
