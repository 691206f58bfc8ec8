"""The assets of batch inference: the predictions of each model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import (
    Platform,
    asked_days,
    column_lineage,
    dagster_errors,
    days,
    key,
    of_run,
    pictures,
    report_days,
    rows_by_day,
    use_case_tags,
)
from pipeline_assets.model_lifecycle.registry.ledger import AskedVersion
from pipeline_assets.serving.batch.answers import VERSION_TYPE, answer_columns, lineage, meanings, range_rule, version_columns
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.tasks import Task

if TYPE_CHECKING:
    from pipeline_assets.serving.batch.predictions import Kept
    from pipeline_assets.serving.batch.score import Scored
    from pipeline_assets.serving.batch.spread import Spread

ROWS_MATCH, IN_RANGE, AS_DECLARED = "rows_match_vectors", "scores_in_range", "versions_as_asked"

Metadata = dict[str, dg.MetadataValue | dg.TableSchema | dg.TableColumnLineage | int | str]


class Scoring(dg.Config):
    """Which version scores."""

    version: AskedVersion = Field(
        default="champion", description="champion: the version that is live now; as_of: for each day, the one that was live as it began."
    )


def defs(project: Project) -> dg.Definitions:
    """The predictions of every model."""
    return dg.Definitions(assets=[_predictions(project, model) for model in project.models])


def _predictions(project: Project, model: Model) -> dg.AssetsDefinition:
    home = project.home_of_model(model)
    asset_key, schema = key(names.predictions(model.name)), _column_schema(project, model)

    @dg.asset(
        key=asset_key,
        deps=[key(names.vectors(model.name)), key(names.champion(model.name))],
        partitions_def=days(project.span_of(home)),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.BATCH_INFERENCE,
        kinds={"xgboost", "postgres"},
        owners=[model.owner],
        tags=use_case_tags(home),
        code_version="1",
        pool=names.BATCH_INFERENCE,
        description=f"{model.question} One row per {', '.join(model.observations.keys)} and decision_at, by the day of decision_at.",
        metadata={"dagster/column_schema": schema, "dagster/table_name": ".".join(names.predictions(model.name))},
        check_specs=_check_specs(asset_key, model.task),
    )
    def predictions(context: dg.AssetExecutionContext, platform: Platform, config: Scoring) -> dg.MaterializeResult:
        from pipeline_assets.model_lifecycle.registry.versions import version_url
        from pipeline_assets.serving.batch.predictions import read_kept
        from pipeline_assets.serving.batch.score import check_unchanged, score_days
        from pipeline_assets.serving.batch.spread import read_spread

        first, last = asked_days(context)
        with dagster_errors():
            done = score_days(platform.settings, model, first, last, version=config.version, run_id=context.run.run_id)
            context.log.info("%d rows written, %d unchanged, %d removed", done.written, done.unchanged, done.removed)
            kept = read_kept(platform.settings, model, first, last)
            spread = read_spread(platform.settings, model, first, last)
            links = {number: version_url(platform.settings, model, number) for number in kept.versions}
            check_unchanged(platform.settings, model, first, last, done.snapshot_id)
        once = _metadata(model, config.version, done, kept) | _pictured(spread) | {"versions": _links(links)}
        report_days(context, rows_by_day(first, last, kept.by_day), once | {"dagster/column_schema": schema})
        return dg.MaterializeResult(check_results=judge(config.version, done, kept))

    return predictions


def _check_specs(asset_key: dg.AssetKey, task: Task) -> list[dg.AssetCheckSpec]:
    rules = {
        ROWS_MATCH: "As many predictions as vectors.",
        IN_RANGE: range_rule(task),
        AS_DECLARED: "Each row was scored by the version that the run asked for; with `champion` there is one.",
    }
    return [dg.AssetCheckSpec(name, asset=asset_key, blocking=True, description=description) for name, description in rules.items()]


def judge(version: AskedVersion, done: "Scored", kept: "Kept") -> list[dg.AssetCheckResult]:
    """The checks of a run: what it scored against what the table holds now."""
    as_asked = dict(kept.versions) == dict(done.versions) and (version == "as_of" or len(kept.versions) <= 1)
    rows: dict[str, int] = {"vectors": done.vectors, "predictions": kept.rows}
    return [
        dg.AssetCheckResult(check_name=ROWS_MATCH, passed=done.vectors == kept.rows, metadata=rows),
        dg.AssetCheckResult(check_name=IN_RANGE, passed=kept.out_of_range == 0, metadata={"out_of_range": kept.out_of_range}),
        dg.AssetCheckResult(check_name=AS_DECLARED, passed=as_asked, metadata={"rows_by_version": _by_version(kept)}),
    ]


def _metadata(model: Model, version: AskedVersion, done: "Scored", kept: "Kept") -> Metadata:
    return {
        "dagster/column_lineage": column_lineage(lineage(model)),
        **of_run({"rows": kept.rows, "written": done.written, "unchanged": done.unchanged, "removed": done.removed}),
        "version_asked": version,
        "rows_by_version": _by_version(kept),
        # As text: the page would show numbers of 19 digits rounded.
        "vectors_snapshot_id": str(done.snapshot_id),
    }


def _pictured(spread: "Spread") -> Metadata:
    from pipeline_assets.serving.batch.spread import draw_spread

    return {"scores": pictures({"Distribution of scores": draw_spread(spread)})}


def _links(urls: Mapping[int, str]) -> dg.MetadataValue:
    return dg.MetadataValue.md(", ".join(f"[version {version}]({url})" for version, url in urls.items()) or "none")


def _by_version(kept: "Kept") -> dg.MetadataValue:
    return dg.MetadataValue.json({str(version): rows for version, rows in kept.versions.items()})


def _column_schema(project: Project, model: Model) -> dg.TableSchema:
    """The columns of the table with their types of Postgres."""
    described, asked = meanings(model.task), model.observations
    keys = {key: "bigint" if project.kind_of(asked.table, key) == "integer" else "text" for key in asked.keys}
    prediction_id, decision_at, model_version, feature_hash, run_id, vectors_snapshot, scored_at = names.PREDICTION_COLUMNS
    columns = {
        prediction_id: ("uuid", "The same for the same model, version, keys and decision_at."),
        **{name: (kind, "Which decision it is.") for name, kind in keys.items()},
        decision_at: ("timestamptz", "When the decision is asked for, in UTC."),
        **dict.fromkeys(version_columns(model), (VERSION_TYPE, "Since when the version of the decision that was judged was known.")),
        **{name: (kind, described[name]) for name, kind in answer_columns(model.task).items()},
        model_version: ("bigint", "The version that scored."),
        feature_hash: ("text", "SHA-256 of the features' values that were scored."),
        run_id: ("text", "The run that wrote the row."),
        vectors_snapshot: ("bigint", "The snapshot of the vectors in the lake that held what was scored."),
        scored_at: ("timestamptz", "When it was written, by the wall clock."),
    }
    required = dg.TableColumnConstraints(nullable=False)
    return dg.TableSchema(columns=[dg.TableColumn(name, kind, meaning, required) for name, (kind, meaning) in columns.items()])
