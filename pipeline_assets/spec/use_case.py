"""A use case: everything declared about one domain, in one object."""

from dataclasses import dataclass
from datetime import date
from typing import Literal

from pipeline_assets.spec.models import Model
from pipeline_assets.spec.sources import EventStream, Source

# What runs by itself: sources load, vectors are scored and the scores watched, models train, runs that failed are asked for again.
Automatic = Literal["load", "score", "train", "retry"]
ALL: tuple[Automatic, ...] = ("load", "score", "train", "retry")


@dataclass(frozen=True, kw_only=True)
class UseCase:
    """The declarations of one use case; `first_day` and `last_day` (UTC, inclusive; None: open end) bound its partitions.

    Its views and entities are those of its models. Sources, streams and views may be imported from another use case: equal objects are one
    asset, and use cases that share any have the days of all of them. What is not among `automatic` is off until somebody switches it on in
    Dagster; streams are followed in any case.
    """

    name: str
    owner: str
    description: str
    first_day: date
    last_day: date | None
    sources: tuple[Source, ...]
    streams: tuple[EventStream, ...]
    models: tuple[Model, ...]
    automatic: tuple[Automatic, ...] = ALL
