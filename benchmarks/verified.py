"""What it costs to hold each object of the lake against its seal, and whether any wrong bit gets through.

    python -m benchmarks.verified

In a stack of its own. First the same tables are read with and without seals being looked at, in turn: a year of small files of seventy
columns, as vectors are, and a few large files, with all columns and with one. Then random bits are flipped, one at a time, in each kind of
object, and the object is read as the platform reads it: how often it is refused by its name, has no effect, or gives other values (none
wanted).
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_assets.core import connections, held_metadata, names
from pipeline_assets.core.connections import object_store
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import ArtifactCorrupt, PackageCorrupt
from pipeline_assets.core.held_metadata import HeldMetadata
from pipeline_assets.core.iceberg import Identifier
from pipeline_assets.core.settings import Settings, StackSettings
from pipeline_assets.core.wait_errors import DatabaseDamaged
from pipeline_assets.ingestion.sources import quarantine
from pipeline_assets.ingestion.sources.contracts import BrokenRow
from pipeline_assets.ingestion.staging import partitions as staging
from pipeline_assets.local_stack import stack
from pipeline_assets.local_stack.plan import POSTGRES, S3
from pipeline_assets.model_lifecycle.training import archive
from pipeline_assets.processing.lake import files, scans, tables
from pipeline_assets.processing.lake.recent import Recent
from pipeline_assets.serving.realtime.package import CONTRACT_FILE, MANIFEST, loaded, read_files, read_package, write_package
from pipeline_assets.serving.realtime.selftest import Golden, matrix
from pipeline_assets_tests.flipped_bits import flipped
from pipeline_assets_tests.flipped_pages import pages
from pipeline_assets_tests.january import MODEL
from pipeline_assets_tests.lake_rows import day, stage, trip_rows, trips
from pipeline_assets_tests.served_models import MODEL as SERVED
from pipeline_assets_tests.served_models import files as files_of_package

ROUNDS, FLIPS, WANTED = 11, 1_000, 1.15
FIRST = date(2013, 1, 1)
SMALL, LARGE = names.vectors("small"), names.vectors("large")
TRAINING_SET = "training_sets/flipped.parquet"
PLAIN = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}


def rows(days: int, per_day: int, columns: int) -> pa.Table:
    """Rows of so many days: a key, a time, and numbers that repeat as counts do, or do not as means."""
    random, count = np.random.default_rng(4711), days * per_day
    start = datetime.combine(FIRST, datetime.min.time(), UTC)
    step = timedelta(days=1) / per_day
    times = [start + timedelta(days=number // per_day) + number % per_day * step for number in range(count)]
    numbers = {f"count_{n}": random.poisson(30, count) for n in range(columns // 2)}
    means = {f"mean_{n}": random.normal(size=count) for n in range(columns - columns // 2)}
    return pa.table(
        {"key": [f"k{n % 997}" for n in range(count)], "decision_at": pa.array(times, pa.timestamp("us", "UTC")), **numbers, **means}
    )


def write(settings: Settings, identifier: Identifier, days: int, data: pa.Table) -> None:
    """The rows as a derived table."""
    tables.replace_days(settings, identifier, data, "decision_at", FIRST, FIRST + timedelta(days=days - 1))


def seconds(settings: Settings, identifier: Identifier, columns: list[str] | None, *, is_verified: bool) -> tuple[float, float]:
    """Seconds on the clock and of the processor to read a table."""
    with connections.catalog(settings) as catalog, patch.dict(catalog.properties, {} if is_verified else PLAIN):
        began, used = time.perf_counter(), time.process_time()
        scans.reader(catalog.load_table(identifier), None, columns).read_all()
        return time.perf_counter() - began, time.process_time() - used


def measure(settings: Settings) -> None:
    """Prints what seals cost."""
    write(settings, SMALL, 365, rows(365, 900, 70))
    write(settings, LARGE, 4, rows(4, 500_000, 9))
    for what, identifier, columns in (
        ("365 files of 900 rows, all 72 columns", SMALL, None),
        ("4 files of 500,000 rows, all 11 columns", LARGE, None),
        ("the same, one column", LARGE, ["mean_0"]),
    ):
        with connections.catalog(settings) as catalog:
            size = sum(file.file_size_in_bytes for file in files.live_files(catalog.load_table(identifier)))
        found = {True: list[tuple[float, float]](), False: list[tuple[float, float]]()}
        for _ in range(1 + ROUNDS):
            for is_verified, own in found.items():
                own.append(seconds(settings, identifier, columns, is_verified=is_verified))
        # The first of each side is to load what it needs.
        ours, plain = (np.median(own[1:], axis=0) for own in found.values())
        print(
            f"  {what} ({size / 1e6:.0f} MB): {ours[0]:.2f} s verified, {plain[0]:.2f} s not; {ours[0] / plain[0]:.2f} × on the clock, "
            f"{ours[1] / plain[1]:.2f} × of the processor ({WANTED} × wanted)"
        )


@dataclass(frozen=True)
class Kind:
    """An object, and how the platform reads it."""

    what: str
    key: str
    read: Callable[[], object]


def kinds(settings: Settings) -> list[Kind]:
    """One object of each kind."""
    contract, set_of = trips("flipped"), names.vectors("flipped")
    write(settings, set_of, 1, rows(1, 900, 70))
    staged = stage(settings, contract, day(0), trip_rows(day(0), count=500))
    record = archive.TrainingSet(
        model=MODEL.name, as_of=datetime(2013, 2, 1, tzinfo=UTC), path="", sha256="0", size_bytes=1, rows=1, blocks=(), snapshots={"x": 1}
    )
    archive.publish(settings, MODEL, record)
    content = pa.BufferOutputStream()
    pq.write_table(rows(1, 900, 70), content, compression="zstd")
    digest = sha256(content.getvalue()).hexdigest()
    object_store(settings).put_object(Bucket=settings.s3_bucket, Key=TRAINING_SET, Body=content.getvalue().to_pybytes())
    (described,) = object_store(settings).list_objects_v2(Bucket=settings.s3_bucket, Prefix=f"{'/'.join(names.training_set(MODEL.name))}/")[
        "Contents"
    ]
    with connections.catalog(settings) as catalog:
        table = catalog.load_table(set_of)
        snapshot = table.metadata.snapshots[-1]
        named = {
            "vectors (Parquet)": files.live_files(table)[0].file_path,
            "manifest": snapshot.manifests(table.io)[0].manifest_path,
            "manifest list": snapshot.manifest_list,
            "metadata of a table": table.metadata_location,
        }
    root = f"s3://{settings.s3_bucket}/"

    def read_set() -> pa.Table:
        return archive.read_path(settings, f"{root}{TRAINING_SET}", digest)

    def read_staged() -> list[pa.RecordBatch]:
        return list(staging.read_staged(object_store(settings), settings.s3_bucket, staged))

    return [
        *(Kind(what, path.removeprefix(root), lambda: tables.read_all(settings, set_of).read_all()) for what, path in named.items()),
        Kind("staged rows (Parquet)", staged.files[0].path.removeprefix(root), read_staged),
        Kind(
            "manifest of a staged day",
            f"{staging.folder(contract.name, str(day(0)))}/{staging.MANIFEST}",
            lambda: staging.read_manifest(settings, contract.name, str(day(0))),
        ),
        *served(settings),
        Kind("training set", TRAINING_SET, read_set),
        Kind("record of a training set", described["Key"], lambda: archive.named(settings, MODEL, record.name)),
    ]


def served(settings: Settings) -> list[Kind]:
    """The files of a package, each read as the prediction service does: contract, golden rows, and the scores that these get."""
    written = files_of_package(SERVED, 1)
    package = write_package(settings, SERVED.name, 1, written)
    digest, folder = sha256(written[CONTRACT_FILE]).hexdigest(), package.uri.removeprefix(f"s3://{settings.s3_bucket}/")

    def read() -> tuple[str, object, Golden] | None:
        found = read_package(settings, SERVED.name, 1)
        if found is None:
            return None
        contract, scorer, known = loaded(found, read_files(settings, found), digest)
        return contract.digest, scorer.score_values(matrix(contract.features, known)).tolist(), known

    return [Kind(f"{name} of a package", f"{folder}/{name}", read) for name in (*written, MANIFEST)]


def flip_bits(settings: Settings, kind: Kind) -> Counter[str]:
    """How many flipped bits were refused with the name of the object, had no effect, and gave other values."""
    client, found = object_store(settings), Counter[str]()
    content, expected = client.get_object(Bucket=settings.s3_bucket, Key=kind.key)["Body"].read(), kind.read()
    for bit in np.random.default_rng(4711).integers(len(content) * 8, size=FLIPS):
        client.put_object(Bucket=settings.s3_bucket, Key=kind.key, Body=flipped(content, int(bit)))
        try:
            found["no effect" if kind.read() == expected else "other values"] += 1
        except (ObjectDamaged, ArtifactCorrupt, PackageCorrupt) as error:
            found["refused by name" if kind.key.rpartition("/")[2] in str(error) else "refused"] += 1
    client.put_object(Bucket=settings.s3_bucket, Key=kind.key, Body=content)
    return found


def flip_pages(settings: Settings, home: Path) -> Counter[str]:
    """The same for the quarantine, whose rows are in PostgreSQL: bits of the pages of its table, once these are in memory no more."""
    random, found = np.random.default_rng(4711), Counter[str]()
    broken = [BrokenRow(position=n, field="level", reason="wrong type", original=random.bytes(500)) for n in range(1_000)]
    quarantine.replace(settings, "flipped", "2013-01-01", broken, run_id="staged")
    with pages(settings, home, "quarantine.rows") as own:
        expected = quarantine.listed(settings)
        for bit in random.integers(own.path.stat().st_size * 8, size=FLIPS):
            with own.flipped(int(bit)):
                try:
                    found["no effect" if quarantine.listed(settings) == expected else "other values"] += 1
                except DatabaseDamaged:
                    found["refused by name"] += 1
    return found


def main() -> None:
    """Starts a stack, measures, and stops it."""
    with TemporaryDirectory() as name, patch.object(scans, "RECENT", Recent(0)), patch.object(held_metadata, "HELD", HeldMetadata(0)):
        home = Path(name) / "stack"
        try:
            settings = stack.up(home, only=(POSTGRES, S3), with_history=False, stack=StackSettings(ports=stack.free_ports(), given={}))
            print("Reads, verified beside unverified:")
            measure(settings)
            print(f"{FLIPS:,} random bits, one at a time, in each kind of object:")
            is_wrong = False
            flips = {kind.what: partial(flip_bits, settings, kind) for kind in kinds(settings)}
            for what, flip in {**flips, "quarantine (pages of PostgreSQL)": partial(flip_pages, settings, home)}.items():
                found = flip()
                is_wrong |= bool(found["other values"])
                print(f"  {what}: {', '.join(f'{count:,} {outcome}' for outcome, count in found.items() if count)}", flush=True)
        finally:
            stack.down(home, purge=True)
    if is_wrong:
        sys.exit("A flipped bit gave other values.")


if __name__ == "__main__":
    main()
