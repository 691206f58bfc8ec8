"""Which columns of cleaned tables each column of a feature table comes from."""

from pipeline_assets.core import names
from pipeline_assets.core.names import AssetName
from pipeline_assets.processing.features.view import DECISION_AT
from pipeline_assets.spec.features import FeatureView, Latest, Windowed
from pipeline_assets.spec.models import Observations

SourceColumn = tuple[AssetName, str]


def column_lineage(view: FeatureView, observations: Observations) -> dict[str, tuple[SourceColumn, ...]]:
    """Column of the feature table → the (cleaned table, column) pairs that its values depend on.

    Keys and decision_at come from the observations. A feature comes from its own column, the keys and two times of its source, the columns
    that break ties where it asks for the newest, and the keys and decision_at of the observations.
    """
    asked = names.cleaned(observations.table)
    keys = {key: ((asked, key),) for key in view.entity.keys}
    request = (*(pair for pairs in keys.values() for pair in pairs), (asked, observations.decision_at))
    lineage: dict[str, tuple[SourceColumn, ...]] = {**keys, DECISION_AT: ((asked, observations.decision_at),)}
    for feature in view.features:
        sources = _sources(view, feature)
        for window in (None,) if isinstance(feature, Latest) else feature.windows:
            lineage[names.feature(view.name, feature.name, window)] = (*sources, *request)
    return lineage


def _sources(view: FeatureView, feature: Windowed | Latest) -> tuple[SourceColumn, ...]:
    source, table = view.source, names.cleaned(view.source.name)
    own = () if feature.column is None else (feature.column,)
    ties = source.order_by if isinstance(feature, Latest) or feature.aggregate == "last" else ()
    columns = dict.fromkeys((*own, *view.entity.keys, source.event_at, source.known_at, *ties))
    return tuple((table, column) for column in columns)
