"""Where a model takes what is known now for what was known then: the tables with current rows alone that its inputs come from."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline_assets.core import names
from pipeline_assets.core.names import AssetName
from pipeline_assets.processing.cleaning.lineage import SourceColumn
from pipeline_assets.processing.cleaning.references import References
from pipeline_assets.processing.features.lineage import column_lineage
from pipeline_assets.spec.models import Model

# For a table, which columns of other tables each of its columns comes from; none where nobody knows.
Lineage = Callable[[AssetName], Mapping[str, Sequence[SourceColumn]]]


@dataclass(frozen=True, kw_only=True)
class CurrentUse:
    """A table with current rows alone that a model reads.

    `history` names the table beside it that has all versions, if there is one; `read_by` what of the model reads it, directly or through
    other tables.
    """

    table: AssetName
    history: str | None
    read_by: tuple[str, ...]

    @property
    def remedy(self) -> str:
        """What to do, where its values change."""
        name = self.table[1]
        if self.history is not None:
            return f"Read {self.history}, which has all versions."
        return f"Keep its versions in {name}{names.HISTORY}, as those of a followed table are. Nothing, if its values never change."


def current_uses(references: References, model: Model) -> tuple[CurrentUse, ...]:
    """The tables with current rows alone below the observations, the label and the views of a model, by name."""
    found: dict[tuple[AssetName, str | None], list[str]] = {}
    for reader, table in _readers(model):
        for one in references.current_only_below(table):
            found.setdefault((one.table, one.history), []).append(reader)
    return tuple(CurrentUse(table=table, history=history, read_by=tuple(by)) for (table, history), by in sorted(found.items(), key=str))


def columns_taken(model: Model, tables: Collection[AssetName], lineage: Lineage) -> dict[AssetName, tuple[str, ...]]:
    """The columns of each of `tables` that values of a model come from, as far as the lineage reaches; in order of their names."""
    found: dict[AssetName, set[str]] = {table: set() for table in tables}
    seen, left = set[SourceColumn](), list(_columns(model))
    while left:
        table, column = left.pop()
        if (table, column) in seen:
            continue
        seen.add((table, column))
        if table in found:
            found[table].add(column)
        else:
            left += lineage(table).get(column, ())
    return {table: tuple(sorted(columns)) for table, columns in found.items()}


def _readers(model: Model) -> Iterator[tuple[str, str]]:
    """What of a model reads a cleaned table, and which."""
    yield "observations", model.observations.table
    yield "label", model.label.table
    yield from ((f"view {view.name}", view.source.name) for view in model.views)


def _columns(model: Model) -> Iterator[SourceColumn]:
    """The columns of cleaned tables that a model reads."""
    asked, label = model.observations, model.label
    requested = (feature.column for feature in model.request_features)
    yield from ((names.cleaned(asked.table), column) for column in (*asked.keys, asked.decision_at, *model.slices, *requested))
    yield from ((names.cleaned(label.table), column) for column in (*label.keys, label.column, label.known_at))
    for view in model.views:
        for sources in column_lineage(view, [asked]).values():
            yield from sources
