"""Cleaned tables in, feature tables out: the reads from the warehouse and the write to the lake around the kernel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import connections, names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.features import inputs
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.columns import DECISION_AT, text_or_whole
from pipeline_assets.processing.features.quality import Quality, judge
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.processing.lake import tables
from pipeline_assets.processing.lake.tables import Published
from pipeline_assets.spec.features import CleanedTable, FeatureView
from pipeline_assets.spec.models import Model, Observations

if TYPE_CHECKING:
    from psycopg.sql import Composable

INSTANT = pa.timestamp("us", tz="UTC")
TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}
# What a laptop holds in memory; more events than this go through the kernel in buckets of their keys, one after the other.
EVENTS_AT_ONCE = 20_000_000


@dataclass(frozen=True, kw_only=True)
class MaterializedView:
    """What became of a view's days: events read, rows kept and computed, the judgement of the table, and what the lake holds now.

    `published` is None where the judgement forbade it: then nothing was written.
    """

    events: int
    kept: int
    computed: int
    quality: Quality
    published: Published | None


def materialize_view(settings: Settings, view: FeatureView, models: Sequence[Model], first: date, last: date) -> MaterializedView:
    """Put the features of the days `first` to `last` (UTC, inclusive, by decision_at) in the place of what the lake holds of them.

    One row per distinct (entity keys, decision_at) that any of the `models` asks for, keys without null. Rows of a day are kept as they are
    where neither the view nor the events that it can see have changed since they were written, so that a model that is added computes
    its own rows alone. Nothing is written if a row is missing or doubled, or a value is NaN or infinite. The same days again give the
    same rows. Raises TableMismatch where a cleaned table is not what the view declares.
    """
    requests = requests_of(view, [(asked, _read_asked(settings, asked, view, first, last)) for asked in _distinct(models)])
    events = read_view_events(settings, view, first, last)
    digests = inputs.digests(view, events, [first + timedelta(days=offset) for offset in range((last - first).days + 1)])
    kept = _kept(settings, view, requests, digests)
    missing = _without(requests, kept, view)
    table = pa.concat_tables([kept, compute(view, missing, events)])
    quality, published = judge(requests, table, identity(view)), None
    if quality.has_all_rows and quality.is_finite:
        published = tables.replace_days(settings, names.features(view.name), table, DECISION_AT, first, last, inputs=digests)
    return MaterializedView(events=events.num_rows, kept=kept.num_rows, computed=missing.num_rows, quality=quality, published=published)


def _distinct(models: Sequence[Model]) -> list[Observations]:
    """The observations of the models, each table and time once."""
    return list({(model.observations.table, model.observations.decision_at): model.observations for model in models}.values())


def _read_asked(settings: Settings, asked: Observations, view: FeatureView, first: date, last: date) -> pa.Table:
    return _select_observations(settings, asked, first, last, [*view.entity.keys, asked.decision_at])


def _kept(settings: Settings, view: FeatureView, requests: pa.Table, digests: Mapping[date, str]) -> pa.Table:
    """The rows in the lake that are asked for and that were made from the same inputs; none where nothing was written yet."""
    schema, identifier = _schema(view, requests), names.features(view.name)
    snapshot, known = tables.made_from(settings, identifier)
    same = [day for day, digest in digests.items() if known.get(day) == digest]
    if not same:
        return schema.empty_table()
    found = pl.DataFrame(tables.read_days(settings, identifier, same[0], same[-1], schema.names, snapshot).read_all())
    asked = pl.DataFrame(requests).filter(pl.col(DECISION_AT).dt.date().is_in(same))
    return found.join(asked, on=identity(view), how="semi").rechunk().to_arrow().cast(schema)


def _without(requests: pa.Table, kept: pa.Table, view: FeatureView) -> pa.Table:
    """The requests that no kept row answers."""
    on = identity(view)
    missing = pl.DataFrame(requests).join(pl.DataFrame(kept.select(on)), on=on, how="anti", maintain_order="left")
    return missing.rechunk().to_arrow().cast(requests.schema)


def _schema(view: FeatureView, requests: pa.Table) -> pa.Schema:
    """The schema of the view's table, as the kernel gives it."""
    keys = [requests.schema.field(name) for name in identity(view)]
    return pa.schema([*keys, *(pa.field(column.name, TYPES[column.dtype]) for column in view_columns(view))])


def identity(view: FeatureView) -> tuple[str, ...]:
    """The columns that identify a row of a view's table."""
    return (*view.entity.keys, DECISION_AT)


def requests_of(view: FeatureView, asked: Sequence[tuple[Observations, pa.Table]]) -> pa.Table:
    """The entity keys and `decision_at` of all observations: distinct, none null, in the order of (decision_at, keys).

    Raises TableMismatch if a key is text in one table of observations and a number in another.
    """
    parts = [_keys_and_time(view, each, rows) for each, rows in asked]
    for (each, _), part in zip(asked, parts, strict=True):
        _refuse_unlike(view, each, part, parts[0])
    requests = pl.concat([pl.DataFrame(part) for part in parts]).drop_nulls().unique()
    return requests.sort(DECISION_AT, *view.entity.keys).rechunk().to_arrow()


def _keys_and_time(view: FeatureView, asked: Observations, rows: pa.Table) -> pa.Table:
    keys = {key: text_or_whole(rows, asked.table, key) for key in view.entity.keys}
    return pa.table({**keys, DECISION_AT: rows[asked.decision_at]})


def _refuse_unlike(view: FeatureView, asked: Observations, ours: pa.Table, first: pa.Table) -> None:
    for key in view.entity.keys:
        found, expected = ours.schema.field(key).type, first.schema.field(key).type
        if found != expected:
            problem = f"has {found} in column '{key}', other observations of view '{view.name}' have {expected}"
            raise TableMismatch(asked.table, problem, ours.column_names)


def compute(view: FeatureView, requests: pa.Table, events: pa.Table) -> pa.Table:
    """The rows of the view's table: the keys and time of each request, then its features."""
    features = view_features(view, requests, events, buckets=1 + events.num_rows // EVENTS_AT_ONCE)
    table = requests.select(identity(view))
    for name in features.column_names:
        table = table.append_column(name, features.column(name))
    return table


def read_view_events(settings: Settings, view: FeatureView, first: date, last: date) -> pa.Table:
    """Every event that a decision of the days `first` to `last` (UTC, inclusive) could count, from the beginning of a day on."""
    return read_events_of(settings, view.source, [view], first, last)


def read_events_of(settings: Settings, source: CleanedTable, views: Sequence[FeatureView], first: date, last: date) -> pa.Table:
    """All events that a decision of the days `first` to `last` (UTC, inclusive) could count in one of the views of a source."""
    own = [feature.column for view in views for feature in view.features if feature.column is not None]
    reach = [inputs.first_event_day(view, first) for view in views]
    limited = [day for day in reach if day is not None]
    first_at = _midnight(min(limited)) if len(limited) == len(reach) else None
    keys = [key for view in views for key in view.entity.keys]
    return read_events(settings, source, [*keys, *own], first_at, _midnight(last + timedelta(days=1)))


def read_events(settings: Settings, table: CleanedTable, columns: Sequence[str], first_at: datetime | None, last_at: datetime) -> pa.Table:
    """The rows of a cleaned table that happened from `first_at` on (None: from the first) and before `last_at`, whenever they were known.

    Columns: those asked for, the two times and the columns that break ties, each once. Times are microseconds in UTC. In no order.
    """
    from psycopg.sql import SQL, Identifier, Literal

    wanted = list(dict.fromkeys((*columns, table.event_at, table.known_at, *table.order_by)))
    event_at = Identifier(table.event_at)
    condition = SQL("{} < {}").format(event_at, Literal(last_at))
    if first_at is not None:
        condition = SQL("{} and {} >= {}").format(condition, event_at, Literal(first_at))
    selected = SQL(", ").join(Identifier(column) for column in wanted)
    return _read(settings, SQL("select {} from {} where {}").format(selected, Identifier(*names.cleaned(table.name)), condition))


def read_observations(settings: Settings, asked: Observations, first_day: date, last_day: date) -> pa.Table:
    """The observations with decision_at in the days `first_day` to `last_day` (UTC, inclusive), by (decision_at, keys), text by its bytes.

    Times are microseconds in UTC.
    """
    rows = _select_observations(settings, asked, first_day, last_day)
    return rows.take(pc.sort_indices(rows, decision_order(asked)))


def decision_order(asked: Observations) -> list[tuple[str, str]]:
    """By (decision_at, keys), as Arrow sorts."""
    return [(name, "ascending") for name in (asked.decision_at, *asked.keys)]


def _select_observations(
    settings: Settings, asked: Observations, first_day: date, last_day: date, columns: Sequence[str] | None = None
) -> pa.Table:
    """The observations of the days in no order; all columns, or those named."""
    from psycopg.sql import SQL, Identifier, Literal

    query = SQL("select {columns} from {table} where {at} >= {first} and {at} < {end}").format(
        columns=SQL("*") if columns is None else SQL(", ").join(map(Identifier, dict.fromkeys(columns))),
        table=Identifier(*names.cleaned(asked.table)),
        at=Identifier(asked.decision_at),
        first=Literal(_midnight(first_day)),
        end=Literal(_midnight(last_day + timedelta(days=1))),
    )
    return _read(settings, query)


def _read(settings: Settings, query: "Composable") -> pa.Table:
    """The rows that a query selects. Values stand in the text of the query: with bound ones the driver could not copy binary rows."""
    with connections.arrow_warehouse(settings) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string())
        table: pa.Table = cursor.fetch_arrow_table()
    return table.cast(pa.schema([pa.field(field.name, _plain(field)) for field in table.schema]))


def _plain(field: pa.Field) -> pa.DataType:
    """Times with a zone in UTC, whole numbers in 64 bits, decimals as floats; a naive time stays naive, so that it is refused by name."""
    if pa.types.is_timestamp(field.type) and field.type.tz is not None:
        return INSTANT
    if pa.types.is_integer(field.type):
        return pa.int64()
    return pa.float64() if _is_decimal(field) else field.type


def _is_decimal(field: pa.Field) -> bool:
    """Whether the driver gives a `numeric` of Postgres, which it does as text."""
    kind = field.type
    return isinstance(kind, pa.OpaqueType) and kind.type_name == "numeric"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
