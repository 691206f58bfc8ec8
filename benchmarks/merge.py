"""How long the changes of a large followed table take to its staged versions, and how much memory: beside a merge of the whole log.

    python benchmarks/merge.py

The log of a table of ten million rows and six columns is written to the lake of a stack of its own, as typing leaves it after a first
snapshot, and merged as a whole. Then ten thousand changes come, seven in ten updates, one in ten deletions, and some rows with another
key: their merge is measured, once as they are and once without a deletion, which leaves all staged files as they were. Beside it a log of a
tenth of that is merged at once in memory, as before there were increments. Every merge is a process of its own which reports its
peak memory, imports not timed. Exit code 1 where rows are missing or left over.
"""

import os
import resource
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_assets.core import names
from pipeline_assets.core.connections import catalog, warehouse
from pipeline_assets.core.settings import PREFIX, Settings, StackSettings, load_settings
from pipeline_assets.core.versions import versioned
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.staging.stage import stage_partition, target_of
from pipeline_assets.ingestion.streaming.audit.audit import read_log
from pipeline_assets.ingestion.streaming.landing.offsets import Seen
from pipeline_assets.ingestion.streaming.staged.change_log import log_contract
from pipeline_assets.ingestion.streaming.staged.checks import checked
from pipeline_assets.ingestion.streaming.staged.facts import Facts
from pipeline_assets.ingestion.streaming.staged.history import versions
from pipeline_assets.ingestion.streaming.staged.position import Survey
from pipeline_assets.ingestion.streaming.staged.state import stage_state
from pipeline_assets.ingestion.streaming.typed.table import Position, append_events, typed_schema, typed_table
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.plan import POSTGRES, S3
from pipeline_assets.processing.lake.tables import publish_snapshot
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.sources import PostgresTable, Source

ROWS, FEWER_ROWS, CHANGES, CHUNK_ROWS = 10_000_000, 1_000_000, 10_000, 262_144
UPDATED, DELETED, MOVED = 0.7, 0.1, 0.02
FIRST = datetime(2013, 1, 1, tzinfo=UTC)
WANTED_GIB = 1.0
LOADED_WHEN_USED = ("boto3", "psycopg", "pyiceberg.catalog.sql", "pyiceberg.io.pyarrow")


def source(table: str) -> Source:
    """The generated table, with a contract that looks at every column."""
    fields = (
        Field(name="id", type="integer", required=True, minimum=0, description="Identifier."),
        Field(name="name", type="string", required=True, max_length=40, description="Name."),
        Field(name="amount", type="number", minimum=0, description="Amount."),
        Field(name="quantity", type="integer", minimum=0, maximum=1_000, description="Quantity."),
        Field(name="is_active", type="boolean", required=True, description="Whether it counts."),
        Field(name="updated_at", type="timestamp", required=True, description="When it was changed."),
    )
    contract = Contract(
        name=table,
        version="1.0.0",
        owner="bench@example.com",
        description="Generated rows.",
        fields=fields,
        primary_key=("id",),
        event_at="updated_at",
        known_at="updated_at",
        lateness=timedelta(0),
        freshness=timedelta(days=1),
        broken_share=0.0,
    )
    return Source(contract=contract, origin=PostgresTable(database="airline_ops", table=table), load="changes")


def records(table: str, operations: np.ndarray, keys: np.ndarray, lsns: np.ndarray, first_offset: int) -> pa.Table:
    """Records of a log: the operation, the key and the LSN of each, the other values made of these."""
    count, is_end = len(keys), operations == "d"
    offsets = np.arange(first_offset, first_offset + count)
    at = pl.Series(offsets) // 1_000 * 1_000_000 + int(FIRST.timestamp()) * 1_000_000
    times, shown = at.cast(pl.Datetime("us", "UTC")), pl.Series(~is_end)
    values: dict[str, pl.Series] = {
        "id": pl.Series(keys),
        "name": pl.Series(keys).cast(pl.String).str.pad_start(12, "0"),
        "amount": pl.Series((keys * 7_919 + offsets) % 100_003 / 100),
        "quantity": pl.Series((keys + offsets) % 997),
        "is_active": pl.Series(keys % 3 > 0),
        "updated_at": times,
    }
    frame = pl.DataFrame(values).with_columns(pl.when(shown).then(pl.col(name)) for name in values if name != "id")
    placed: dict[str, Any] = {
        "_topic": pl.lit(f"airline_ops.public.{table}"),
        "_partition": pl.lit(0),
        "_offset": pl.Series(offsets),
        "_received_at": times,
    }
    meta: dict[str, Any] = {
        "_op": pl.Series(operations),
        "_lsn": pl.Series(lsns),
        "_committed_at": times,
        "_txid": pl.lit(1),
        "_snapshot": pl.lit("true"),
    }
    schema = typed_schema(log_contract(source(table).contract))
    nothing = pl.lit(None, pl.String)
    return frame.with_columns(**meta, _absent=nothing, _broken=nothing, **placed).select(schema.names).to_arrow().cast(schema)


def snapshot(settings: Settings, table: str, rows: int) -> None:
    """Writes the log of a table of so many rows, as a snapshot leaves it, with one change after it."""
    for start in range(0, rows, CHUNK_ROWS):
        keys = np.arange(start, min(start + CHUNK_ROWS, rows))
        append(settings, table, records(table, np.full(len(keys), "r"), keys, np.full(len(keys), 1_000), start))
    append(settings, table, records(table, np.array(["u"]), np.array([0]), np.array([1_001]), rows))


def change(settings: Settings, table: str, rows: int, first_offset: int, *, is_deleting: bool) -> int:
    """Appends changes of a table to its log, and gives how many versions they add."""
    random = np.random.default_rng(first_offset)
    ended = np.array([round(CHANGES * share) for share in (UPDATED, DELETED, MOVED)]) * (1, is_deleting, is_deleting)
    keys = random.choice(rows - 1, ended.sum(), replace=False) + 1
    updated, deleted, moved = np.split(keys, np.cumsum(ended)[:2])
    inserted = first_offset + rows + np.arange(CHANGES - len(keys) - len(moved))
    new = first_offset + 2 * rows + np.arange(len(moved))
    parts = [("u", updated), ("d", deleted), ("c", inserted), ("d", moved), ("c", new)]
    lsns = 2_000 + first_offset + np.arange(CHANGES)
    lsns[CHANGES - len(moved) :] = lsns[CHANGES - 2 * len(moved) : CHANGES - len(moved)]
    operations, of_keys = (
        np.repeat([part[0] for part in parts], [len(part[1]) for part in parts]),
        np.concatenate([part[1] for part in parts]),
    )
    append(settings, table, records(table, operations, of_keys, lsns, first_offset))
    return len(updated) + len(inserted) + len(new)


def append(settings: Settings, table: str, rows: pa.Table) -> None:
    """Appends records to the typed log of a table."""
    with catalog(settings) as lake:
        append_events(typed_table(lake, log_contract(source(table).contract)), rows, Position(seen=Seen()), run_id="bench")


def at_once(settings: Settings, table: str) -> int:
    """Merges a log in memory and stages all of it, and gives its rows."""
    asked = source(table)
    log = read_log(settings, asked)
    survey = Survey(key=asked.contract.primary_key)
    survey.add(pl.DataFrame(pl.from_arrow(log)))
    found = versions(log, asked, Facts(epochs=survey.epochs()))
    quarantine.create(settings)
    target = target_of(settings, asked.contract, run_id="bench")
    with closing(warehouse(settings)) as connection:
        return stage_partition(connection, target, names.SNAPSHOT, [checked(asked.contract, found)]).manifest.rows


def merge(table: str, how: str) -> None:
    """Merges a log, and prints seconds, those to publish it, peak memory in GiB, rows, files, keys, and 1 where all of it was merged."""
    settings = load_settings()
    for library in LOADED_WHEN_USED:
        import_module(library)
    began = time.perf_counter()
    if how == "at once":
        rows, seconds = at_once(settings, table), time.perf_counter() - began
        print(seconds, 0, peak_gib(), rows, 0, rows, 1)
        return
    done = stage_state(settings, source(table), run_id="bench")
    seconds, peak = time.perf_counter() - began, peak_gib()
    publish_snapshot(settings, versioned(source(table).contract))
    manifest = done.staged.manifest
    numbers = (manifest.rows, len(manifest.files), done.keys_merged, int(done.whole_because is not None))
    print(seconds, time.perf_counter() - began - seconds, peak, *numbers)


def peak_gib() -> float:
    """The most memory that the process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(home: Path, *arguments: str) -> list[float]:
    """What a process of its own prints."""
    environment: dict[str, Any] = os.environ | {f"{PREFIX}HOME": str(home)}
    done = subprocess.run([sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [float(number) for number in done.stdout.split()]


def report(what: str, found: list[float], rows: int, *, is_whole: bool) -> None:
    """Prints what a merge took, and ends the bench where it left other rows or was not of the kind that it should be."""
    seconds, publishing, peak, staged, files, keys, whole = found
    print(f"  {what}: {seconds:.1f} s, {publishing:.1f} s more to publish; {peak:.2f} GiB at most; {keys:,.0f} keys, {files:.0f} files")
    if (staged, bool(whole)) != (rows, is_whole):
        raise SystemExit(f"{staged:,.0f} rows are staged, expected {rows:,}; {'the whole log' if whole else 'an increment'} was merged.")


def measure(home: Path) -> None:
    """Prints seconds and peak memory of the merges."""
    measured(home, "fill", "things", str(ROWS))
    measured(home, "fill", "fewer", str(FEWER_ROWS))
    print(f"A followed table of {ROWS:,} rows and six columns, then {CHANGES:,} changes; wanted: seconds, and at most {WANTED_GIB:.0f} GiB")
    report("the whole log", measured(home, "merge", "things", ""), ROWS + 1, is_whole=True)
    rows, offset = ROWS + 1, ROWS + 1
    for how, what in (("", "updates and inserts"), ("deleting", "with deletions and other keys")):
        rows += int(measured(home, "change", "things", str(ROWS), str(offset), how)[0])
        offset += CHANGES
        report(what, measured(home, "merge", "things", ""), rows, is_whole=False)
    seconds, _, peak, staged, *_ = measured(home, "merge", "fewer", "at once")
    print(f"  at once in memory, {FEWER_ROWS:,} rows: {seconds:.1f} s, {peak:.2f} GiB at most")
    if staged != FEWER_ROWS + 1:
        raise SystemExit(f"{staged:,.0f} rows are staged, expected {FEWER_ROWS + 1:,}.")


def act(what: str, table: str, *rest: str) -> None:
    """One step of the bench, in a process of its own: the peak memory of a process is not less than that of the one that started it."""
    if what == "merge":
        merge(table, *rest)
    elif what == "fill":
        snapshot(load_settings(), table, int(rest[0]))
    else:
        print(change(load_settings(), table, int(rest[0]), int(rest[1]), is_deleting=bool(rest[2])))


def main() -> None:
    """Starts a stack, measures, and stops it; with arguments, one step."""
    if len(sys.argv) > 1:
        act(*sys.argv[1:])
        return
    with TemporaryDirectory() as name:
        home = Path(name) / "stack"
        try:
            stack.up(home, only=(POSTGRES, S3), with_history=False, stack=StackSettings(ports=stack.free_ports(), given={}))
            measure(home)
        finally:
            stack.down(home, purge=True)


if __name__ == "__main__":
    main()
