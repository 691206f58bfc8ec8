"""Which columns of cleaned tables each column of a feature table comes from."""

from collections.abc import Sequence

from pipeline_assets.core import names
from pipeline_assets.core.names import AssetName
from pipeline_assets.spec.features import FeatureView, Latest, Windowed
from pipeline_assets.spec.models import Observations

SourceColumn = tuple[AssetName, str]


def column_lineage(view: FeatureView, asked: Sequence[Observations]) -> dict[str, tuple[SourceColumn, ...]]:
    """Column of the feature table → the (cleaned table, column) pairs that its values depend on.

    Keys and decision_at come from the observations of the models that use the view. A feature comes from its own column, the keys and
    two times of its source, the columns that break ties where it asks for the newest, and the keys and decision_at of the observations.
    """
    decided = tuple(dict.fromkeys((names.cleaned(one.table), one.decision_at) for one in asked))
    keys = {key: tuple(dict.fromkeys((table, key) for table, _ in decided)) for key in view.entity.keys}
    request = (*(pair for pairs in keys.values() for pair in pairs), *decided)
    lineage: dict[str, tuple[SourceColumn, ...]] = {**keys, names.DECISION_AT: decided}
    for feature in view.features:
        sources = _sources(view, feature)
        for window in (None,) if isinstance(feature, Latest) else feature.windows:
            lineage[names.feature(view.name, feature.name, window)] = tuple(dict.fromkeys((*sources, *request)))
    return lineage


def _sources(view: FeatureView, feature: Windowed | Latest) -> tuple[SourceColumn, ...]:
    source, table = view.source, names.cleaned(view.source.name)
    own = () if feature.column is None else (feature.column,)
    ties = source.order_by if isinstance(feature, Latest) or feature.aggregate == "last" else ()
    superseded = () if source.superseded_at is None else (source.superseded_at,)
    columns = dict.fromkeys((*own, *view.entity.keys, source.event_at, source.known_at, *superseded, *ties))
    return tuple((table, column) for column in columns)
