"""Cleaned tables in, feature tables out: reads from the lake at one snapshot each, and the write to the lake around the kernel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.errors import TableMismatch
from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.core.project import days_between
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.features import inputs
from pipeline_assets.processing.features.catalogue import view_columns
from pipeline_assets.processing.features.cleaned import NEWEST, Snapshots, midnight, read_events, read_observations, snapshots_of
from pipeline_assets.processing.features.columns import text_or_whole
from pipeline_assets.processing.features.quality import Quality, judge, judge_settled
from pipeline_assets.processing.features.spill import spilled
from pipeline_assets.processing.features.view import feature_names, features_by_bucket, view_features
from pipeline_assets.processing.lake import tables
from pipeline_assets.processing.lake.files import Content
from pipeline_assets.processing.lake.tables import Inputs, MadeFrom, Published
from pipeline_assets.spec.features import CleanedTable, FeatureView
from pipeline_assets.spec.models import Model, Observations

TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}
# What a laptop holds in memory; more events than this are put aside on disk by buckets of their keys, computed one after the other.
EVENTS_AT_ONCE = 20_000_000


@dataclass(frozen=True, kw_only=True)
class MaterializedView:
    """What became of a view's days: events read, rows kept and computed, the judgement of the table, and what the lake holds now.

    `snapshots` are those of the cleaned tables that were read, by `<namespace>.<table>`. `published` is None where the judgement forbade
    it: then nothing was written.
    """

    snapshots: Snapshots
    events: int
    kept: int
    computed: int
    quality: Quality
    published: Published | None


def materialize_view(
    settings: Settings, view: FeatureView, models: Sequence[Model], first: date, last: date, at: Snapshots = NEWEST
) -> MaterializedView:
    """Put the features of the days `first` to `last` (UTC, inclusive, by decision_at) in the place of what the lake holds of them.

    One row per distinct (entity keys, decision_at) that any of the `models` asks for, keys without null. A day is not even read of which
    neither the view, nor the files of events that it can see, nor those of its observations have changed since it was written. Rows of the
    others are kept as they are where the view and its events are the same, so that a model that is added computes its own rows alone, and
    events are read for the days that are left alone. Cleaned tables are read at the snapshots `at`, or at their
    newest: the same snapshots give the same rows. Nothing is written if a row is missing or doubled, or a value is NaN or infinite. Raises
    TableMismatch where a cleaned table is not what the view declares, NotMaterialized where there is none, VersionsNotKept where one no
    longer keeps what counted at a decision that is to be computed.
    """
    asked = _distinct(models)
    snapshots = snapshots_of(settings, [names.cleaned(view.source.name), *(names.cleaned(one.table) for one in asked)], at)
    contents = _contents(settings, view.source.name, view.source.event_at, snapshots)
    known = _known(settings, view, asked, contents, days_between(first, last), snapshots)
    if not known.open_days:
        return _as_it_was(settings, view, (first, last), known, snapshots)
    requests = _requests(settings, view, asked, known.open_days, snapshots)
    kept = _kept(settings, view, requests, known)
    missing = _without(requests, kept, view)
    read, computed = _compute(settings, view, missing, contents, snapshots)
    table = pa.concat_tables([kept, computed])
    quality, published = judge(requests, table, identity(view), known.settled), None
    if quality.has_all_rows and quality.is_finite:
        made_from = Inputs(digests=known.digests, settled=known.settled)
        published = tables.replace_days(settings, names.features(view.name), table, DECISION_AT, first, last, inputs=made_from)
    rows = quality.rows - missing.num_rows
    return MaterializedView(snapshots=snapshots, events=read, kept=rows, computed=missing.num_rows, quality=quality, published=published)


def _as_it_was(settings: Settings, view: FeatureView, asked: tuple[date, date], known: "_Known", snapshots: Snapshots) -> MaterializedView:
    """What the lake has of days that nothing has changed for."""
    quality = judge_settled(known.settled, feature_names(view))
    published = tables.held(settings, names.features(view.name), *asked)
    return MaterializedView(snapshots=snapshots, events=0, kept=quality.rows, computed=0, quality=quality, published=published)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What is known of some days before anything of them is read: digests of their inputs, and what the lake has of them.

    settled: days of which neither an event nor an observation changed. open_days: the others; of `same_events` rows may be kept.
    """

    digests: Mapping[date, str]
    settled: Mapping[date, MadeFrom]
    open_days: Sequence[date]
    same_events: Sequence[date]
    snapshot: int | None


def _known(
    settings: Settings,
    view: FeatureView,
    asked: Sequence[Observations],
    contents: Sequence[Content],
    days: Sequence[date],
    snapshots: Snapshots,
) -> _Known:
    of_events = inputs.digests(view, contents, days)
    files = [(one, _contents(settings, one.table, one.decision_at, snapshots)) for one in asked]
    of_requests = inputs.of_requests(view, files, days)
    digests = {day: of_events[day] + of_requests[day] for day in days}
    snapshot, before = tables.made_from(settings, names.features(view.name), days)
    settled = {day: before[day] for day in days if day in before and before[day].digest == digests[day]}
    open_days = [day for day in days if day not in settled]
    return _Known(
        digests=digests,
        settled=settled,
        open_days=open_days,
        same_events=[day for day in open_days if day in before and before[day].digest.startswith(of_events[day])],
        snapshot=snapshot,
    )


def _contents(settings: Settings, table: str, column: str, snapshots: Snapshots) -> list[Content]:
    name = names.cleaned(table)
    return tables.contents(settings, name, column, snapshots[".".join(name)])


def _requests(settings: Settings, view: FeatureView, asked: Sequence[Observations], days: Sequence[date], snapshots: Snapshots) -> pa.Table:
    """The requests of some days, as `requests_of` gives them."""
    read = [(one, read_observations(settings, one, days[0], days[-1], snapshots, view.entity.keys)) for one in asked]
    requests = requests_of(view, read)
    if len(days) == len(days_between(days[0], days[-1])):
        return requests
    return requests.filter(pc.is_in(requests[DECISION_AT].cast(pa.date32()), pa.array(days, pa.date32())))


def _distinct(models: Sequence[Model]) -> list[Observations]:
    """The observations of the models, each table and time once."""
    return list({(model.observations.table, model.observations.decision_at): model.observations for model in models}.values())


def _kept(settings: Settings, view: FeatureView, requests: pa.Table, known: _Known) -> pa.Table:
    """The rows in the lake that are asked for and that were made from the same events; none where nothing was written yet."""
    schema, identifier, same = _schema(view, requests), names.features(view.name), known.same_events
    if not same:
        return schema.empty_table()
    found = pl.DataFrame(tables.read_days(settings, identifier, same[0], same[-1], schema.names, known.snapshot).read_all())
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


def _compute(
    settings: Settings, view: FeatureView, requests: pa.Table, contents: Sequence[Content], snapshots: Snapshots
) -> tuple[int, pa.Table]:
    """How many events were read, and the rows of the view's table: the keys and time of each request, then its features."""
    if requests.num_rows == 0:
        return 0, _schema(view, requests).empty_table()
    first_at, last_at = pc.min_max(requests[DECISION_AT]).as_py().values()
    seen = sum(each.rows for each in inputs.seen(view, contents, first_at.date(), last_at.date()))
    rows = read_events_of(settings, view.source, [view], (first_at, last_at), snapshots)
    features, read = _features(view, requests, rows, 1 + seen // EVENTS_AT_ONCE)
    keys = requests.select(identity(view))
    return read, pa.Table.from_arrays([*keys.columns, *features.columns], names=[*keys.column_names, *features.column_names])


def _features(view: FeatureView, requests: pa.Table, rows: pa.RecordBatchReader, buckets: int) -> tuple[pa.Table, int]:
    """The features of the requests, and how many events there were."""
    if buckets == 1:
        events = rows.read_all()
        return view_features(view, requests, events), events.num_rows
    with spilled(rows, view.source.name, view.entity.keys, buckets) as found:
        return features_by_bucket(view, requests, found.of, buckets=buckets), found.rows


def read_events_of(
    settings: Settings, source: CleanedTable, views: Sequence[FeatureView], decided: tuple[datetime, datetime], snapshots: Snapshots
) -> pa.RecordBatchReader:
    """All events that a decision from the first of `decided` to the second (UTC, inclusive) could count in one of the views of a source.

    Whole days, or from the first event on where a view has no limit. Raises VersionsNotKept where the source no longer keeps what counted
    at the first decision.
    """
    own = [feature.column for view in views for feature in view.features if feature.column is not None]
    reach = [inputs.first_event_day(view, decided[0].date()) for view in views]
    limited = [day for day in reach if day is not None]
    first_at = midnight(min(limited)) if len(limited) == len(reach) else None
    keys = [key for view in views for key in view.entity.keys]
    until = midnight(decided[1].date() + timedelta(days=1))
    return read_events(settings, source, [*keys, *own], (first_at, until), snapshots, decided[0])
