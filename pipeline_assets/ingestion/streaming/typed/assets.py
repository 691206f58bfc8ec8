"""The typed table of each stream as an asset."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.errors import ContractViolation, SourceChanged
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import (
    CONTRACT,
    OFFSETS,
    Platform,
    column_schema,
    contract_check,
    contract_refused,
    dagster_errors,
    key,
    naming_dependents,
    source_changed,
    use_case_tags,
)
from pipeline_assets.core.stream_errors import OffsetsMissing
from pipeline_assets.ingestion.streaming.streams import home_of, record_streams
from pipeline_assets.spec.sources import RecordStream

if TYPE_CHECKING:
    from pipeline_assets.ingestion.streaming.typed.rows import Typed

Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]


def typed(project: Project, stream: RecordStream) -> dg.AssetsDefinition:
    """A stream's events that kept the contract, as a lake table."""
    contract, streams = stream.contract, record_streams(project)
    asset_key = key(names.typed(contract.name))

    @dg.asset(
        key=asset_key,
        deps=[key(names.landed(stream.topic))],
        group_name=names.STREAMING_INGESTION,
        kinds={"iceberg", "s3"},
        owners=[contract.owner],
        tags=use_case_tags(home_of(project, stream)),
        code_version=contract.version,
        description=f"{contract.description} Each event that kept the contract once, with its place in the topic.",
        metadata={
            "dagster/column_schema": column_schema(contract),
            "dagster/table_name": ".".join(names.typed(contract.name)),
            "topic": stream.topic,
        },
        check_specs=_check_specs(asset_key),
    )
    def table(context: dg.AssetExecutionContext, platform: Platform) -> Results:
        from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
        from pipeline_assets.ingestion.streaming.typed.rows import type_landed

        settings, error_level = platform.settings, dg.AssetCheckSeverity.ERROR
        with dagster_errors():
            try:
                with naming_dependents(context):
                    done = type_landed(settings, stream, run_id=context.run.run_id, streams=streams, refetch=refetch_from(settings))
            except SourceChanged as error:
                yield source_changed(asset_key, CONTRACT, error)
                raise
            except ContractViolation as error:
                yield contract_refused(asset_key, error)
                raise
            except OffsetsMissing as error:
                yield _missing(asset_key, error)
                raise
        offsets = dg.AssetCheckResult(check_name=OFFSETS, passed=not done.gaps, severity=error_level, metadata={"gaps": len(done.gaps)})
        check = contract_check(asset_key, contract, done.rows, done.broken)
        yield dg.MaterializeResult(metadata=_metadata(stream, done), check_results=[check, offsets])

    return table


def _check_specs(asset_key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    offsets = "Every offset of the topic that was read is a row, or known not to be one."
    return [
        dg.AssetCheckSpec(CONTRACT, asset=asset_key, description="Events keep their contract; others are in quarantine."),
        dg.AssetCheckSpec(OFFSETS, asset=asset_key, blocking=True, description=offsets),
    ]


def _missing(asset_key: dg.AssetKey, error: OffsetsMissing) -> dg.AssetCheckResult:
    span = {"partition": error.partition, "first": error.first, "last": error.last}
    return dg.AssetCheckResult(asset_key=asset_key, check_name=OFFSETS, passed=False, severity=dg.AssetCheckSeverity.ERROR, metadata=span)


def _metadata(stream: RecordStream, typed: "Typed") -> dict[str, Any]:
    upstream, contract = key(names.landed(stream.topic)), stream.contract
    return {
        names.ROW_COUNT: typed.table_rows,
        "dagster/column_schema": column_schema(contract),
        "dagster/column_lineage": dg.TableColumnLineage({one.name: [dg.TableColumnDep(upstream, "payload")] for one in contract.fields}),
        **_counts(typed),
        "days_touched": dg.MetadataValue.json([day.isoformat() for day in typed.days]),
        "days": f"{typed.days[0]} to {typed.days[-1]}" if typed.days else "",
        **_positions(typed),
        "fields_unknown": ", ".join(typed.unknown_fields),
        "fields_absent": ", ".join(typed.absent_fields),
    }


def _counts(typed: "Typed") -> dict[str, Any]:
    return {
        "rows": typed.rows,
        "rows_broken": sum(typed.broken.values()),
        "broken_by_reason": dg.MetadataValue.json(dict(typed.broken)),
        "repeats": typed.repeats,
        "refetched": typed.refetched,
        "records_of_other_streams": typed.left,
        "records_without_event": typed.skipped,
        "commits": typed.commits,
    }


def _positions(typed: "Typed") -> dict[str, Any]:
    """Offsets and snapshots before and after; snapshots as text, as the page would show numbers of 19 digits rounded."""
    offsets = [dg.TableRecord({"partition": number, "before": start, "next": end}) for number, (start, end) in typed.offsets.items()]
    return {
        **({"offsets": dg.MetadataValue.table(offsets)} if offsets else {}),
        "landing_snapshot": str(typed.landing_snapshot),
        "snapshot_before": str(typed.snapshot_before),
        "snapshot_id": str(typed.snapshot_after),
    }
