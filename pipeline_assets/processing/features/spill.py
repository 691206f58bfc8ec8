"""Rows put aside on disk by buckets of their keys, so that more of them than memory holds go through the kernel bucket by bucket."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import pyarrow as pa

from pipeline_assets.processing.features.keys import bucket_of

COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, kw_only=True)
class Spilled:
    """Rows on disk, a file a bucket; `rows` says how many there are in all."""

    files: Sequence[IO[bytes]]
    rows: int

    def of(self, bucket: int) -> pa.Table:
        """The rows of a bucket, in the order in which they came."""
        self.files[bucket].seek(0)
        with pa.ipc.open_stream(self.files[bucket]) as found:
            return found.read_all()


@contextmanager
def spilled(rows: pa.RecordBatchReader, name: str, keys: Sequence[str], buckets: int) -> Iterator[Spilled]:
    """Puts rows aside by `bucket_of` their keys, reading them once, a batch at a time.

    The files have no name (they are in `TMPDIR`), so they are gone however this process ends. Raises TableMismatch where a key column of
    the table `name` is missing or is neither text nor whole numbers.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile()) for _ in range(buckets)]
        writers = [pa.ipc.new_stream(file, rows.schema, options=COMPRESSED) for file in files]
        count = 0
        for batch in rows:
            bucket = bucket_of(pa.Table.from_batches([batch]), name, keys, buckets)
            order = np.argsort(bucket, kind="stable")
            ends, own = np.searchsorted(bucket[order], np.arange(buckets + 1)), batch.take(pa.array(order))
            for number in np.unique(bucket).tolist():
                writers[number].write_batch(own.slice(ends[number], ends[number + 1] - ends[number]))
            count += batch.num_rows
        for writer in writers:
            writer.close()
        yield Spilled(files=files, rows=count)
