"""The assets of the features: one lake table a view."""

from datetime import timedelta

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, asked_days, dagster_errors, days, days_around, key
from pipeline_assets.processing.features.catalogue import FeatureColumn, lookback, view_columns, view_hash
from pipeline_assets.processing.features.lineage import column_lineage
from pipeline_assets.processing.features.materialize import MaterializedView, materialize_view
from pipeline_assets.processing.features.quality import MAX_NULL_SHARE, Quality
from pipeline_assets.processing.features.view import DECISION_AT
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.use_case import UseCase

ROWS_MATCH, FINITE, KNOWN = "rows_match_requests", "finite_values", "null_shares"
# Observations are kept by the day of what they ask about, which is later than the day of the decision.
ASKED_AHEAD = timedelta(days=1)

Metadata = dict[str, dg.MetadataValue | dg.TableSchema | dg.TableColumnLineage | int | str]


def defs(use_case: UseCase) -> dg.Definitions:
    """A feature table for each view of the use case."""
    return dg.Definitions(assets=[_view(use_case, view) for view in use_case.views])


def _view(use_case: UseCase, view: FeatureView) -> dg.AssetsDefinition:
    asset_key = key(names.features(view.name))

    @dg.asset(
        key=asset_key,
        deps=_deps(use_case, view),
        partitions_def=days(use_case),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.FEATURES,
        kinds={"polars", "iceberg"},
        owners=[view.owner],
        code_version=view_hash(view)[:12],
        pool=names.FEATURES,
        description=f"{view.description} One row per {', '.join(view.entity.keys)} and decision_at of the day's decisions.",
        metadata={
            "dagster/column_schema": _column_schema(view),
            "dagster/table_name": ".".join(names.features(view.name)),
            "definition_sha256": view_hash(view),
        },
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=view.freshness),
        check_specs=_check_specs(asset_key),
    )
    def features(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        with dagster_errors():
            done = materialize_view(platform.settings, use_case, view, *asked_days(context))
        context.log.info("%d rows of %d features from %d events", done.quality.rows, len(done.quality.null_shares), done.events)
        return dg.MaterializeResult(metadata=_metadata(use_case, view, done), check_results=_checks(done.quality))

    return features


def _deps(use_case: UseCase, view: FeatureView) -> list[dg.AssetDep]:
    """The events as far back as the view looks (all of them where it has no limit), and the observations of the day and the next."""
    span = lookback(view)
    before = dg.AllPartitionMapping() if span is None else days_around(before=span)
    asked = names.cleaned(use_case.model.observations.table)
    mappings = {asked: days_around(after=ASKED_AHEAD), names.cleaned(view.source.name): before}
    return [dg.AssetDep(key(name), partition_mapping=mapping) for name, mapping in mappings.items()]


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


def _metadata(use_case: UseCase, view: FeatureView, done: MaterializedView) -> Metadata:
    shares = [dg.TableRecord({"feature": name, "null_share": round(share, 4)}) for name, share in done.quality.null_shares.items()]
    lineage = {
        column: [dg.TableColumnDep(key(table), name) for table, name in sources]
        for column, sources in column_lineage(view, use_case.model.observations).items()
    }
    return {
        "dagster/column_schema": _column_schema(view),
        "dagster/column_lineage": dg.TableColumnLineage(lineage),
        "rows": done.quality.rows,
        "events_read": done.events,
        "null_shares": dg.MetadataValue.table(shares),
        **_written(done),
    }


def _written(done: MaterializedView) -> Metadata:
    published = done.published
    if published is None:
        return {}
    return {
        "dagster/row_count": published.table_rows,
        "dagster/uri": dg.MetadataValue.text(published.location),
        "files": published.files,
        "bytes": published.bytes,
        "partitions": published.days,
        "partitions_changed": published.changed,
        # As text: the page would show numbers of 19 digits rounded.
        "snapshot_before": str(published.snapshot_before),
        "snapshot_id": str(published.snapshot_after),
    }


def _column_schema(view: FeatureView) -> dg.TableSchema:
    required = dg.TableColumnConstraints(nullable=False)
    keys = [dg.TableColumn(name, "string", f"Key of the {view.entity.name}.", required) for name in view.entity.keys]
    asked = dg.TableColumn(DECISION_AT, "timestamp", "When the decision is asked for, in UTC.", required)
    return dg.TableSchema(columns=[*keys, asked, *(_column(feature) for feature in view_columns(view))])


def _column(feature: FeatureColumn) -> dg.TableColumn:
    tags = {"aggregate": feature.aggregate}
    return dg.TableColumn(
        feature.name, feature.dtype, feature.description, dg.TableColumnConstraints(nullable=feature.aggregate != "count"), tags
    )
