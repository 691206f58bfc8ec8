"""Outside tables and APIs to staged partitions: which days, seen how, and what is taken up from a load that was killed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import date

from pipeline_assets.core import names
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.core.project import days_between
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch import resume
from pipeline_assets.ingestion.batch.files import open_folder
from pipeline_assets.ingestion.batch.incremental import stage_written
from pipeline_assets.ingestion.batch.new_files import stage_new_files
from pipeline_assets.ingestion.batch.new_records import stage_new_records
from pipeline_assets.ingestion.batch.postgres import TableReader, open_table
from pipeline_assets.ingestion.batch.rest import Patience, open_endpoint
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.staging.stage import OpenReader, Staged, Target, stage_each, target_of
from pipeline_assets.spec.sources import Files, PostgresTable, RestEndpoint, Source

# Called with each partition once it is staged.
OnStaged = Callable[[Staged], None]


def _ignore(_: Staged) -> None:
    """Does nothing about a staged partition."""


def stage_days(
    settings: Settings,
    source: Source,
    first: date,
    last: date,
    *,
    run_id: str,
    on_staged: OnStaged = _ignore,
    patience: Patience | None = None,
) -> list[Staged]:
    """Stages the UTC days first..last (inclusive) of a source and gives them back by day; `on_staged` is called with each as it is done.

    A table is seen at one instant for all days. Files are read day by day. An API is asked day by day, and days that a killed load of the
    same range had staged are not asked for again. A day with too many broken rows raises ContractViolation and stays as it was; days that
    were done stay done.
    """
    days = days_between(first, last)
    match source.origin:
        case PostgresTable():
            done = _stage_table(settings, source, source.origin, days, run_id)
        case RestEndpoint():
            done = _stage_api(settings, source, source.origin, days, run_id, patience)
        case Files():
            done = _stage_files(settings, source, source.origin, days, run_id)
    staged: list[Staged] = []
    for one in done:
        on_staged(one)
        staged.append(one)
    return sorted(staged, key=lambda one: one.manifest.partition)


def stage_snapshot(settings: Settings, source: Source, *, run_id: str, patience: Patience | None = None) -> Staged:
    """Stages all rows that a source holds now, as its one partition."""
    target = target_of(settings, source.contract, run_id=run_id, keeps_earlier=True)
    with _open(settings, source, patience) as open_reader:
        (staged,) = stage_each(settings, target, [None], open_reader)
    return staged


def stage_new_rows(
    settings: Settings,
    source: Source,
    *,
    run_id: str,
    find_deletes: bool = False,
    from_the_start: bool = False,
    patience: Patience | None = None,
) -> Staged:
    """Stages what came to a source since it was last read, beside what was staged of it; `from_the_start` reads all there is again.

    With `find_deletes` also what is gone from a table or an API; raises SourceRefused where that is asked of files, which are added to.
    """
    match source.origin:
        case PostgresTable():
            return stage_written(settings, source, run_id=run_id, find_deletes=find_deletes, from_the_start=from_the_start)
        case RestEndpoint():
            asked = {"find_deletes": find_deletes, "from_the_start": from_the_start}
            return stage_new_records(settings, source, run_id=run_id, patience=patience, **asked)
        case Files():
            if find_deletes:
                raise SourceRefused(source.contract.name, "files that are read once say nothing of deletions; run it without find_deletes")
            return stage_new_files(settings, source, run_id=run_id, from_the_start=from_the_start)


@contextmanager
def _open(settings: Settings, source: Source, patience: Patience | None) -> Iterator[OpenReader]:
    match source.origin:
        case PostgresTable():
            with open_table(settings, source.contract, source.origin) as table:
                yield table.reader
        case RestEndpoint():
            with open_endpoint(settings, source.contract, source.origin, patience) as reader:
                yield lambda: nullcontext(reader)
        case Files():
            with open_folder(settings, source.contract, source.origin) as files:
                yield lambda: nullcontext(files)


def _stage_table(settings: Settings, source: Source, origin: PostgresTable, days: Sequence[date], run_id: str) -> Iterator[Staged]:
    target = target_of(settings, source.contract, run_id=run_id, keeps_earlier=True)
    with open_table(settings, source.contract, origin) as table:
        yield from stage_each(settings, target, days, table.reader)
        with table.reader() as reader:
            _quarantine_lost(settings, target, reader)


def _stage_files(settings: Settings, source: Source, origin: Files, days: Sequence[date], run_id: str) -> Iterator[Staged]:
    target = target_of(settings, source.contract, run_id=run_id, keeps_earlier=True)
    with open_folder(settings, source.contract, origin) as reader:
        yield from stage_each(settings, target, days, lambda: nullcontext(reader))


def _quarantine_lost(settings: Settings, target: Target, reader: TableReader) -> None:
    """Rows with neither time belong to no day: they stand in a quarantine of their own, so that nothing is lost without a word."""
    lost = [row for part in reader.lost() for row in part.broken]
    quarantine.replace(settings, target.contract.name, names.UNDATED, lost, run_id=target.run_id)


def _stage_api(
    settings: Settings, source: Source, origin: RestEndpoint, days: Sequence[date], run_id: str, patience: Patience | None
) -> Iterator[Staged]:
    client, contract = object_store(settings), source.contract
    with resume.load_of(client, settings.s3_bucket, contract, days[0], days[-1]) as load:
        found = {day: resume.done(client, settings.s3_bucket, contract, day, load) for day in days}
        for manifest in found.values():
            if manifest is not None:
                yield Staged(manifest=manifest, seconds=0.0, is_taken_up=True)
        target = target_of(settings, contract, run_id=run_id, load_id=load.load_id, keeps_earlier=True)
        with open_endpoint(settings, contract, origin, patience) as reader:
            yield from stage_each(settings, target, [day for day in days if found[day] is None], lambda: nullcontext(reader))
