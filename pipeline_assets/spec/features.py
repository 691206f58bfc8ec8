"""What a model may know about an entity at a moment: windows over events, latest values, and facts of the request itself."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

Aggregate = Literal["count", "sum", "mean", "stddev", "variance", "min", "max", "last", "rate", "time_since_last"]
Online = Literal["stream", "table"]
Transform = Literal["value", "hour", "weekday", "minute_of_day", "day_of_year"]
ONLINE: tuple[Online, ...] = get_args(Online)
TRANSFORMS: tuple[Transform, ...] = get_args(Transform)


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A thing that features describe, known by one or more key columns."""

    name: str
    keys: tuple[str, ...]
    description: str


@dataclass(frozen=True, kw_only=True)
class CleanedTable:
    """A cleaned dbt model that declarations read.

    `event_at` and `known_at` name its two times, `order_by` the columns that break ties between rows equal in both (the last wins).
    `superseded_at`, where rows have versions, is when the next version of the row was known, or its deletion (null for the current one):
    from then on the row counts no more, and what was asked before stays what it was.
    """

    name: str
    event_at: str
    known_at: str
    order_by: tuple[str, ...]
    superseded_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class Windowed:
    """An aggregate of `column` over each of `windows`, one feature a window.

    A window w asked at t covers the events with floor_hop(t − w) <= event_at <= t and known_at <= t, less those superseded by t. `column`
    is None for `count` of all events and for `time_since_last` (seconds since the newest event); `rate` wants a boolean column and gives
    the share that is true. Nulls are not counted; no event gives null, or `default` where one is declared, and 0 for `count`. The hop
    follows from w (5 min up to 12 h, 1 h up to 10 d, 1 d beyond) unless declared.
    """

    name: str
    aggregate: Aggregate
    windows: tuple[timedelta, ...]
    column: str | None = None
    hop: timedelta | None = None
    default: float | None = None


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Categories that training finds in its train block: the `most` frequent values (ties by value); any other value is null."""

    most: int = 100


@dataclass(frozen=True, kw_only=True)
class Latest:
    """The newest value of `column` known at the time asked; null when there is none or it is older than `ttl` (by event_at).

    A number is its value, a boolean 0 or 1, a date or timestamp the seconds from it to the decision (negative where it is later). Text is
    categorical and must say by which `values`: those listed, or learned ones; null where the value is not among them. In place of null
    stands `default`, where one is declared: a value of the column.
    """

    name: str
    column: str
    ttl: timedelta | None = None
    values: tuple[str, ...] | Learned = ()
    default: float | str | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureView:
    """Features of one entity from one cleaned table; one table in the lake.

    `online` says how they are kept for answers at any moment: "stream" a second behind the topic of their source, which takes a table that
    dbt derives row by row from one `EventStream`; "table" as the lake gets commits of the cleaned table; None not at all. Values are
    the same in each way, and so is the definition of the view.
    """

    name: str
    entity: Entity
    source: CleanedTable
    features: tuple[Windowed | Latest, ...]
    owner: str
    description: str
    freshness: timedelta
    online: Online | None = "table"


@dataclass(frozen=True, kw_only=True)
class RequestFeature:
    """A fact of the request itself: `column` of the observation, as it is or as a part of its time in `time_zone`.

    The values of columns are taken as in `Latest`; text must say by which `values` it is categorical, listed or learned ones. `default` is
    taken where the request has no value (None: then the feature is null), for decisions of the past and for questions alike; with one
    a question may leave the column out.
    """

    name: str
    column: str
    description: str
    transform: Transform = "value"
    time_zone: str = "UTC"
    values: tuple[str, ...] | Learned = ()
    default: float | bool | str | None = None
