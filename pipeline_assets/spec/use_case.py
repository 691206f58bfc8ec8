"""A use case: everything declared about one question, in one object."""

from dataclasses import dataclass
from datetime import date

from pipeline_assets.spec.features import Entity, FeatureView
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.monitors import Monitor
from pipeline_assets.spec.sources import EventStream, Source


@dataclass(frozen=True, kw_only=True)
class UseCase:
    """The declarations of one use case; `first_day` and `last_day` (UTC, inclusive) bound its partitions."""

    name: str
    owner: str
    description: str
    first_day: date
    last_day: date | None
    sources: tuple[Source, ...]
    streams: tuple[EventStream, ...]
    entities: tuple[Entity, ...]
    views: tuple[FeatureView, ...]
    model: Model
    monitor: Monitor
