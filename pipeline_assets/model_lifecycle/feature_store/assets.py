"""The assets of the feature store: the vectors of each model, and the views that are kept online."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
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
    pictures,
    report_days,
    rows_by_day,
    snapshots_read,
    use_case_tags,
)
from pipeline_assets.model_lifecycle.feature_store.lineage import vector_lineage
from pipeline_assets.model_lifecycle.feature_store.online import assets as online
from pipeline_assets.model_lifecycle.feature_store.online.sensors import online_health
from pipeline_assets.model_lifecycle.feature_store.references import CurrentUse, columns_taken, current_uses
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import DbtLineage, read_lineage
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets.processing.cleaning.references import References
from pipeline_assets.processing.features.catalogue import definition_hash, feature_columns
from pipeline_assets.spec.models import Model, Observations
from pipeline_assets.spec.use_case import UseCase

if TYPE_CHECKING:
    from pipeline_assets.core.settings import Settings
    from pipeline_assets.model_lifecycle.feature_store.offline import Vectors
    from pipeline_assets.model_lifecycle.feature_store.old_days import OldDay
    from pipeline_assets.model_lifecycle.feature_store.online.recomputed import ServedParity
    from pipeline_assets.model_lifecycle.feature_store.parity import Parity
    from pipeline_assets.processing.lake.tables import Published

ROWS_MATCH, IN_RANGE = "rows_match_observations", "decisions_in_declared_range"
PARITY, OLD_DAYS = "equal_to_historical_features", "other_days_as_they_were"
AS_OF, SERVED = "reference_data_as_of_decision", "served_as_in_the_lake"
KNOWN_SINCE = "Since when the version that was decided was known, in UTC."

Metadata = dict[str, dg.MetadataValue | dg.TableSchema | dg.TableColumnLineage | int | str]


def defs(project: Project) -> dg.Definitions:
    """The vectors of each model, and the views that are kept online, with their check and its sensor; none where no view is."""
    references, lineage = read_models(project).references, read_lineage(project_folder())
    vectors = dg.Definitions(assets=[_vectors(project, references, lineage, model) for model in project.models])
    feeds = online.declared_feeds(project)
    if not feeds:
        return vectors
    views = [online.online_views(project, feed) for feed in feeds]
    kept = dg.Definitions(assets=views, asset_checks=[online.is_kept(feeds)], sensors=[online_health(feeds)])
    return dg.Definitions.merge(vectors, kept)


def online_homes(project: Project) -> list[UseCase]:
    """The use cases that have views online, each once."""
    homes = {home.name: home for home in (online.home_of(project, feed) for feed in online.declared_feeds(project))}
    return list(homes.values())


def health_checks(project: Project) -> list[dg.AssetCheckKey]:
    """The checks that a sensor evaluates."""
    return [check.key for check in online.specs(online.declared_feeds(project))]


def _vectors(project: Project, references: References, lineage: DbtLineage, model: Model) -> dg.AssetsDefinition:
    uses = current_uses(references, model)
    asset_key, home, schema = key(names.vectors(model.name)), project.home_of_model(model), _column_schema(project, model)

    @dg.asset(
        key=asset_key,
        deps=[*(key(names.features(view.name)) for view in model.views), _observations(model.observations)],
        partitions_def=days(project.span_of(home)),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.FEATURE_STORE,
        kinds={"polars", "iceberg"},
        owners=[model.owner],
        code_version=definition_hash(model)[:12],
        pool=names.FEATURE_STORE,
        tags=use_case_tags(home),
        description=f"What was known for each decision of {model.name} when it was made. One row per {', '.join(model.observations.keys)}.",
        metadata={"dagster/column_schema": schema, "dagster/table_name": ".".join(names.vectors(model.name))},
        check_specs=_check_specs(asset_key, model.observations),
    )
    def vectors(context: dg.AssetExecutionContext, config: ReadAt, platform: Platform) -> dg.MaterializeResult:
        from pipeline_assets.model_lifecycle.feature_store.offline import materialize_vectors
        from pipeline_assets.model_lifecycle.feature_store.old_days import sample
        from pipeline_assets.model_lifecycle.feature_store.parity import check_days
        from pipeline_assets.processing.lake import tables

        first, last = asked_days(context)
        with dagster_errors():
            done = materialize_vectors(platform.settings, model, first, last, config.chosen)
            context.log.info("%d vectors of %d observations", done.published.rows, done.observations)
            proven = check_days(platform.settings, project, model, {first, last}, done.snapshots)
            old = sample(platform.settings, project, model, (first, last), context.run.run_id)
            served = served_check(platform.settings, project, model)
            rows = tables.rows_by_day(platform.settings, names.vectors(model.name), (first, last), done.published.snapshot_after)
        report_days(context, rows_by_day(first, last, rows), _metadata(model, done) | {"dagster/column_schema": schema})
        checks = [
            _rows_check(done),
            _range_check(done),
            _parity_check(proven),
            judge_old_days(old),
            as_of_check(model, uses, lineage),
            served,
        ]
        return dg.MaterializeResult(check_results=checks)

    return vectors


def _observations(asked: Observations) -> dg.AssetDep:
    """The observations of a day's decisions, which are kept by the day of their event: before the decision, at it or after it."""
    return dg.AssetDep(key(names.cleaned(asked.table)), partition_mapping=days_around(before=asked.behind, after=asked.ahead))


def _check_specs(asset_key: dg.AssetKey, asked: Observations) -> list[dg.AssetCheckSpec]:
    rows = "As many vectors as there are observations of these days."
    near = (
        f"No decision was made more than {asked.ahead} before its {asked.event_at} or more than {asked.behind} after it, as is declared by "
        "`ahead` and `behind`: vectors of other decisions are not materialized again together with the day of their event."
    )
    old = (
        "A sample of days that were materialized before, computed anew, is equal to the vectors bit for bit. A version that came "
        "late makes a day stale from when it was known on, until the day is materialized again."
    )
    parity = "A sample of the first and the last day, computed anew from the cleaned events, is equal to the vectors bit for bit."
    as_of = (
        "Nothing that observations, label and views are made of is known as of now alone. It warns of tables that have the rows as they "
        "are now: decisions of the past are given the present. That does no harm where values never change; otherwise keep the versions "
        "of the table, and read those."
    )
    served = (
        "Vectors that were served online lately, computed again from the lake with the rows that had been seen, are equal bit for bit. "
        "While a feature differs no candidate is promoted."
    )
    return [
        dg.AssetCheckSpec(ROWS_MATCH, asset=asset_key, blocking=True, description=rows),
        dg.AssetCheckSpec(IN_RANGE, asset=asset_key, description=near),
        dg.AssetCheckSpec(PARITY, asset=asset_key, blocking=True, description=parity),
        dg.AssetCheckSpec(OLD_DAYS, asset=asset_key, description=old),
        dg.AssetCheckSpec(AS_OF, asset=asset_key, description=as_of),
        dg.AssetCheckSpec(SERVED, asset=asset_key, description=served),
    ]


def _range_check(done: "Vectors") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=IN_RANGE,
        passed=done.outside == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"observations": done.observations, "outside": done.outside},
    )


def _rows_check(done: "Vectors") -> dg.AssetCheckResult:
    counts = {"observations": done.observations, "vectors": done.published.rows}
    return dg.AssetCheckResult(check_name=ROWS_MATCH, passed=done.observations == done.published.rows, metadata=counts)


def _parity_check(proven: "list[Parity]") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=PARITY, passed=all(parity.is_equal for parity in proven), metadata=_compared(proven))


def _compared(proven: "Sequence[Parity]") -> Metadata:
    """By day how many rows were computed anew, in how many each column differs, and decisions that have no vector or no observation."""
    return {
        "rows_compared": dg.MetadataValue.json({str(parity.day): parity.rows for parity in proven}),
        "differing": dg.MetadataValue.json({str(parity.day): dict(parity.differing) for parity in proven if parity.differing}),
        "decisions_gained": sum(parity.gained for parity in proven),
        "decisions_lost": sum(parity.lost for parity in proven),
    }


def judge_old_days(old: "Sequence[OldDay]") -> dg.AssetCheckResult:
    """A stale day is a warning; one that differs although its inputs have not changed is an error, as then the past was not kept."""
    stale = [one for one in old if not one.parity.is_equal]
    tables = {str(one.parity.day): list(one.inputs_changed) for one in old if one.inputs_changed}
    return dg.AssetCheckResult(
        check_name=OLD_DAYS,
        passed=not stale,
        severity=dg.AssetCheckSeverity.ERROR if any(one.is_unexplained for one in old) else dg.AssetCheckSeverity.WARN,
        description="; ".join(map(_in_words, stale)) or f"{len(old)} other days would come out as they are.",
        metadata={**_compared([one.parity for one in old]), "inputs_changed": dg.MetadataValue.json(tables)},
    )


def _in_words(stale: "OldDay") -> str:
    day, tables = stale.parity.day, ", ".join(stale.inputs_changed)
    if stale.is_unexplained:
        return f"{day} would come out otherwise, although nothing that it is made of has changed"
    return f"{day} is stale, as something came late for it: {tables}. Materialize it again; `pipeline features stale` lists all such days"


def served_check(settings: "Settings", project: Project, model: Model) -> dg.AssetCheckResult:
    """Holds a sample of the vectors that were served online against the lake; a store that does not answer is a warning."""
    import psycopg

    from pipeline_assets.model_lifecycle.feature_store.online import findings
    from pipeline_assets.model_lifecycle.feature_store.online.recomputed import check_served
    from pipeline_assets.model_lifecycle.feature_store.online.served import has_samples

    try:
        if not has_samples(settings, model):
            return _not_served("No vectors of the model that were served online were kept.")
        found = check_served(settings, project, online.declared_feeds(project), model)
        course = findings.findings(settings, model)
    except psycopg.OperationalError as error:
        return _not_served(f"The online store did not answer: {error}", passed=False)
    return judge_served(found, findings.draw_findings(course) if course else None)


def judge_served(found: "ServedParity", course: bytes | None) -> dg.AssetCheckResult:
    """An error that names each feature that differs; passed where none does, also where no vector could be compared."""
    counts = f"{found.checked} vectors compared, {found.pending} wait for the lake, {sum(found.unclear.values())} cannot be compared"
    differing = [f"{name} in {count} of them" for name, count in found.differing.items()]
    metadata: Metadata = {
        "vectors_compared": found.checked,
        "vectors_pending": found.pending,
        "vectors_unclear": dg.MetadataValue.json(dict(found.unclear)),
        "differing": dg.MetadataValue.json(dict(found.differing)),
        "examples": dg.MetadataValue.json([asdict(one) for one in found.examples]),
        **({} if course is None else {"over_time": pictures({"served vectors held against the lake": course})}),
    }
    return dg.AssetCheckResult(
        check_name=SERVED,
        passed=found.is_equal,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join([*differing, counts]),
        metadata=metadata,
    )


def _not_served(why: str, *, passed: bool = True) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=SERVED, passed=passed, severity=dg.AssetCheckSeverity.WARN, description=why)


def as_of_check(model: Model, uses: Sequence[CurrentUse], lineage: DbtLineage) -> dg.AssetCheckResult:
    """A warning that names each table of `uses`, and its columns that reach the model by the lineage; passed where there is none."""
    if not uses:
        return dg.AssetCheckResult(check_name=AS_OF, passed=True, severity=dg.AssetCheckSeverity.WARN)
    columns = columns_taken(model, [use.table for use in uses], lineage.read_by)
    read = ", ".join(".".join(use.table) for use in uses)
    return dg.AssetCheckResult(
        check_name=AS_OF,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"For the past the model takes the current values of {read}.",
        metadata={names.CURRENT_VALUE_ONLY: dg.MetadataValue.table([_record(use, columns[use.table]) for use in uses])},
    )


def _record(use: CurrentUse, columns: Sequence[str]) -> dg.TableRecord:
    return dg.TableRecord({
        "table": ".".join(use.table),
        "columns": ", ".join(columns) or "none that lineage knows of",
        "read_by": ", ".join(use.read_by),
        "what_to_do": use.remedy,
    })  # fmt: skip


def _metadata(model: Model, done: "Vectors") -> Metadata:
    published: Published = done.published
    return {
        names.ROW_COUNT: published.table_rows,
        "dagster/uri": dg.MetadataValue.text(published.location),
        "dagster/column_lineage": column_lineage(vector_lineage(model)),
        **of_run({**published.sums, "features": len(feature_columns(model))}),
        # As text: the page would show numbers of 19 digits rounded.
        "snapshot_before": str(published.snapshot_before),
        "snapshot_id": str(published.snapshot_after),
        "snapshots_read": snapshots_read(done.snapshots),
    }


def _column_schema(project: Project, model: Model) -> dg.TableSchema:
    asked, required = model.observations, dg.TableColumnConstraints(nullable=False)
    columns = [
        *(dg.TableColumn(name, project.kind_of(asked.table, name), "Which decision it is.", required) for name in asked.keys),
        dg.TableColumn(asked.decision_at, "timestamp", "When the decision was made, in UTC.", required),
        *(dg.TableColumn(name, project.kind_of(asked.table, name), "By which quality is also reported.") for name in model.slices),
        *([dg.TableColumn(names.OBSERVATION_KNOWN_AT, "timestamp", KNOWN_SINCE, required)] if asked.versions is not None else []),
        *(dg.TableColumn(feature.name, feature.dtype, feature.description) for feature in feature_columns(model)),
        dg.TableColumn(names.FEATURE_HASH, "string", "SHA-256 of the features' values in the model's order.", required),
    ]
    return dg.TableSchema(columns=columns)
