"""How long a view over more events than memory holds takes, and how much memory: an event is to cost the same among 1 and 100 million.

    python -m benchmarks.out_of_core [millions of events …]

Events of a million accounts over sixty days and a tenth as many questions, made batch by batch, are put aside on disk by buckets of their
keys and go through the kernel bucket by bucket. Each size is a process of its own, which reports its peak memory, imports and the
making of events not timed. Of a million the answers are held against those of all events at once, bit for bit.
"""

import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context

import numpy as np
import pyarrow as pa

from pipeline_assets.processing.features.spill import spilled
from pipeline_assets.processing.features.view import features_by_bucket, view_features
from pipeline_assets.spec.features import CleanedTable, Entity, FeatureView, Windowed

SIZES, ACCOUNTS, DAYS, BATCH, AT_ONCE = (1, 10, 100), 1_000_000, 60, 100_000, 4_000_000
TIME = pa.timestamp("us", tz="UTC")
SECONDS = DAYS * 86_400
SCHEMA = pa.schema([("account", pa.string()), ("at", TIME), ("known_at", TIME), ("id", pa.int64()), ("amount", pa.float64())])
PAYMENTS = CleanedTable(name="payments", event_at="at", known_at="known_at", order_by=("id",))
VIEW = FeatureView(
    name="account_payments",
    entity=Entity(name="account", keys=("account",), description="An account."),
    source=PAYMENTS,
    features=(
        Windowed(name="payments", aggregate="count", windows=(timedelta(days=1), timedelta(days=28))),
        Windowed(name="amount_mean", aggregate="mean", column="amount", windows=(timedelta(days=28),)),
        Windowed(name="amount_max", aggregate="max", column="amount", windows=(timedelta(days=7),)),
    ),
    owner="bench",
    description="Payments of an account.",
    freshness=timedelta(days=1),
)


def accounts(random: np.random.Generator, count: int) -> pa.Array:
    """Accounts, some of them a thousand times as busy as others."""
    return pa.array((ACCOUNTS * random.random(count) ** 3).astype(np.int64)).cast(pa.string())


def times(random: np.random.Generator, count: int, first: int, last: int) -> np.ndarray:
    """Times between two seconds, in microseconds."""
    found: np.ndarray = random.integers(first * 1_000_000, last * 1_000_000, count)
    return found


def events(total: int) -> Iterator[pa.RecordBatch]:
    """The events, in the order of their time."""
    for first in range(0, total, BATCH):
        random, count = np.random.default_rng(first), min(BATCH, total - first)
        at = np.sort(times(random, count, SECONDS * first // total, SECONDS * (first + count) // total))
        columns = [
            accounts(random, count),
            pa.array(at, pa.int64()).cast(TIME),
            pa.array(at + 60_000_000, pa.int64()).cast(TIME),
            pa.array(np.arange(first, first + count)),
            pa.array(random.integers(1, 100_000, count) / 100),
        ]
        yield pa.record_batch(columns, schema=SCHEMA)


def questions(total: int) -> pa.Table:
    """A tenth as many questions, over the whole time."""
    random, count = np.random.default_rng(7), total // 10
    at = pa.array(times(random, count, 0, SECONDS), pa.int64()).cast(TIME)
    return pa.table({"account": accounts(random, count), "decision_at": at})


def measure(total: int) -> tuple[float, float, float]:
    """Seconds to put the events aside and to compute the features, without those of making events, and peak memory in GiB."""
    asked, buckets, making = questions(total), 1 + total // AT_ONCE, 0.0

    def timed() -> Iterator[pa.RecordBatch]:
        nonlocal making
        parts = events(total)
        while True:
            since = time.perf_counter()
            batch = next(parts, None)
            making += time.perf_counter() - since
            if batch is None:
                return
            yield batch

    began = time.perf_counter()
    with spilled(pa.RecordBatchReader.from_batches(SCHEMA, timed()), PAYMENTS.name, VIEW.entity.keys, buckets) as found:
        aside = time.perf_counter() - began - making
        features = features_by_bucket(VIEW, asked, found.of, buckets=buckets)
    seconds = time.perf_counter() - began - making - aside
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if features.num_rows != asked.num_rows:
        raise SystemExit("Questions are without an answer.")
    return aside, seconds, memory


def refuse_other_values(total: int) -> None:
    """Ends the bench if buckets give other values than all events at once."""
    asked, whole = questions(total), pa.Table.from_batches(events(total), SCHEMA)
    with spilled(whole.to_reader(), PAYMENTS.name, VIEW.entity.keys, 7) as found:
        if features_by_bucket(VIEW, asked, found.of, buckets=7) != view_features(VIEW, asked, whole):
            raise SystemExit("Buckets give other values than all events at once.")


def main() -> None:
    """Measures each size, the smallest first."""
    sizes = sorted(int(given) for given in sys.argv[1:]) or SIZES
    # Of a process that is started, the peak begins with that of the one that starts it.
    refuse_other_values(1_000_000)
    print(f"A view over events of {ACCOUNTS:,} accounts, a tenth as many questions, {AT_ONCE:,} events at a time")
    for millions in sizes:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            aside, seconds, memory = pool.submit(measure, millions * 1_000_000).result()
        each = (aside + seconds) / millions
        print(f"  {millions} M: {aside:.1f} s aside, {seconds:.1f} s computed, {each:.2f} µs an event, peak memory {memory:.2f} GiB")


if __name__ == "__main__":
    main()
