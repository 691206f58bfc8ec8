"""The way of a column down: through the dbt models to the fields of contracts, and from there to the system that emits them."""

from dataclasses import dataclass

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage, named
from pipeline_assets.processing.cleaning.lineage import SourceColumn
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import EventStream, Files, PostgresTable, RestEndpoint, Source

LOADS = {
    "changes": "followed by its changes",
    "daily": "loaded by the day",
    "snapshot": "loaded whole",
    "incremental": "loaded by its cursor",
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A column and what it is computed from.

    column: `<schema>.<table>.<column>`, or `<contract>.<field>` at the end of the way. expression: how it is computed, in SQL; empty where
    it is only renamed. of_other_rows: whether it reaches what is above by a window or an aggregate alone. source: the system and the table,
    endpoint, files or topic of a contract; None of a dbt model. type, description: of a field.
    """

    column: str
    expression: str = ""
    of_other_rows: bool = False
    type: str | None = None
    description: str | None = None
    source: str | None = None
    computed_from: tuple["Origin", ...] = ()


def origin_of(lineage: ProjectLineage, column: SourceColumn, *, of_other_rows: bool = False) -> Origin:
    """The way of a column down to the fields of contracts."""
    found = lineage.dbt.origin(column)
    if found is None:
        return _of_contract(lineage, column, of_other_rows=of_other_rows)
    return Origin(
        column=named(column),
        expression=found.expression,
        of_other_rows=of_other_rows,
        computed_from=(
            *(origin_of(lineage, one) for one in found.same_row),
            *(origin_of(lineage, one, of_other_rows=True) for one in found.other_rows),
        ),
    )


def _of_contract(lineage: ProjectLineage, column: SourceColumn, *, of_other_rows: bool) -> Origin:
    (schema, table), name = column
    contract = lineage.contract(table) if schema == names.RAW else None
    if contract is None:
        return Origin(column=named(column), of_other_rows=of_other_rows)
    field = next((one for one in contract.fields if one.name == name), None)
    return Origin(
        column=f"{table}.{name}",
        of_other_rows=of_other_rows,
        type=None if field is None else field.type,
        description=None if field is None else field.description,
        source=source_of(lineage.project, contract),
    )


def source_of(project: Project, contract: Contract) -> str:
    """Where the rows of a contract come from, in words."""
    stream = next((one for one in project.streams if one.contract.name == contract.name), None)
    if stream is not None:
        return _topic(stream)
    return _source(next(one for one in project.sources if one.contract.name == contract.name))


def _topic(stream: EventStream) -> str:
    routed = "" if stream.route is None else f", records whose {stream.route.field} is {stream.route.value}"
    before = "" if stream.history is None else f"; before it began {_source(stream.history.source)}"
    return f"topic {stream.topic}{routed}{before}"


def _source(source: Source) -> str:
    match source.origin:
        case PostgresTable() as table:
            place = f"table {table.schema}.{table.table} of database {table.database}"
        case RestEndpoint() as endpoint:
            place = f"endpoint {endpoint.path} of service {endpoint.service}"
        case Files() as files:
            place = f"files {files.pattern} of folder {files.folder}"
    return f"{place}, {LOADS[source.load]}"
