"""How fast rows of files are read and held against a contract, beside Arrow's own readers, which check nothing, in the same run.

    python -m benchmarks.files

A million rows of eight columns as CSV, JSON lines and Parquet in a folder on disk, the first two compressed too. Both sides take turns,
each round in a process of its own which reports its peak memory, imports not timed; then ours once more on three million rows, to see
whether memory grows with the file. Ours finds the files, takes their digests, reads them in blocks and checks every row; it writes nothing.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.ingest import source
from pipeline_assets.core.setting_values import FileFolder
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.batch.files import open_folder
from pipeline_assets.spec.sources import CsvFile, FileFormat, Files, JsonLines, ParquetFile

ROUNDS, ROWS, MORE_ROWS = 3, 1_000_000, 3_000_000
FORMATS: dict[str, FileFormat] = {
    "csv": CsvFile(),
    "csv.gz": CsvFile(),
    "jsonl": JsonLines(),
    "jsonl.zst": JsonLines(),
    "parquet": ParquetFile(),
}
WANTED = {"parquet": 1_000_000}


def write(folder: Path, kind: str, rows: int) -> None:
    """A file of so many rows, long unchanged."""
    import polars as pl
    from pyarrow import CompressedOutputStream, OSFile

    number = pl.int_range(rows, eager=True)
    at = pl.lit("2013-01-01T00:00:00").str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="us", time_zone="UTC") + pl.duration(
        seconds=pl.col("n")
    )
    columns = pl.DataFrame({"n": number}).select(
        flight_id=pl.format("flight-{}", "n"),
        origin=pl.lit("EWR"),
        carrier=pl.lit("UA"),
        flight_number=pl.col("n") % 9999 + 1,
        delay_minutes=(pl.col("n") % 1009) / 7,
        is_cancelled=pl.col("n") % 7 == 0,
        event_at=at,
        recorded_at=at + pl.duration(minutes=5),
    )
    path = folder / f"rows.{kind}"
    texts = columns.with_columns(pl.col("event_at", "recorded_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    if kind == "parquet":
        columns.write_parquet(path)
    else:
        codec = {"gz": "gzip", "zst": "zstd"}.get(kind.rpartition(".")[2])
        plain = (texts.write_csv() if kind.startswith("csv") else texts.write_ndjson()).encode()
        with OSFile(str(path), "wb") as sink, CompressedOutputStream(sink, codec) if codec else sink as packed:
            packed.write(plain)
    os.utime(path, (1_400_000_000, 1_400_000_000))


def ours(folder: Path, kind: str) -> int:
    """How many rows kept the contract."""
    settings = Settings.model_construct(home=folder, folders={"in": FileFolder(url=folder.as_uri())})
    with open_folder(settings, source("flights").contract, Files(folder="in", pattern=f"rows.{kind}", format=FORMATS[kind])) as read:
        return sum(part.good.num_rows for part in read(None))


def theirs(folder: Path, kind: str) -> int:
    """How many rows Arrow reads, all at once."""
    from pyarrow import csv, input_stream, json, parquet

    path = str(folder / f"rows.{kind}")
    if kind == "parquet":
        return int(parquet.read_table(path).num_rows)
    with input_stream(path) as stream:
        return int((csv.read_csv(stream) if kind.startswith("csv") else json.read_json(stream)).num_rows)


def run(side: str, folder: str, kind: str) -> None:
    """Prints seconds, peak memory in megabytes and rows of one side."""
    read = {"ours": ours, "theirs": theirs}[side]
    with TemporaryDirectory() as small:
        write(Path(small), kind, 1_000)
        read(Path(small), kind)
    began = time.perf_counter()
    rows = read(Path(folder), kind)
    print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, rows)


def started(*arguments: str) -> str:
    """What a process of its own prints; this one stays small, as a child's peak memory begins with that of its parent."""
    command = [sys.executable, "-m", "benchmarks.files", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def measured(side: str, folder: str, kind: str) -> list[float]:
    """What `run` prints."""
    return [float(number) for number in started(side, folder, kind).split()]


def main() -> None:
    """Prints rows a second and peak memory of both sides by format, the best of some rounds."""
    for kind in FORMATS:
        with TemporaryDirectory() as folder, TemporaryDirectory() as larger:
            started("write", folder, kind, str(ROWS))
            started("write", larger, kind, str(MORE_ROWS))
            rounds = [(measured("ours", folder, kind), measured("theirs", folder, kind)) for _ in range(ROUNDS)]
            more = measured("ours", larger, kind)[1]
        seconds, peak, rows = min(own for own, _ in rounds)
        peer = min(other for _, other in rounds)
        wanted = WANTED.get(kind, 300_000)
        print(f"  {kind}: {rows / seconds:,.0f} rows/s (at least {wanted:,}), {peak:.0f} MB, {more:.0f} MB for {MORE_ROWS:,} rows")
        print(f"    Arrow, without a contract: {peer[2] / peer[0]:,.0f} rows/s, {peer[1]:.0f} MB; ours {seconds / peer[0]:.1f} x as long")


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["write", folder, kind, rows]:
            write(Path(folder), kind, int(rows))
        case [side, folder, kind]:
            run(side, folder, kind)
