"""Cleaned tables in, feature tables out: the reads from the warehouse and the write to the lake around the kernel."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from pipeline_assets.core import connections, names
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.features.catalogue import lookback
from pipeline_assets.processing.features.quality import Quality, judge
from pipeline_assets.processing.features.view import DECISION_AT, view_features
from pipeline_assets.processing.lake import tables
from pipeline_assets.processing.lake.tables import Published
from pipeline_assets.spec.features import CleanedTable, FeatureView
from pipeline_assets.spec.models import Model, Observations
from pipeline_assets.spec.use_case import UseCase

if TYPE_CHECKING:
    from psycopg.sql import Composable

INSTANT = pa.timestamp("us", tz="UTC")
# What a laptop holds in memory; more events than this go through the kernel in buckets of their keys, one after the other.
EVENTS_AT_ONCE = 20_000_000


@dataclass(frozen=True, kw_only=True)
class MaterializedView:
    """What became of a view's days: events read, the judgement of the table, and what the lake holds now.

    `published` is None where the judgement forbade it: then nothing was written.
    """

    events: int
    quality: Quality
    published: Published | None


def materialize_view(settings: Settings, use_case: UseCase, view: FeatureView, first: date, last: date) -> MaterializedView:
    """Put the features of the days `first` to `last` (UTC, inclusive, by decision_at) in the place of what the lake holds of them.

    One row per distinct (entity keys, decision_at) of the model's observations, keys without null. Nothing is written if a row is missing
    or doubled, or a value is NaN or infinite. The same days again give the same rows. Raises TableMismatch where a cleaned table is not
    what the view declares.
    """
    model = use_case.model
    needed = [*view.entity.keys, model.observations.decision_at]
    requests = requests_of(view, model.observations, read_observations(settings, model, first, last, needed))
    events = read_view_events(settings, view, first, last)
    table = compute(view, requests, events)
    quality = judge(requests, table, identity(view))
    published = None
    if quality.has_all_rows and quality.is_finite:
        published = tables.replace_days(settings, names.features(view.name), table, DECISION_AT, first, last)
    return MaterializedView(events=events.num_rows, quality=quality, published=published)


def identity(view: FeatureView) -> tuple[str, ...]:
    """The columns that tell the rows of a view's table apart."""
    return (*view.entity.keys, DECISION_AT)


def requests_of(view: FeatureView, observations: Observations, asked: pa.Table) -> pa.Table:
    """The entity keys and `decision_at` of the observations: distinct, none null, in the order of (decision_at, keys)."""
    columns = [pl.col(key) for key in view.entity.keys]
    requests = pl.DataFrame(asked).select(*columns, pl.col(observations.decision_at).alias(DECISION_AT)).drop_nulls().unique()
    return requests.sort(DECISION_AT, *view.entity.keys).to_arrow()


def compute(view: FeatureView, requests: pa.Table, events: pa.Table) -> pa.Table:
    """The rows of the view's table: the keys and time of each request, then its features."""
    features = view_features(view, requests, events, buckets=1 + events.num_rows // EVENTS_AT_ONCE)
    table = requests.select(identity(view))
    for name in features.column_names:
        table = table.append_column(name, features.column(name))
    return table


def read_view_events(settings: Settings, view: FeatureView, first: date, last: date) -> pa.Table:
    """Every event that a decision of the days `first` to `last` (UTC, inclusive) could count."""
    own = [feature.column for feature in view.features if feature.column is not None]
    span = lookback(view)
    first_at = None if span is None else _midnight(first) - span
    return read_events(settings, view.source, [*view.entity.keys, *own], first_at, _midnight(last + timedelta(days=1)))


def read_events(settings: Settings, table: CleanedTable, columns: Sequence[str], first_at: datetime | None, last_at: datetime) -> pa.Table:
    """The rows of a cleaned table that happened from `first_at` on (None: from the first), and happened and were known before `last_at`.

    Columns: those asked for, the two times and the columns that break ties, each once. Times are microseconds in UTC. In no order.
    """
    from psycopg.sql import SQL, Identifier, Literal

    wanted = list(dict.fromkeys((*columns, table.event_at, table.known_at, *table.order_by)))
    event_at, known_at = Identifier(table.event_at), Identifier(table.known_at)
    condition = SQL("{} < {} and {} < {}").format(event_at, Literal(last_at), known_at, Literal(last_at))
    if first_at is not None:
        condition = SQL("{} and {} >= {}").format(condition, event_at, Literal(first_at))
    selected = SQL(", ").join(Identifier(column) for column in wanted)
    return _read(settings, SQL("select {} from {} where {}").format(selected, Identifier(*names.cleaned(table.name)), condition))


def read_observations(settings: Settings, model: Model, first_day: date, last_day: date, columns: Sequence[str] | None = None) -> pa.Table:
    """The observations with decision_at in the days `first_day` to `last_day` (UTC, inclusive), by (decision_at, key).

    All columns, or those named. Times are microseconds in UTC.
    """
    from psycopg.sql import SQL, Identifier, Literal

    asked = model.observations
    query = SQL("select {columns} from {table} where {at} >= {first} and {at} < {end} order by {at}, {key} collate {bytes}").format(
        columns=SQL("*") if columns is None else SQL(", ").join(map(Identifier, dict.fromkeys(columns))),
        table=Identifier(*names.cleaned(asked.table)),
        at=Identifier(asked.decision_at),
        key=Identifier(asked.key),
        first=Literal(_midnight(first_day)),
        end=Literal(_midnight(last_day + timedelta(days=1))),
        bytes=Identifier("C"),
    )
    return _read(settings, query)


def _read(settings: Settings, query: "Composable") -> pa.Table:
    """The answer of the warehouse. Values stand in the text of the query: with bound ones the driver could not copy binary rows."""
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string())
        table: pa.Table = cursor.fetch_arrow_table()
    return table.cast(pa.schema([_in_utc(field) for field in table.schema]))


def _in_utc(field: pa.Field) -> pa.Field:
    """Times with a zone in UTC; a naive one stays naive, so that the kernel can refuse it by name."""
    is_instant = pa.types.is_timestamp(field.type) and field.type.tz is not None
    return pa.field(field.name, INSTANT if is_instant else field.type)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
