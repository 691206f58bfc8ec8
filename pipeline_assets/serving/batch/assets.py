"""The assets of batch inference: the predictions of each model."""

from collections.abc import Mapping
from datetime import timedelta

import dagster as dg
from pydantic import Field

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, asked_days, dagster_errors, days, key, pictures
from pipeline_assets.model_lifecycle.registry.versions import version_url
from pipeline_assets.serving.batch.plots import draw_histogram
from pipeline_assets.serving.batch.predictions import DECISION_AT, FEATURE_HASH, MODEL_VERSION, PREDICTION_ID, SCORE, Kept, read_kept
from pipeline_assets.serving.batch.score import Scored, Version, score_days
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.use_case import UseCase

ROWS_MATCH, IN_RANGE, AS_DECLARED = "rows_match_vectors", "scores_in_range", "versions_as_asked"
FRESHNESS = timedelta(days=2)

Metadata = dict[str, dg.MetadataValue | dg.TableSchema | int | str]


class Scoring(dg.Config):
    """Which version scores."""

    version: Version = Field(
        default="champion", description="champion: the version that is live now; as_of: for each day, the one that was live as it began."
    )


def defs(use_case: UseCase) -> dg.Definitions:
    """The predictions of the use case's model."""
    return dg.Definitions(assets=[_predictions(use_case, use_case.model)])


def _predictions(use_case: UseCase, model: Model) -> dg.AssetsDefinition:
    asset_key = key(names.predictions(model.name))

    @dg.asset(
        key=asset_key,
        deps=[key(names.vectors(model.name)), key(names.champion(model.name))],
        partitions_def=days(use_case),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.BATCH_INFERENCE,
        kinds={"xgboost", "postgres"},
        owners=[model.owner],
        code_version="1",
        pool=names.BATCH_INFERENCE,
        description=f"{model.question} One row per {model.observations.key} and decision_at, by the day of decision_at.",
        metadata={"dagster/column_schema": _column_schema(model), "dagster/table_name": ".".join(names.predictions(model.name))},
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESHNESS),
        check_specs=_check_specs(asset_key),
    )
    def predictions(context: dg.AssetExecutionContext, platform: Platform, config: Scoring) -> dg.MaterializeResult:
        first, last = asked_days(context)
        with dagster_errors():
            done = score_days(platform.settings, model, first, last, version=config.version, run_id=context.run.run_id)
            context.log.info("%d rows written, %d unchanged, %d removed", done.written, done.unchanged, done.removed)
            kept = read_kept(platform.settings, model, first, last)
            links = {number: version_url(platform.settings, model, number) for number in kept.versions}
        metadata = _metadata(model, config.version, done, kept) | {"versions": _links(links)}
        return dg.MaterializeResult(metadata=metadata, check_results=judge(config.version, done, kept))

    return predictions


def _check_specs(asset_key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    told = {
        ROWS_MATCH: "As many predictions as vectors.",
        IN_RANGE: "Every score is a probability: from 0 to 1, and not NaN.",
        AS_DECLARED: "Each row was scored by the version that the run asked for; with `champion` there is one.",
    }
    return [dg.AssetCheckSpec(name, asset=asset_key, blocking=True, description=description) for name, description in told.items()]


def judge(version: Version, done: Scored, kept: Kept) -> list[dg.AssetCheckResult]:
    """The checks of a run: what it scored against what the table holds now."""
    as_asked = dict(kept.versions) == dict(done.versions) and (version == "as_of" or len(kept.versions) <= 1)
    rows: dict[str, int] = {"vectors": done.vectors, "predictions": kept.rows}
    return [
        dg.AssetCheckResult(check_name=ROWS_MATCH, passed=done.vectors == kept.rows, metadata=rows),
        dg.AssetCheckResult(check_name=IN_RANGE, passed=kept.out_of_range == 0, metadata={"out_of_range": kept.out_of_range}),
        dg.AssetCheckResult(check_name=AS_DECLARED, passed=as_asked, metadata={"rows_by_version": _by_version(kept)}),
    ]


def _metadata(model: Model, version: Version, done: Scored, kept: Kept) -> Metadata:
    return {
        "dagster/partition_row_count": kept.rows,
        "dagster/column_schema": _column_schema(model),
        "rows": kept.rows,
        "written": done.written,
        "unchanged": done.unchanged,
        "removed": done.removed,
        "version_asked": version,
        "rows_by_version": _by_version(kept),
        "scores": pictures({"Distribution of scores": draw_histogram(done.histogram)}),
        # As text: the page would show numbers of 19 digits rounded.
        "vectors_snapshot_id": str(done.snapshot_id),
    }


def _links(urls: Mapping[int, str]) -> dg.MetadataValue:
    return dg.MetadataValue.md(", ".join(f"[version {version}]({url})" for version, url in urls.items()) or "none")


def _by_version(kept: Kept) -> dg.MetadataValue:
    return dg.MetadataValue.json({str(version): rows for version, rows in kept.versions.items()})


def _column_schema(model: Model) -> dg.TableSchema:
    columns = {
        PREDICTION_ID: ("uuid", "The same for the same model, version, key and decision_at."),
        model.observations.key: ("text", "Which decision it is."),
        DECISION_AT: ("timestamptz", "When the decision is asked for, in UTC."),
        SCORE: ("double precision", "The probability of a true label."),
        MODEL_VERSION: ("bigint", "The version that scored."),
        FEATURE_HASH: ("text", "SHA-256 of the features' values that were scored."),
        "run_id": ("text", "The run that wrote the row."),
        "scored_at": ("timestamptz", "When it was written, by the wall clock."),
    }
    required = dg.TableColumnConstraints(nullable=False)
    return dg.TableSchema(columns=[dg.TableColumn(name, kind, told, required) for name, (kind, told) in columns.items()])
