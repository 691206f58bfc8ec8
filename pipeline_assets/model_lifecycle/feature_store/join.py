"""The join of a model's observations with the feature tables of its views: exact, on entity keys and time, row for row."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.errors import FeaturesMissing, TableMismatch
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.columns import DECISION_AT, text_or_whole
from pipeline_assets.processing.features.materialize import identity
from pipeline_assets.processing.features.view import feature_names
from pipeline_assets.spec.features import FeatureView

FOUND = "__found"
INSTANT = pl.Datetime("us", "UTC")


def join_view(view: FeatureView, requests: pa.Table, features: pa.Table) -> pa.Table:
    """The features of each request, taken from the view's feature table.

    requests: the entity's key columns and `decision_at`, any order, other columns ignored. features: one row per distinct (keys,
    decision_at), with the view's feature columns.
    Returns len(requests) rows in their order, repeats kept, with the columns `feature_names(view)`. A request with a null key has no row in
    the feature table; it gets the empty value of each feature, as from the kernel where nothing matches: 0 for
    counts, else its default or null.
    Raises FeaturesMissing if a request without null keys has no row, TableMismatch if the feature table has two.
    """
    on, columns = list(identity(view)), feature_names(view)
    asked, rows = _frame("requests", requests, view), _frame(_name(view), features, view, columns)
    if rows.select(on).is_duplicated().any():
        raise TableMismatch(_name(view), f"holds a row of ({', '.join(on)}) more than once", features.column_names)
    joined = asked.join(rows.with_columns(pl.lit(value=True).alias(FOUND)), on=on, how="left", maintain_order="left")
    _check_found(view, joined)
    empty = [pl.col(column.name).fill_null(column.nothing) for column in view_columns(view) if column.nothing is not None]
    return joined.with_columns(empty).select(columns).rechunk().to_arrow()


def _check_found(view: FeatureView, joined: pl.DataFrame) -> None:
    has_keys = pl.all_horizontal(pl.col(key).is_not_null() for key in view.entity.keys)
    lost = joined.filter(pl.col(FOUND).is_null() & has_keys)
    if lost.height:
        first = lost[DECISION_AT].min()
        raise FeaturesMissing(_name(view), lost.height, str(first))


def _frame(name: str, table: pa.Table, view: FeatureView, columns: Sequence[str] = ()) -> pl.DataFrame:
    missing = [column for column in (*identity(view), *columns) if column not in table.column_names]
    if missing:
        raise TableMismatch(name, f"lacks {', '.join(missing)}", table.column_names)
    keys = {key: text_or_whole(table, name, key) for key in view.entity.keys}
    rows = pa.table({**keys, **{column: table[column] for column in (DECISION_AT, *columns)}})
    return pl.DataFrame(rows).with_columns(pl.col(DECISION_AT).cast(INSTANT))


def _name(view: FeatureView) -> str:
    return ".".join(names.features(view.name))
