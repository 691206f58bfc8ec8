"""What the assets of all rooms share of Dagster: the platform as a resource, the days as partitions, errors as Dagster's.

Secrets stay in the settings, which are read when a run asks for them: no resource field holds one, so none shows in the UI.
"""

import json
import warnings
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pydantic
from dagster_shared.check import CheckError

from pipeline_assets.core import names
from pipeline_assets.core.errors import ContractViolation, PipelineError, SourceChanged, TransientError, UserInputError
from pipeline_assets.core.interrupts import end_when_interrupted
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.project import Project, Span, days_between, longest_stretch, whole_days
from pipeline_assets.core.settings import Settings, home_folder, read_settings
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.use_case import Automatic, UseCase

RETRY_SECONDS = 5
COMPLETE = "complete"
CONTRACT = "contract"
OFFSETS = "offsets_complete"
# The numbers of one day, by name.
Facts = Mapping[str, int | float]
# Named when a source breaks its contract: what people look at.
DEPENDENTS = (names.FEATURES, names.FEATURE_STORE, names.TRAINING, names.REGISTRY)

# Backfills in one run and lenient partition mappings are marked beta. The graph needs both, and the lock file holds them still.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


class Platform(dg.ConfigurableResource["Platform"]):
    """The services that the settings name.

    `home` is the folder of the local stack; where it is empty, the one of this process (`PIPELINE_HOME`).
    """

    home: str = ""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Called before each step, in its process: has it end soon after the run is cancelled."""
        end_when_interrupted(last=partial(_note_cancelled, context.instance, context.run))

    @property
    def settings(self) -> Settings:
        """The settings as they stand now; raises SettingsMissing with all missing names."""
        return read_settings(Path(self.home) if self.home else home_folder())


def _note_cancelled(instance: dg.DagsterInstance | None, started: dg.DagsterRun | None) -> None:
    """Has a run that somebody cancels count as cancelled when its process is ended.

    As one that crashed it would be tried again, and keep its pools. One whose process others end, as a machine that stops, has crashed.
    """
    run = None if instance is None or started is None else instance.get_run_by_id(started.run_id)
    if instance is not None and run is not None and run.status is dg.DagsterRunStatus.CANCELING:
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        instance.report_run_canceled(run, "The run was cancelled. Its process heard nothing of it, and is ended.")


class ReadAt(dg.Config):
    """At which snapshots lake tables are read, by `<namespace>.<table>`; those that are not named at their newest.

    What a run read stands in its metadata as `snapshots_read`: given here, the same days come out as they did then. Snapshots are text, as
    pages round numbers of 19 digits.
    """

    snapshots: dict[str, str] = pydantic.Field(default={})

    @property
    def chosen(self) -> dict[str, int]:
        """The snapshots as numbers; raises UserInputError for one that is none."""
        for table, snapshot in self.snapshots.items():
            if not snapshot.isdecimal():
                raise UserInputError(f"snapshots: '{snapshot}' of table '{table}' is no snapshot id. Give its digits as text.")
        return {table: int(snapshot) for table, snapshot in self.snapshots.items()}


def snapshots_read(snapshots: Mapping[str, int]) -> dg.JsonMetadataValue:
    """What a run read, in the form that `ReadAt` takes."""
    return dg.MetadataValue.json({table: str(snapshot) for table, snapshot in snapshots.items()})


def days(span: Span) -> dg.DailyPartitionsDefinition:
    """The partitions of an asset: UTC days of event time."""
    end = span.last + timedelta(days=1) if span.last is not None else None
    return dg.DailyPartitionsDefinition(
        start_date=span.first.isoformat(), end_date=end.isoformat() if end is not None else None, timezone="UTC"
    )


def last_day(span: Span) -> date | None:
    """The last day that is a partition by now: a day is one when it has ended. None before the first has."""
    last = days(span).get_last_partition_key()
    return None if last is None else date.fromisoformat(last)


def made_at(instance: dg.DagsterInstance, asset: AssetName) -> dict[date, int]:
    """Of each day that an asset was materialized for, the number of the newest materialization; it grows with every new one."""
    found = instance.get_latest_storage_id_by_partition(key(asset), dg.DagsterEventType.ASSET_MATERIALIZATION)
    return {date.fromisoformat(day): number for day, number in found.items()}


def newest(instance: dg.DagsterInstance, assets: Sequence[AssetName]) -> dict[str, int | None]:
    """The number of the newest materialization of each asset, of any of its days: one query."""
    records = {record.asset_entry.asset_key: record.asset_entry for record in instance.get_asset_records(list(map(key, assets)))}
    return {"/".join(asset): records[key(asset)].last_materialization_storage_id if key(asset) in records else None for asset in assets}


def switched(use_case: UseCase, part: Automatic) -> dg.DefaultSensorStatus:
    """Whether a sensor is on as long as nobody has switched it by hand, as the use case declares it."""
    return dg.DefaultSensorStatus.RUNNING if part in use_case.automatic else dg.DefaultSensorStatus.STOPPED


@dataclass(frozen=True, kw_only=True)
class Able:
    """What a run of a job makes and checks; None stands for all of it."""

    assets: Sequence[dg.AssetKey] | None = None
    checks: Sequence[dg.AssetCheckKey] | None = None


def without_stopped(context: dg.SensorEvaluationContext, project: Project, job: str) -> Able:
    """What a run of a job makes without streams that cannot go on.

    Typed rows are left out if their newest check of contract or offsets failed as an error: it would end the run, and everything after it
    would have to wait. What comes after it goes on with the rows that it has; the sensor that types records tries it again.
    """
    checks = [dg.AssetCheckKey(key(table), check) for table in project.typed_tables for check in (CONTRACT, OFFSETS)]
    stopped = {check.asset_key for check in checks if _has_failed(context.instance, check)}
    if not stopped:
        return Able()
    repository = cast("dg.RepositoryDefinition", context.repository_def)
    left = repository.get_job(job).asset_layer.selected_asset_keys - stopped
    return Able(assets=sorted(left), checks=checks_of(repository, job, left))


def checks_of(repository: dg.RepositoryDefinition, job: str, assets: Collection[dg.AssetKey]) -> list[dg.AssetCheckKey]:
    """The checks of some assets that a job evaluates: a run that does not name them evaluates those that the job leaves to others, too."""
    return [check for check in repository.get_job(job).asset_layer.asset_graph.asset_check_keys if check.asset_key in assets]


def _has_failed(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> bool:
    """Whether a check failed as an error when it was evaluated last."""
    record = instance.get_latest_asset_check_evaluation_record(check)
    found = None if record is None else record.evaluation
    return isinstance(found, dg.AssetCheckEvaluation) and not found.passed and found.severity == dg.AssetCheckSeverity.ERROR


def cursor_of(context: dg.SensorEvaluationContext, *uses: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """What a sensor left in its cursor at its last tick; empty before the first.

    uses: what the sensor reads of it. Where one of them fails, or it is no JSON object, the cursor was damaged: the log says so, and the
    sensor starts again from what tables say.
    """
    try:
        found = dict[str, Any](json.loads(context.cursor or "{}").items())
        for use in uses:
            use(found)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        shown = f"{type(error).__name__}: {error}"
        context.log.warning("The cursor cannot be read (%s). The sensor starts again from what tables say.", shown)
        return {}
    return found


def last_recorded(cursor: Mapping[str, Any]) -> datetime | None:
    """When a sensor that records by the hour last did, as its cursor has it under `recorded_at`; None before the first time."""
    at = datetime.fromisoformat(cursor["recorded_at"]) if "recorded_at" in cursor else None
    if at is not None and at.tzinfo is None:
        raise ValueError("`recorded_at` has no time zone")
    return at


def run_key(seen: Mapping[str, object], *span: date) -> str:
    """A name for what a sensor has seen, and the days that it asks for: the same tick, repeated, requests the same run."""
    named = [dict(seen), *map(str, span)] if span else dict(seen)
    return sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]


def use_case_tags(use_case: UseCase) -> dict[str, str]:
    """The tags of an asset that belongs to a use case, by which jobs and people select it."""
    return {names.USE_CASE_TAG: use_case.name}


def asked_days(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """First and last day (inclusive) of the partitions that this run materializes."""
    window = context.partition_time_window
    return window.start.date(), (window.end - timedelta(days=1)).date()


def report_days(
    context: dg.AssetExecutionContext, by_day: Mapping[date, Facts], once: Mapping[str, Any], asset: dg.AssetKey | None = None
) -> None:
    """Gives the event of each day of a run the numbers of that day, and that of the newest day also what is true of the whole run.

    by_day: numbers of a day, rows as `PARTITION_ROWS`. once: schema, lineage, pictures, snapshots, and under `run` the sums of the run. The
    page of an asset shows its newest event; on the event of every day the same would be most of the event log. `asset` is named where
    the run makes several.
    """
    first, last = asked_days(context)
    for day in days_between(first, last):
        shown = {**(once if day == last else {}), **by_day.get(day, {})}
        if shown:
            context.add_asset_metadata(shown, asset, str(day))


def rows_by_day(first: date, last: date, rows: Mapping[date | None, int]) -> dict[date, Facts]:
    """The rows of each day from the first to the last (UTC, inclusive) as its event shows them; none of days that `rows` lacks."""
    return {day: {names.PARTITION_ROWS: rows.get(day, 0)} for day in days_between(first, last)}


def of_run(sums: Mapping[str, int | float | str]) -> dict[str, Any]:
    """What a run over days did as a whole: in one entry, so that no plot over days takes it for a number of its newest day."""
    return {names.OF_RUN: dg.MetadataValue.json(dict(sums))}


def days_around(before: timedelta = timedelta(0), after: timedelta = timedelta(0)) -> dg.TimeWindowPartitionMapping:
    """A day depends on the days of the upstream from `before` earlier to `after` later (each rounded up to whole days)."""
    return dg.TimeWindowPartitionMapping(
        start_offset=-whole_days(before), end_offset=whole_days(after), allow_nonexistent_upstream_partitions=True
    )


@contextmanager
def dagster_errors() -> Iterator[None]:
    """The one place where the product's errors become Dagster's: a TransientError is retried, any other PipelineError is not."""
    try:
        yield
    except TransientError as error:
        raise dg.RetryRequested(max_retries=3, seconds_to_wait=RETRY_SECONDS) from error
    except PipelineError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


@contextmanager
def naming_dependents(context: dg.AssetExecutionContext) -> Iterator[None]:
    """A source that changed stops with the names of the features and models that depend on it."""
    try:
        yield
    except SourceChanged as error:
        raise SourceChanged(error.source, error.problems, _dependents(context)) from error


def _dependents(context: dg.AssetExecutionContext) -> list[str]:
    """Features and models below the asset of this run; none where the run knows of no code location, as in a test."""
    below = dg.AssetSelection.assets(context.asset_key).downstream() & dg.AssetSelection.groups(*DEPENDENTS)
    with suppress(CheckError):
        return sorted(found.to_user_string() for found in below.resolve(context.repository_def.asset_graph))
    return []


def source_changed(asset_key: dg.AssetKey, check_name: str, error: SourceChanged) -> dg.AssetCheckResult:
    """The failed check of a source that changed: its fields with what was expected and found, and its dependents."""
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=check_name,
        passed=False,
        severity=dg.AssetCheckSeverity.ERROR,
        description=str(error),
        metadata={"fields": dict(error.problems), "dependents": list(error.dependents)},
    )


def complete(contract: Contract, empty: Sequence[str]) -> dg.AssetCheckResult:
    """The check that there are rows; `empty` are the partitions without any, in order.

    A source may pause: it fails where days without rows follow each other for as long as the contract promises that its newest row is
    never old, or where a source that has no days has no rows.
    """
    is_whole = any(not one[:1].isdigit() for one in empty)
    pause = timedelta(days=0 if is_whole else longest_stretch([date.fromisoformat(one) for one in empty]))
    passed = not empty or (not is_whole and pause < contract.freshness)
    found = "There are no rows" if is_whole else f"{len(empty)} days without rows, at most {pause.days} in a row"
    return dg.AssetCheckResult(
        check_name=COMPLETE,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{found}; the newest row may be {contract.freshness} old." if empty else "No partition is without rows.",
        metadata={"partitions_without_rows": list(empty)},
    )


def contract_check(asset_key: dg.AssetKey, contract: Contract, rows: int, broken: Mapping[str, int]) -> dg.AssetCheckResult:
    """The check that rows keep their contract, passed while no more are broken than it lets pass: nothing has to be done then.

    `rows` kept it, `broken` counts those that did not by their fault. A stream that has too few records to be judged yet, and more broken
    ones than may be, is a warning.
    """
    lost = sum(broken.values())
    limit = f"limit {contract.broken_share * 100:g} %; see `pipeline quarantine list --source {contract.name}`"
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=CONTRACT,
        passed=lost <= contract.broken_share * (rows + lost),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{lost:,} of {rows + lost:,} rows in quarantine, {limit}." if lost else f"{rows:,} rows, none in quarantine.",
        metadata={"rows": rows, "rows_broken": lost, "broken_by_reason": dict(broken)},
    )


def contract_refused(asset_key: dg.AssetKey, error: ContractViolation) -> dg.AssetCheckResult:
    """The failed check of a partition, or of records, of which more are broken than the contract lets pass."""
    return dg.AssetCheckResult(
        asset_key=asset_key,
        check_name=CONTRACT,
        passed=False,
        severity=dg.AssetCheckSeverity.ERROR,
        description=str(error),
        metadata={"partition": error.partition, "rows": error.rows, "rows_broken": error.broken, "broken_by_reason": error.reasons},
    )


def pictures(images: Mapping[str, bytes]) -> dg.MarkdownMetadataValue:
    """PNG images by name, as metadata that the UI shows in place."""
    return dg.MetadataValue.md(
        "\n\n".join(f"![{name}](data:image/png;base64,{b64encode(image).decode()})" for name, image in images.items())
    )


def column_schema(contract: Contract) -> dg.TableSchema:
    """The columns of a contract as the UI shows them."""
    return dg.TableSchema(columns=[_column(contract, field) for field in contract.fields])


def column_lineage(columns: Mapping[str, Iterable[tuple[AssetName, str]]]) -> dg.TableColumnLineage:
    """The columns of a table, each with the columns of other tables that it depends on, as Dagster shows them."""
    return dg.TableColumnLineage({name: [dg.TableColumnDep(key(table), its) for table, its in found] for name, found in columns.items()})


def _column(contract: Contract, field: Field) -> dg.TableColumn:
    is_key = contract.primary_key == (field.name,)
    tags = {"owner": contract.owner} | ({"primary_key": ""} if field.name in contract.primary_key else {})
    constraints = dg.TableColumnConstraints(nullable=not field.required, unique=is_key)
    kind = f"decimal({field.precision}, {field.scale})" if field.type == "decimal" else field.type
    return dg.TableColumn(field.name, kind, field.description, constraints, tags)


def key(name: Sequence[str]) -> dg.AssetKey:
    """The asset key of a name made in `core.names`."""
    return dg.AssetKey(list(name))
