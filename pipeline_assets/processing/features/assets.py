"""The assets of the features: one lake table a view."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.errors import SpecError
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import (
    Platform,
    ReadAt,
    asked_days,
    column_lineage,
    dagster_errors,
    days,
    days_around,
    key,
    of_run,
    report_days,
    rows_by_day,
    snapshots_read,
    use_case_tags,
)
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import read_lineage
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets.processing.features.catalogue import FeatureColumn, lookback, view_columns, view_hash
from pipeline_assets.processing.features.leakage import Leakage
from pipeline_assets.processing.features.lineage import column_lineage as view_lineage
from pipeline_assets.processing.features.quality import MAX_NULL_SHARE, Quality
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.processing.features.materialize import MaterializedView

ROWS_MATCH, FINITE, KNOWN = "rows_match_requests", "finite_values", "null_shares"
Metadata = dict[str, dg.MetadataValue | dg.TableSchema | dg.TableColumnLineage | int | str]


def defs(project: Project) -> dg.Definitions:
    """A feature table for each view that a model uses. Raises SpecError for declarations by which something would leak."""
    leaks = list(Leakage(project=project, dbt=read_lineage(project_folder()), references=read_models(project).references).problems())
    if leaks:
        raise SpecError(leaks)
    return dg.Definitions(assets=[_view(project, view) for view in project.views])


def _view(project: Project, view: FeatureView) -> dg.AssetsDefinition:
    asset_key, models, home = key(names.features(view.name)), project.models_of(view), project.home_of_view(view)
    schema = _column_schema(project, view)

    @dg.asset(
        key=asset_key,
        deps=_deps(view, models),
        partitions_def=days(project.span_of(home)),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.FEATURES,
        kinds={"polars", "iceberg"},
        owners=[view.owner],
        code_version=view_hash(view)[:12],
        pool=names.FEATURES,
        tags=use_case_tags(home),
        description=f"{view.description} One row per {', '.join(view.entity.keys)} and decision_at of the day's decisions.",
        metadata={
            "dagster/column_schema": schema,
            "dagster/table_name": ".".join(names.features(view.name)),
            "definition_sha256": view_hash(view),
        },
        check_specs=_check_specs(asset_key),
    )
    def features(context: dg.AssetExecutionContext, config: ReadAt, platform: Platform) -> dg.MaterializeResult:
        from pipeline_assets.processing.features.materialize import materialize_view
        from pipeline_assets.processing.lake import tables

        asked, identifier = asked_days(context), names.features(view.name)
        with dagster_errors():
            done = materialize_view(platform.settings, view, models, *asked, config.chosen)
            snapshot = None if done.published is None else done.published.snapshot_after
            rows = tables.rows_by_day(platform.settings, identifier, asked, snapshot)
        context.log.info("%d rows computed from %d events, %d kept", done.computed, done.events, done.kept)
        report_days(context, rows_by_day(*asked, rows), _metadata(view, models, done) | {"dagster/column_schema": schema})
        return dg.MaterializeResult(check_results=_checks(done.quality))

    return features


def _deps(view: FeatureView, models: Sequence[Model]) -> list[dg.AssetDep]:
    """The events as far back as the view looks (all of them where it has no limit), and the observations of the days' decisions."""
    span = lookback(view)
    before, after = {names.cleaned(view.source.name): span}, {names.cleaned(view.source.name): timedelta(0)}
    for asked in (model.observations for model in models):
        table = names.cleaned(asked.table)
        reach = before.get(table, timedelta(0))
        before[table] = None if reach is None else max(reach, asked.behind)
        after[table] = max(after.get(table, timedelta(0)), asked.ahead)
    return [dg.AssetDep(key(table), partition_mapping=_mapping(before[table], after[table])) for table in before]


def _mapping(before: timedelta | None, after: timedelta) -> dg.PartitionMapping:
    return dg.AllPartitionMapping() if before is None else days_around(before=before, after=after)


def _check_specs(asset_key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    rows = "One row for each distinct key and time of the day's decisions, and no other. If it fails, nothing is written."
    finite = "No feature is NaN or infinite. If it fails, nothing is written."
    known = f"No feature is null in more than {MAX_NULL_SHARE:.0%} of the rows."
    return [
        dg.AssetCheckSpec(ROWS_MATCH, asset=asset_key, blocking=True, description=rows),
        dg.AssetCheckSpec(FINITE, asset=asset_key, blocking=True, description=finite),
        dg.AssetCheckSpec(KNOWN, asset=asset_key, description=known),
    ]


def _checks(quality: Quality) -> list[dg.AssetCheckResult]:
    rows = {"rows_asked": quality.asked, "rows": quality.rows, "distinct_rows": quality.distinct}
    return [
        dg.AssetCheckResult(check_name=ROWS_MATCH, passed=quality.has_all_rows, metadata=rows),
        dg.AssetCheckResult(check_name=FINITE, passed=quality.is_finite, metadata={"broken": dg.MetadataValue.json(quality.broken)}),
        dg.AssetCheckResult(
            check_name=KNOWN,
            passed=not quality.mostly_null,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"mostly_null": dg.MetadataValue.json(quality.mostly_null)},
        ),
    ]


def _metadata(view: FeatureView, models: Sequence[Model], done: "MaterializedView") -> Metadata:
    shares = [dg.TableRecord({"feature": name, "null_share": round(share, 4)}) for name, share in done.quality.null_shares.items()]
    return {
        "dagster/column_lineage": column_lineage(view_lineage(view, [model.observations for model in models])),
        **of_run(_sums(done)),
        "snapshots_read": snapshots_read(done.snapshots),
        "models": ", ".join(model.name for model in models),
        "null_shares": dg.MetadataValue.table(shares),
        **_written(done),
    }


def _sums(done: "MaterializedView") -> dict[str, int]:
    sums = {"rows_computed": done.computed, "rows_kept": done.kept, "events_read": done.events}
    return {"rows": done.quality.rows, **sums} if done.published is None else {**done.published.sums, **sums}


def _written(done: "MaterializedView") -> Metadata:
    published = done.published
    if published is None:
        return {}
    return {
        names.ROW_COUNT: published.table_rows,
        "dagster/uri": dg.MetadataValue.text(published.location),
        # As text: the page would show numbers of 19 digits rounded.
        "snapshot_before": str(published.snapshot_before),
        "snapshot_id": str(published.snapshot_after),
    }


def _column_schema(project: Project, view: FeatureView) -> dg.TableSchema:
    required = dg.TableColumnConstraints(nullable=False)
    kinds = {name: project.kind_of(view.source.name, name) for name in view.entity.keys}
    keys = [dg.TableColumn(name, kind, f"Key of the {view.entity.name}.", required) for name, kind in kinds.items()]
    asked = dg.TableColumn(names.DECISION_AT, "timestamp", "When the decision is asked for, in UTC.", required)
    return dg.TableSchema(columns=[*keys, asked, *(_column(feature) for feature in view_columns(view))])


def _column(feature: FeatureColumn) -> dg.TableColumn:
    constraints = dg.TableColumnConstraints(nullable=feature.nothing is None)
    return dg.TableColumn(feature.name, feature.dtype, feature.description, constraints, {"aggregate": feature.aggregate})
