"""The offline feature store: the vectors of a model's decisions by day, and the features of any spine as of its times."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core import names
from pipeline_assets.core.columns import ColumnKind
from pipeline_assets.core.errors import UnknownDay
from pipeline_assets.core.names import OBSERVATION_KNOWN_AT, AssetName
from pipeline_assets.core.project import Project, Span, days_between
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store import vector_inputs
from pipeline_assets.model_lifecycle.feature_store.fingerprint import FEATURE_HASH, feature_hashes
from pipeline_assets.model_lifecycle.feature_store.join import join_view
from pipeline_assets.model_lifecycle.feature_store.spine import check_keys, check_requests, entity_keys, left_out
from pipeline_assets.processing.features.catalogue import feature_columns
from pipeline_assets.processing.features.cleaned import NEWEST, Snapshots, among, decision_order, read_observations, snapshots_of
from pipeline_assets.processing.features.columns import DECISION_AT
from pipeline_assets.processing.features.materialize import read_events_of
from pipeline_assets.processing.features.request import request_features
from pipeline_assets.processing.features.view import view_features
from pipeline_assets.processing.lake import tables
from pipeline_assets.processing.lake.tables import Inputs
from pipeline_assets.spec.features import CleanedTable, FeatureView
from pipeline_assets.spec.models import Model, Observations

# Days are small files, whose reading waits for the object store more than it computes.
TABLES_AT_ONCE = 4
LOG = logging.getLogger(__name__)
Listener = Callable[[str], None]


def silent(_: str) -> None:
    """Ignores the text."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """What a materialization of vectors read and wrote.

    `outside` counts the observations that were decided longer before or after their event than declared; `snapshots` are those of the
    lake tables that were read, by `<namespace>.<table>`, and those of the sources of views, which the parity check reads.
    """

    observations: int
    outside: int
    published: tables.Published
    snapshots: Mapping[str, int]


def materialize_vectors(settings: Settings, model: Model, first: date, last: date, at: Snapshots = NEWEST) -> Vectors:
    """Puts one row per observation of the days `first` to `last` (UTC, inclusive, of decision_at) into `feature_store.<model>`.

    All days change in one snapshot; those that come out as they were are left alone, and those of which neither observations nor features
    have changed are not made again. Tables are read at the snapshots `at`, or at their newest. Nothing is written where `build_vectors`
    raises, or NotMaterialized because a table is not there yet.
    """
    snapshots, asked = snapshots_of(settings, tables_read(model), at), model.observations
    made_from = vector_inputs.inputs_of(settings, model, days_between(first, last), snapshots)
    open_days = [day for day in made_from.digests if day not in made_from.settled]
    if not open_days:
        observed = read_observations(settings, asked, first, last, snapshots, [asked.event_at])
        published = tables.held(settings, names.vectors(model.name), first, last)
    else:
        observed = read_observations(settings, asked, first, last, snapshots)
        built = build_vectors(model, _of_days(observed, asked.decision_at, made_from), _read_views(settings, model, open_days, snapshots))
        published = tables.replace_days(settings, names.vectors(model.name), built, asked.decision_at, first, last, inputs=made_from)
    return Vectors(observations=observed.num_rows, outside=outside_range(asked, observed), published=published, snapshots=snapshots)


def _read_views(settings: Settings, model: Model, days: Sequence[date], snapshots: Snapshots) -> dict[str, pa.Table]:
    """The feature tables from the first to the last of some days, by the names of their views."""
    with ThreadPoolExecutor(TABLES_AT_ONCE) as readers:
        read = readers.map(lambda view: _read_view(settings, view, days[0], days[-1], snapshots), model.views)
        return {view.name: rows for view, rows in zip(model.views, read, strict=True)}


def _of_days(rows: pa.Table, time: str, made_from: Inputs) -> pa.Table:
    """The rows of the days (UTC) that are not settled."""
    if not made_from.settled:
        return rows
    settled = pa.array(list(made_from.settled), pa.date32())
    return rows.filter(pc.invert(pc.is_in(rows[time].cast(pa.date32()), settled)))


def tables_read(model: Model) -> list[AssetName]:
    """The lake tables that a model's vectors come from: its observations, the tables of its views, and their sources."""
    return [*vector_inputs.sources_of(model), *(names.features(view.name) for view in model.views)]


def build_vectors(model: Model, observations: pa.Table, tables_of_views: Mapping[str, pa.Table]) -> pa.Table:
    """One row per observation with all features of the model, sorted by (decision_at, keys).

    observations: the cleaned rows of decisions, any order. tables_of_views: the feature table of each of the model's views, by its name.
    Returns len(observations) rows, repeats kept: keys, decision_at, slice columns, where observations have versions since when the one that
    was decided was known (`observation_known_at`), the features in the model's order, `feature_hash`.
    Raises FeaturesMissing if a view has no row for an observation, TableMismatch if it has two or a column is missing.
    """
    asked = model.observations
    ordered = observations.take(pc.sort_indices(observations, decision_order(asked)))
    requests = with_decision_at(asked, ordered)
    found = [join_view(view, requests, tables_of_views[view.name]) for view in model.views]
    features = _side_by_side([*found, request_features(model.request_features, requests)])
    kept = ordered.select(list(dict.fromkeys((*asked.keys, asked.decision_at, *model.slices))))
    if asked.versions is not None:
        kept = kept.append_column(OBSERVATION_KNOWN_AT, ordered[asked.versions.known_at])
    hashes = feature_hashes(features, feature_names(model))
    return _side_by_side([kept, features.select(feature_names(model))]).append_column(FEATURE_HASH, hashes)


def with_decision_at(asked: Observations, rows: pa.Table) -> pa.Table:
    """The observations with the time of the decision in the column `decision_at`, whatever its name is."""
    if asked.decision_at == DECISION_AT:
        return rows
    others = rows.drop_columns([DECISION_AT]) if DECISION_AT in rows.column_names else rows
    return others.append_column(DECISION_AT, rows[asked.decision_at])


def outside_range(asked: Observations, rows: pa.Table) -> int:
    """How many observations lie on a day that nothing materializes for them: decided more than `ahead` before or `behind` after the event.

    An observation without the time of its event counts too.
    """
    after = pl.col(asked.decision_at) - pl.col(asked.event_at)
    inside = after.is_between(-asked.ahead, asked.behind).fill_null(value=False)
    return int(pl.DataFrame(rows.select(list({asked.decision_at, asked.event_at}))).select((~inside).sum()).item())


def vectors(settings: Settings, model: Model, first: date, last: date, snapshot_id: int | None = None) -> pa.Table:
    """The vectors of the days `first` to `last` (UTC, inclusive) at a snapshot (None: the newest), sorted by (decision_at, keys).

    Raises UnknownName if there are none yet, or no such snapshot.
    """
    found = tables.read_days(settings, names.vectors(model.name), first, last, snapshot_id=snapshot_id).read_all()
    return found.take(pc.sort_indices(found, decision_order(model.observations)))


def historical_features(
    settings: Settings,
    project: Project,
    model_name: str,
    spine: pa.Table,
    *,
    name: str = "the spine",
    at: Snapshots = NEWEST,
    on_step: Listener = silent,
    on_notice: Listener = LOG.warning,
) -> pa.Table:
    """The spine with the features of a model, each as it could be known at the row's `decision_at`.

    spine: the entity keys of the model's views and `decision_at` (aware), one row per question, any order, repeats allowed. Request
    features need their column as well; those without a default whose column the spine lacks are left out.
    Returns len(spine) rows in their order: the spine's columns as they are, then the features in the model's order, computed from the
    cleaned events, at the snapshots `at` or the newest, by the kernel that fills the feature tables. `on_step` is called with what is
    done next, `on_notice` with what a person should know (what was left out; a source that ends too long before the last decision);
    `name` stands for the spine in errors. Raises UnknownName for a model there is not, NotMaterialized for a cleaned table that is not
    there yet, UnknownDay for a time outside the use case's days, VersionsNotKept for one at which more versions of rows counted than are
    kept, TableRejected for a spine unfit for use.
    """
    model = project.model(model_name)
    requests = check_requests(name, model, spine, _kinds(project, model))
    decided = _decided(project.span_of(project.home_of_model(model)), requests)
    sources = [names.cleaned(source.name) for source in _by_source(model)]
    snapshots = snapshots_of(settings, sources, among(at, sources))
    found: list[pa.Table] = []
    for source, views in _by_source(model).items():
        on_step(f"Reading {source.name}")
        events = read_events_of(settings, source, views, decided, snapshots).read_all()
        _notice_if_stale(source, views, requests, events, on_notice)
        requests = check_keys(name, requests, events, [key for view in views for key in view.entity.keys])
        for view in views:
            on_step(f"Computing {view.name}")
            found.append(view_features(view, requests, events))
    omitted_ones = left_out(model, spine.column_names)
    for omitted in omitted_ones:
        on_notice(f"Left out: feature '{omitted.name}' of the request, as {name} has no column '{omitted.column}'.")
    given = [feature for feature in model.request_features if feature not in omitted_ones]
    features = _side_by_side([*found, request_features(given, requests)])
    return _side_by_side([spine, features.select([column for column in feature_names(model) if column in features.column_names])])


def steps(model: Model) -> int:
    """How many times `historical_features` calls `on_step`."""
    return len(_by_source(model)) + len(model.views)


def feature_names(model: Model) -> list[str]:
    """The columns of the model's features in its order."""
    return [column.name for column in feature_columns(model)]


def _kinds(project: Project, model: Model) -> dict[str, ColumnKind]:
    """The kinds of the columns of the observations that features are computed from."""
    columns = (*entity_keys(model), *(feature.column for feature in model.request_features))
    return {column: project.kind_of(model.observations.table, column) for column in columns}


def _read_view(settings: Settings, view: FeatureView, first: date, last: date, snapshots: Snapshots) -> pa.Table:
    table = names.features(view.name)
    return tables.read_days(settings, table, first, last, snapshot_id=snapshots[".".join(table)]).read_all()


def _by_source(model: Model) -> dict[CleanedTable, list[FeatureView]]:
    """The model's views by the table that they read, so that each table is read once."""
    grouped: dict[CleanedTable, list[FeatureView]] = {}
    for view in model.views:
        grouped.setdefault(view.source, []).append(view)
    return grouped


def _notice_if_stale(source: CleanedTable, views: Sequence[FeatureView], requests: pa.Table, events: pa.Table, on_notice: Listener) -> None:
    """A notice if the newest row of a source is older, at the last decision, than the freshness of a view promises."""
    asked = pc.max(requests[DECISION_AT]).as_py()
    newest = pc.max(events[source.known_at]).as_py()
    if newest is None or asked - newest > min(view.freshness for view in views):
        held = "nothing of the time that is looked back to" if newest is None else f"nothing after {newest.isoformat()}"
        table = ".".join(names.cleaned(source.name))
        on_notice(f"{table} holds {held}; the last decision is at {asked.isoformat()}. Its features are older than they promise.")


def _decided(span: Span, requests: pa.Table) -> tuple[datetime, datetime]:
    """The first and the last decision; raises UnknownDay if the use case does not have their days."""
    first, last = pc.min_max(requests[DECISION_AT]).as_py().values()
    for day in (first.date(), last.date()):
        if day < span.first or (span.last is not None and day > span.last):
            raise UnknownDay(str(day), span.first, span.last)
    return first, last


def _side_by_side(parts: Sequence[pa.Table]) -> pa.Table:
    """The columns of all parts, which have the same rows; the first part's metadata is kept."""
    joined = parts[0]
    for part in parts[1:]:
        for field, column in zip(part.schema, part.columns, strict=True):
            joined = joined.append_column(field, column)
    return joined
