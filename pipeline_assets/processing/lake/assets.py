"""The assets of the lake: one table per source or stream, and the maintenance of all tables."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import (
    Platform,
    asked_days,
    column_schema,
    dagster_errors,
    days,
    key,
    of_run,
    report_days,
    rows_by_day,
    use_case_tags,
)
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.versions import version_key
from pipeline_assets.processing.lake.awaited import Awaited
from pipeline_assets.processing.lake.policy import POLICY, STREAM_POLICY, Policy
from pipeline_assets.processing.lake.sensors import data_freshness, shown
from pipeline_assets.spec.contracts import Contract

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_assets.processing.lake.audit import LakeVerdict
    from pipeline_assets.processing.lake.keys import DoubledKeys
    from pipeline_assets.processing.lake.maintenance import Maintained
    from pipeline_assets.processing.lake.tables import Published

ROWS_MATCH, UNIQUE_KEY = "rows_match_staging", "unique_key"
POLICIES = {
    names.LANDED: STREAM_POLICY,
    names.TYPED: STREAM_POLICY,
    names.LAKE: POLICY,
    names.CLEANED: POLICY,
    names.FEATURES: POLICY,
    names.FEATURE_STORE: POLICY,
}
AT_NIGHT = "30 3 * * *"
BEFORE_DAWN = "0 5 * * *"
# So a file is looked at about once a month by the daily audit.
ONE_IN = 30

Metadata = dict[str, dg.MetadataValue | dg.TableSchema | dg.TableColumnLineage | int | str]


def defs(project: Project) -> dg.Definitions:
    """A lake table for each source and stream, and once for the platform: maintenance and audit of all lake tables, with schedules."""
    published = [_table(project, contract, by_day=by_day) for contract, by_day in project.lake_contracts]
    maintained = [_maintenance(project, namespace, policy) for namespace, policy in POLICIES.items()]
    audited, awaited = _audit(), awaited_of(project)
    checks = dg.AssetSelection.checks(audited)
    job = dg.define_asset_job(names.MAINTAIN_LAKE, selection=dg.AssetSelection.assets(*maintained) - checks)
    audit = dg.define_asset_job(names.AUDIT_LAKE, selection=checks)
    nightly = dg.ScheduleDefinition(
        job=job,
        cron_schedule=AT_NIGHT,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Compacts small files, expires old snapshots and deletes orphan files. Rows never change, so it is on by default.",
    )
    daily = dg.ScheduleDefinition(
        name=names.AUDIT_LAKE_DAILY,
        job=audit,
        cron_schedule=BEFORE_DAWN,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Looks at all metadata of the lake and one data file in {ONE_IN}, others each day. Nothing is written.",
    )
    fresh = dg.Definitions(asset_checks=[_is_fresh(awaited)], sensors=[data_freshness(awaited)]) if awaited else dg.Definitions()
    kept = dg.Definitions(assets=[*published, *maintained], asset_checks=[audited], jobs=[job, audit], schedules=[nightly, daily])
    return dg.Definitions.merge(kept, fresh)


def awaited_of(project: Project) -> list[Awaited]:
    """What has promised to be fresh: each source and stream of the use cases, but not what the platform records of itself."""
    homes = [(contract, project.home_of(contract)) for contract, _ in project.lake_contracts]
    return [
        Awaited(contract=contract, use_case=home.name, last_day=project.span_of(home).last)
        for contract, home in homes
        if home in project.use_cases
    ]


def health_checks(project: Project) -> list[dg.AssetCheckKey]:
    """The checks that a sensor evaluates."""
    return [spec.key for spec in _fresh_specs(awaited_of(project))]


def _table(project: Project, contract: Contract, *, by_day: bool) -> dg.AssetsDefinition:
    asset_key, home = key(names.lake(contract.name)), project.home_of(contract)

    @dg.asset(
        key=asset_key,
        deps=[key(names.staged(contract.name))],
        partitions_def=days(project.span_of(home)) if by_day else None,
        backfill_policy=dg.BackfillPolicy.single_run() if by_day else None,
        group_name=names.LAKE,
        kinds={"iceberg", "s3"},
        tags=use_case_tags(home),
        owners=[contract.owner],
        code_version=contract.version,
        pool=names.LAKE,
        description=f"{contract.description} Staged files as an Iceberg table{', by day of ' + contract.event_at if by_day else ''}.",
        metadata={"dagster/column_schema": column_schema(contract), "dagster/table_name": ".".join(names.lake(contract.name))},
        check_specs=[
            dg.AssetCheckSpec(ROWS_MATCH, asset=asset_key, blocking=True, description="The lake holds as many rows as were staged."),
            dg.AssetCheckSpec(
                UNIQUE_KEY, asset=asset_key, blocking=True, description=f"No two rows have the same {', '.join(version_key(contract))}."
            ),
        ],
    )
    def table(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        from pipeline_assets.processing.lake import tables

        with dagster_errors():
            settings = platform.settings
            if by_day:
                published = tables.publish_days(settings, contract, *asked_days(context))
            else:
                published = tables.publish_snapshot(settings, contract)
            context.log.info("%d rows in %d files, %d partitions changed", published.rows, published.files, published.changed)
            doubled = _doubled(settings, contract, published, asked_days(context) if by_day else None)
            rows = tables.rows_by_day(settings, published.identifier, asked_days(context), published.snapshot_after) if by_day else {}
        metadata = _metadata(contract, published, by_day=by_day)
        if by_day:
            report_days(context, rows_by_day(*asked_days(context), rows), metadata)
        return dg.MaterializeResult(metadata=None if by_day else metadata, check_results=_checks(published, doubled))

    return table


def _doubled(settings: Settings, contract: Contract, published: "Published", asked: tuple[date, date] | None) -> "DoubledKeys":
    from pipeline_assets.processing.lake import tables
    from pipeline_assets.processing.lake.keys import doubled_keys

    columns, snapshot = version_key(contract), published.snapshot_after

    def read() -> "pa.RecordBatchReader":
        if asked is None:
            return tables.read_all(settings, published.identifier, columns, snapshot)
        return tables.read_days(settings, published.identifier, *asked, columns, snapshot)

    return doubled_keys(read, columns)


def _checks(published: "Published", doubled: "DoubledKeys") -> list[dg.AssetCheckResult]:
    counts: dict[str, int] = {"rows_in_lake": published.rows, "rows_staged": published.given}
    examples = dg.MetadataValue.json([{name: str(value) for name, value in example.items()} for example in doubled.examples])
    return [
        dg.AssetCheckResult(check_name=ROWS_MATCH, passed=published.rows == published.given, metadata=counts),
        dg.AssetCheckResult(
            check_name=UNIQUE_KEY, passed=not doubled.surplus, metadata={"surplus_rows": doubled.surplus, "keys": examples}
        ),
    ]


def _metadata(contract: Contract, published: "Published", *, by_day: bool) -> Metadata:
    source = key(names.staged(contract.name))
    lineage = {field.name: [dg.TableColumnDep(source, field.name)] for field in contract.fields}
    return {
        names.ROW_COUNT: published.table_rows,
        "dagster/column_schema": column_schema(contract),
        "dagster/column_lineage": dg.TableColumnLineage(lineage),
        "dagster/uri": dg.MetadataValue.text(published.location),
        **(of_run(published.sums) if by_day else published.sums),
        # As text: the page would show numbers of 19 digits rounded.
        "snapshot_before": str(published.snapshot_before),
        "snapshot_id": str(published.snapshot_after),
    }


def _maintenance(project: Project, namespace: str, policy: Policy) -> dg.AssetsDefinition:
    @dg.asset(
        key=key(names.maintenance(namespace)),
        group_name=names.LAKE,
        kinds={"iceberg", "s3"},
        owners=sorted({use_case.owner for use_case in project.use_cases}),
        pool=names.LAKE,
        description=f"The files of all tables in `{namespace}`: few and large, old snapshots expired, orphan files deleted.",
        metadata={"policy": dg.MetadataValue.json({name: str(value) for name, value in asdict(policy).items()})},
    )
    def maintenance(platform: Platform) -> dg.MaterializeResult:
        from pipeline_assets.processing.lake.maintenance import maintain

        with dagster_errors():
            maintained = maintain(platform.settings, namespace, policy, datetime.now(UTC))
        return dg.MaterializeResult(metadata=_maintenance_metadata(maintained))

    return maintenance


def _fresh_specs(awaited: Sequence[Awaited]) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            names.IS_FRESH,
            asset=key(names.lake(one.contract.name)),
            description=f"By the clock of {one.use_case} the newest {one.contract.event_at} is at most {one.contract.freshness} old.",
        )
        for one in awaited
    ]


def _is_fresh(awaited: Sequence[Awaited]) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(name=names.IS_FRESH, specs=_fresh_specs(awaited), can_subset=True)
    def is_fresh(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        from pipeline_assets.processing.lake.freshness import judged, read_newest

        chosen, now = {check.asset_key for check in context.selected_asset_check_keys}, datetime.now(UTC)
        asked = [one for one in awaited if key(names.lake(one.contract.name)) in chosen]
        with dagster_errors():
            settings = platform.settings
            newest = read_newest(settings, [one.contract for one in asked], {})
        for one in asked:
            found = judged(settings.home, one, newest.get(one.contract.name), now)
            yield dg.AssetCheckResult(
                asset_key=key(names.lake(one.contract.name)),
                check_name=names.IS_FRESH,
                passed=found.is_fresh,
                severity=dg.AssetCheckSeverity.ERROR,
                description=found.in_words,
                metadata=shown(found),
            )

    return is_fresh


def _audit() -> dg.AssetChecksDefinition:
    what = f"All metadata, and one data file in {ONE_IN} (others each day), are there and are what was written."
    of_namespace = {key(names.maintenance(namespace)): namespace for namespace in POLICIES}
    specs = [dg.AssetCheckSpec(names.OBJECTS_INTACT, asset=asset, description=what) for asset in of_namespace]

    @dg.multi_asset_check(name=names.OBJECTS_INTACT, specs=specs, can_subset=True)
    def objects_intact(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        from pipeline_assets.processing.lake.audit import Sample, audit_lake

        sample = Sample.on(datetime.now(UTC).date(), ONE_IN)
        for check in sorted(context.selected_asset_check_keys, key=lambda check: check.asset_key):
            with dagster_errors():
                found = list(audit_lake(platform.settings, sample, namespaces=[of_namespace[check.asset_key]]))
            yield _intact(check.asset_key, found)

    return objects_intact


def _intact(asset_key: dg.AssetKey, found: "Sequence[LakeVerdict]") -> dg.AssetCheckResult:
    damaged = {verdict.table: list(verdict.problems) for verdict in found if verdict.problems}
    days = {verdict.table: list(verdict.days) for verdict in found if verdict.days}
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=names.OBJECTS_INTACT,
        passed=not damaged,
        metadata={
            "objects": sum(verdict.objects for verdict in found),
            "damaged": dg.MetadataValue.json(damaged),
            "damaged_days": dg.MetadataValue.json(days),
        },
    )


def _maintenance_metadata(maintained: "Maintained") -> Metadata:
    shown = [dg.TableRecord(asdict(table)) for table in maintained.tables]
    return {
        "files_before": sum(table.files_before for table in maintained.tables),
        "files_after": sum(table.files_after for table in maintained.tables),
        "snapshots_expired": sum(table.snapshots_before - table.snapshots_after for table in maintained.tables),
        "files_deleted": maintained.swept.deleted,
        "bytes_reclaimed": maintained.swept.bytes,
        "orphan_files": maintained.swept.orphans,
        **({"tables": dg.MetadataValue.table(shown)} if shown else {}),
    }
