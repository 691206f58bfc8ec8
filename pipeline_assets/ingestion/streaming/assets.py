"""The assets of streaming ingestion: landed topics, their records as rows, and these as files: events by day, tables as they stand."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.errors import ContractViolation, OffsetsMissing, PipelineError, SourceChanged, TransientError
from pipeline_assets.core.resources import (
    COMPLETE,
    Platform,
    asked_days,
    column_schema,
    complete,
    dagster_errors,
    days,
    key,
    naming_dependents,
    source_changed,
)
from pipeline_assets.ingestion.staging import summary
from pipeline_assets.ingestion.streaming import sensors
from pipeline_assets.ingestion.streaming.audit.audit import Verdict, verify
from pipeline_assets.ingestion.streaming.capture.connect import open_connect
from pipeline_assets.ingestion.streaming.capture.connectors import Connector, apply, connectors_of, topics_of
from pipeline_assets.ingestion.streaming.health.watch import Watch, look
from pipeline_assets.ingestion.streaming.landing.refetch import refetch_from
from pipeline_assets.ingestion.streaming.staged.changes import log_contract
from pipeline_assets.ingestion.streaming.staged.events import StagedEvents, stage_events
from pipeline_assets.ingestion.streaming.staged.state import StagedState, stage_state
from pipeline_assets.ingestion.streaming.streams import change_log, followed, record_streams
from pipeline_assets.ingestion.streaming.typed.rows import Typed, type_landed
from pipeline_assets.ingestion.streaming.typed.schema_changes import hold_against_table
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.sources import EventStream, RecordStream, Source
from pipeline_assets.spec.use_case import UseCase

CONTRACT, OFFSETS, NOTHING_LOST = "contract", "offsets_complete", "nothing_lost"


def defs(use_case: UseCase) -> dg.Definitions:
    """Each topic as it lands, its records as typed rows, and what is staged of them: the days of streams, the rows of followed tables."""
    streams = record_streams(use_case)
    connectors = connectors_of(use_case)
    landed = [spec for topic in topics_of(use_case) for spec in _landed(streams, connectors, topic)]
    typed = [_typed(streams, stream) for stream in streams]
    staged = [_staged(use_case, stream) for stream in use_case.streams]
    followed = [_state(source) for source in use_case.sources if source.load == "changes"]
    graph = dg.Definitions(
        assets=[*([_connectors(use_case, connectors)] if connectors else []), *landed, *typed, *staged, *followed],
        asset_checks=[_gets_on(use_case), _nothing_lost(use_case)] if streams else [],
    )
    checks = [check for asset in typed for check in asset.check_keys]
    return dg.Definitions.merge(graph, sensors.defs(use_case, checks))


def _connectors(use_case: UseCase, connectors: Sequence[Connector]) -> dg.AssetsDefinition:
    """One op for all: a connector takes seconds to start, in which others can."""

    @dg.multi_asset(name=names.CONNECTORS, specs=[_connector(use_case, one) for one in connectors], can_subset=True)
    def applied(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult[None]]:
        chosen = [one for one in connectors if key(names.connector(one.name)) in context.selected_asset_keys]
        hindered = list[PipelineError]()
        with dagster_errors():
            for one, error in apply(platform.settings, chosen):
                if error is not None:
                    context.log.error("%s: %s", one.name, error)
                    hindered.append(error)
                    continue
                # The values of secrets stand in a file of the worker; the configuration names them only.
                config = dg.MetadataValue.json(dict(one.config(platform.settings)))
                yield dg.MaterializeResult(asset_key=key(names.connector(one.name)), metadata={"config": config})
            if hindered:
                # What trying again cannot mend comes first.
                raise min(hindered, key=lambda error: isinstance(error, TransientError))

    return applied


def _connector(use_case: UseCase, connector: Connector) -> dg.AssetSpec:
    does = f"Lands the topic {connector.topic}" if connector.topic is not None else f"Tells the changes of {connector.database}"
    return dg.AssetSpec(
        key(names.connector(connector.name)),
        deps=[key(name) for name in connector.reads],
        group_name=names.STREAMING_INGESTION,
        kinds={"kafka", "iceberg" if connector.topic is not None else "debezium"},
        owners=[use_case.owner],
        description=f"{does}: the connector {connector.name} of Kafka Connect, as it is declared, with the topics that it needs.",
        metadata={"connector": connector.name},
    )


def _landed(streams: Sequence[RecordStream], connectors: Sequence[Connector], topic: str) -> list[dg.AssetSpec]:
    """A topic, and the table that it lands in."""
    owners = sorted({stream.contract.owner for stream in streams if stream.topic == topic})
    fresh = dg.FreshnessPolicy.time_window(fail_window=min(stream.contract.freshness for stream in streams if stream.topic == topic))
    writers = [one.name for one in connectors if one.topic is None and topic in {each.name for each in one.topics}]
    return [
        dg.AssetSpec(
            key(names.topic(topic)),
            deps=[key(names.connector(writer)) for writer in writers],
            group_name=names.STREAMING_INGESTION if writers else names.SOURCES,
            kinds={"kafka"},
            owners=owners,
            description=f"The topic {topic} of the broker.",
            freshness_policy=fresh,
            metadata={"topic": topic},
        ),
        dg.AssetSpec(
            key(names.landed(topic)),
            deps=[key(names.connector(names.landing_connector(topic)))],
            group_name=names.STREAMING_INGESTION,
            kinds={"kafka", "iceberg"},
            owners=owners,
            description=f"Records of the topic {topic} as they are: bytes, partition, offset and time. Kafka Connect appends them.",
            freshness_policy=fresh,
            metadata={"topic": topic, "dagster/table_name": ".".join(names.landed(topic))},
        ),
    ]


def _gets_on(use_case: UseCase) -> dg.AssetChecksDefinition:
    """The check that the sensor `streams_watched` tells of; run by hand it sees what is wrong at once, and not what stands still."""
    assets = [names.connector(one.name) for one in connectors_of(use_case)]
    assets += [names.typed(stream.contract.name) for stream in record_streams(use_case)]
    description = "It is running, and has come further while there was something to do."
    specs = [dg.AssetCheckSpec(sensors.GETS_ON, asset=key(asset), description=description) for asset in assets]

    @dg.multi_asset_check(name=sensors.GETS_ON, specs=specs, can_subset=True)
    def gets_on(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        watch = Watch(now=datetime.now(UTC))
        with dagster_errors(), open_connect(platform.settings) as connect:
            look(platform.settings, connect, use_case, watch)
        for check in context.selected_asset_check_keys:
            seen = watch.seen.get((check.asset_key.path[0], check.asset_key.path[1]))
            told = "it is not there yet: materialize it" if seen is None else seen.trouble
            yield dg.AssetCheckResult(
                asset_key=check.asset_key,
                check_name=sensors.GETS_ON,
                passed=told is None,
                severity=dg.AssetCheckSeverity.ERROR,
                metadata={"what": told or "", **({} if seen is None else dict(seen.numbers))},
            )

    return gets_on


def watch_checks(use_case: UseCase) -> list[dg.AssetCheckKey]:
    """The checks that a sensor tells of, which sees over time what no run can see."""
    return list(_gets_on(use_case).check_keys)


def oracle_checks(use_case: UseCase) -> list[dg.AssetCheckKey]:
    """The checks by which the integrity oracle tells what it found; they read all there is, and so run in a job of their own."""
    return list(_nothing_lost(use_case).check_keys)


def _nothing_lost(use_case: UseCase) -> dg.AssetChecksDefinition:
    """The integrity oracle: a check of each topic, and one of the change log of each followed table."""
    records, rows = "Each record stands in a table or in quarantine, once.", "What its changes leave is what stands in the table."
    about = {names.topic(topic): records for topic in topics_of(use_case)}
    about |= {names.typed(change_log(source).contract.name): rows for source in followed(use_case)}
    specs = [dg.AssetCheckSpec(NOTHING_LOST, asset=key(asset), description=told) for asset, told in about.items()]

    @dg.multi_asset_check(name=NOTHING_LOST, specs=specs, can_subset=True)
    def nothing_lost(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        asked = {(check.asset_key.path[0], check.asset_key.path[1]) for check in context.selected_asset_check_keys}
        with dagster_errors():
            for verdict in verify(platform.settings, use_case, asked):
                yield _verdict(verdict)

    return nothing_lost


def _verdict(verdict: Verdict) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key(verdict.asset),
        check_name=NOTHING_LOST,
        passed=not verdict.problems,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={verdict.unit: dg.MetadataValue.int(verdict.compared), "problems": dg.MetadataValue.json(list(verdict.problems))},
    )


def _typed(streams: Sequence[RecordStream], stream: RecordStream) -> dg.AssetsDefinition:
    contract = stream.contract
    asset_key = key(names.typed(contract.name))

    @dg.asset(
        key=asset_key,
        deps=[key(names.landed(stream.topic))],
        group_name=names.STREAMING_INGESTION,
        kinds={"iceberg", "s3"},
        owners=[contract.owner],
        code_version=contract.version,
        description=f"{contract.description} Each event that kept the contract once, with its place in the topic.",
        metadata={
            "dagster/column_schema": column_schema(contract),
            "dagster/table_name": ".".join(names.typed(contract.name)),
            "topic": stream.topic,
        },
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=contract.freshness),
        check_specs=[
            dg.AssetCheckSpec(CONTRACT, asset=asset_key, description="Events keep their contract; others are in quarantine."),
            dg.AssetCheckSpec(
                OFFSETS,
                asset=asset_key,
                blocking=True,
                description="Every offset of the topic that was read is a row, or known not to be one.",
            ),
        ],
    )
    def typed(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        settings, error_level = platform.settings, dg.AssetCheckSeverity.ERROR
        with dagster_errors():
            try:
                with naming_dependents(context):
                    done = type_landed(settings, stream, run_id=context.run.run_id, streams=streams, refetch=refetch_from(settings))
            except SourceChanged as error:
                yield source_changed(asset_key, CONTRACT, error)
                raise
            except ContractViolation as error:
                yield _check(asset_key, error.reasons, error_level)
                raise
            except OffsetsMissing as error:
                told = {"partition": error.partition, "first": error.first, "last": error.last}
                yield dg.AssetCheckResult(asset_key=asset_key, check_name=OFFSETS, passed=False, severity=error_level, metadata=told)
                raise
        offsets = dg.AssetCheckResult(check_name=OFFSETS, passed=not done.gaps, severity=error_level, metadata={"gaps": len(done.gaps)})
        check = _check(asset_key, done.broken, dg.AssetCheckSeverity.WARN)
        yield dg.MaterializeResult(metadata=_typed_metadata(stream, done), check_results=[check, offsets])

    return typed


def _typed_metadata(stream: RecordStream, typed: Typed) -> dict[str, Any]:
    upstream, contract = key(names.landed(stream.topic)), stream.contract
    offsets = [dg.TableRecord({"partition": number, "before": start, "next": end}) for number, (start, end) in typed.offsets.items()]
    span = f"{typed.days[0]} to {typed.days[-1]}" if typed.days else ""
    return {
        "dagster/row_count": typed.table_rows,
        "dagster/column_schema": column_schema(contract),
        "dagster/column_lineage": dg.TableColumnLineage({one.name: [dg.TableColumnDep(upstream, "payload")] for one in contract.fields}),
        "rows": typed.rows,
        "rows_broken": sum(typed.broken.values()),
        "broken_by_reason": dg.MetadataValue.json(dict(typed.broken)),
        "repeats": typed.repeats,
        "refetched": typed.refetched,
        "records_of_other_streams": typed.left,
        "records_without_event": typed.skipped,
        "days_touched": dg.MetadataValue.json([day.isoformat() for day in typed.days]),
        "days": span,
        **({"offsets": dg.MetadataValue.table(offsets)} if offsets else {}),
        "fields_unknown": ", ".join(typed.unknown_fields),
        "fields_absent": ", ".join(typed.absent_fields),
        "commits": typed.commits,
        # As text: the page would show numbers of 19 digits rounded.
        "landing_snapshot": str(typed.landing_snapshot),
        "snapshot_before": str(typed.snapshot_before),
        "snapshot_id": str(typed.snapshot_after),
    }


def _staged(use_case: UseCase, stream: EventStream) -> dg.AssetsDefinition:
    contract = stream.contract
    asset_key = key(names.staged(contract.name))

    @dg.asset(
        key=asset_key,
        deps=[key(names.staged(stream.history.contract.name)), key(names.typed(contract.name))],
        partitions_def=days(use_case),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=names.STREAMING_INGESTION,
        kinds={"parquet", "s3"},
        owners=[contract.owner],
        code_version=contract.version,
        description=f"{contract.description} Staged files of events that kept the contract, from history and topic.",
        metadata={"dagster/column_schema": column_schema(contract), "topic": stream.topic},
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=contract.freshness),
        check_specs=[
            dg.AssetCheckSpec(
                CONTRACT, asset=asset_key, blocking=True, description="Events keep their contract; others are in quarantine."
            ),
            dg.AssetCheckSpec(COMPLETE, asset=asset_key, description="No day is without events, from history or topic."),
        ],
    )
    def staged(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        begun = monotonic()
        with dagster_errors():
            try:
                done = stage_events(platform.settings, stream, *asked_days(context), run_id=context.run.run_id)
            except ContractViolation as error:
                yield _check(asset_key, error.reasons, dg.AssetCheckSeverity.ERROR)
                raise
        for one in done.days:
            context.add_asset_metadata(summary.partition_facts(one), partition_key=one.manifest.partition)
        check = _check(asset_key, summary.reasons(done.days), dg.AssetCheckSeverity.WARN)
        yield dg.MaterializeResult(
            metadata=_staged_metadata(stream, done, monotonic() - begun),
            check_results=[check, complete(summary.empty_partitions(done.days))],
        )

    return staged


def _staged_metadata(stream: EventStream, staged: StagedEvents, seconds: float) -> dict[str, Any]:
    upstream = [key(names.staged(stream.history.contract.name)), key(names.typed(stream.contract.name))]
    lineage = {field.name: [dg.TableColumnDep(one, field.name) for one in upstream] for field in stream.contract.fields}
    return {
        **summary.facts(staged.days, seconds),
        "broken_by_reason": dg.MetadataValue.json(summary.reasons(staged.days)),
        "typed_snapshot": str(staged.typed_snapshot),
        "dagster/column_schema": column_schema(stream.contract),
        "dagster/column_lineage": dg.TableColumnLineage(lineage),
    }


def _state(source: Source) -> dg.AssetsDefinition:
    contract = source.contract
    asset_key, log = key(names.staged(contract.name)), key(names.typed(log_contract(contract).name))

    @dg.asset(
        key=asset_key,
        deps=[log],
        group_name=names.STREAMING_INGESTION,
        kinds={"parquet", "s3"},
        owners=[contract.owner],
        code_version=contract.version,
        description=f"{contract.description} Staged files of the rows that its changes left, as far as they kept the contract.",
        metadata={"dagster/column_schema": column_schema(contract)},
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=contract.freshness),
        check_specs=[
            dg.AssetCheckSpec(CONTRACT, asset=asset_key, blocking=True, description="Rows keep their contract; others are in quarantine.")
        ],
    )
    def state(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        begun = monotonic()
        with dagster_errors():
            try:
                with naming_dependents(context):
                    hold_against_table(platform.settings, source)
                    done = stage_state(platform.settings, source, run_id=context.run.run_id)
            except SourceChanged as error:
                yield source_changed(asset_key, CONTRACT, error)
                raise
            except ContractViolation as error:
                yield _check(asset_key, error.reasons, dg.AssetCheckSeverity.ERROR)
                raise
        check = _check(asset_key, summary.reasons([done.staged]), dg.AssetCheckSeverity.WARN)
        yield dg.MaterializeResult(metadata=_state_metadata(contract, log, done, monotonic() - begun), check_results=[check])

    return state


def _state_metadata(contract: Contract, log: dg.AssetKey, done: StagedState, seconds: float) -> dict[str, Any]:
    lineage = {field.name: [dg.TableColumnDep(log, field.name)] for field in contract.fields}
    return {
        **summary.facts([done.staged], seconds),
        "broken_by_reason": dg.MetadataValue.json(summary.reasons([done.staged])),
        "changes": done.merged.changes,
        # As text: the page would show numbers of 19 digits rounded.
        "lsn": str(done.merged.lsn),
        sensors.LOG_SNAPSHOT: str(done.log_snapshot),
        "values_not_in_log": len(done.merged.unresolved),
        "dagster/column_schema": column_schema(contract),
        "dagster/column_lineage": dg.TableColumnLineage(lineage),
    }


def _check(asset_key: dg.AssetKey, broken: Mapping[str, int], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset_key, check_name=CONTRACT, passed=not broken, severity=severity, metadata={"broken_by_reason": dict(broken)}
    )
