"""Which columns of cleaned tables each column of a feature table comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline_assets.core import names
from pipeline_assets.processing.cleaning.lineage import SourceColumn
from pipeline_assets.spec.features import FeatureView, Latest, Windowed
from pipeline_assets.spec.models import Observations

SINCE_LAST = "time_since_last"


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """The (table, column) pairs of one column: those that it is computed from, and those that decide which rows it is computed from."""

    computed_from: tuple[SourceColumn, ...]
    decided_by: tuple[SourceColumn, ...] = ()

    @property
    def all(self) -> tuple[SourceColumn, ...]:
        """Both, each pair once."""
        return tuple(dict.fromkeys((*self.computed_from, *self.decided_by)))


def column_lineage(view: FeatureView, asked: Sequence[Observations]) -> dict[str, tuple[SourceColumn, ...]]:
    """Column of the feature table → the (cleaned table, column) pairs that its values depend on, see `dependencies`."""
    return {column: found.all for column, found in dependencies(view, asked).items()}


def dependencies(view: FeatureView, asked: Sequence[Observations]) -> Mapping[str, Dependencies]:
    """What each column of the feature table depends on.

    Keys and decision_at come from the observations of the models that use the view. A feature is computed from its own column; a time since
    the last event from the times of both; where events as such are counted, from none. Which rows it is computed from is decided by the
    keys and times of its source, the columns that break ties where it asks for the newest, and the keys and decision_at of the
    observations.
    """
    decided = tuple(dict.fromkeys((names.cleaned(one.table), one.decision_at) for one in asked))
    keys = {key: tuple(dict.fromkeys((table, key) for table, _ in decided)) for key in view.entity.keys}
    request = (*(pair for pairs in keys.values() for pair in pairs), *decided)
    found = {column: Dependencies(computed_from=pairs) for column, pairs in (*keys.items(), (names.DECISION_AT, decided))}
    for feature in view.features:
        is_since = isinstance(feature, Windowed) and feature.aggregate == SINCE_LAST
        since = ((names.cleaned(view.source.name), view.source.event_at), *decided) if is_since else ()
        own = () if feature.column is None else ((names.cleaned(view.source.name), feature.column),)
        one = Dependencies(computed_from=(*own, *since), decided_by=(*_deciding(view, feature), *request))
        for window in (None,) if isinstance(feature, Latest) else feature.windows:
            found[names.feature(view.name, feature.name, window)] = one
    return found


def _deciding(view: FeatureView, feature: Windowed | Latest) -> tuple[SourceColumn, ...]:
    source, table = view.source, names.cleaned(view.source.name)
    ties = source.order_by if isinstance(feature, Latest) or feature.aggregate == "last" else ()
    superseded = () if source.superseded_at is None else (source.superseded_at,)
    columns = dict.fromkeys((*view.entity.keys, source.event_at, source.known_at, *superseded, *ties))
    return tuple((table, column) for column in columns)
