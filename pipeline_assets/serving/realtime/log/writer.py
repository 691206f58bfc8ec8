"""The log of predictions: what was answered, on its way to Kafka without ever being waited for.

`put` leaves records in memory, and a thread does all else: it writes them to disk, hands them to the producer (idempotent, acks=all), and
lets go of them on disk once Kafka has acknowledged them. So while Kafka is slow or away they are on disk, in order, and what a process left
that was killed is sent by the next one, or by another that lives. A record may then be twice in the topic, with the time at which the log
took it; the lake has it once.

What may be lost, always counted and logged: records that the queue, the disk or the bound of the spool had no room for while Kafka did not
take them, that Kafka refuses by their size, or that cannot be written. A kill (-9) loses unseen what was put in the last `PAUSE_SECONDS`,
as long as the thread keeps up. What is on disk outlives the process at once; it outlives the machine once written through (fsync), which
is done once a second while Kafka is away, and at the end of the process.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic, time_ns

from pipeline_assets.core.settings import BrokerSettings
from pipeline_assets.serving.realtime.log.disk import WorkerSpool
from pipeline_assets.serving.realtime.log.record import Logged
from pipeline_assets.serving.realtime.log.sender import Sender
from pipeline_assets.serving.realtime.log.spool import Record, Segment

LOG = logging.getLogger(__name__)
# The thread gathers what is put for so long: fewer, larger writes, and fewer turns in which requests wait for the interpreter.
PAUSE_SECONDS = 0.02
# Kafka is away once a record has waited so long for its answer.
PATIENCE_SECONDS = 2.0
SYNC_SECONDS, TAKE_OVER_SECONDS, REPORT_SECONDS = 1.0, 30.0, 10.0
# What is written to disk at once.
PIECE = 200
QUEUE_FULL, NO_ROOM, NOT_WRITTEN, HALF_WRITTEN, UNREADABLE, CLOSED = (
    "the queue is full",
    "the disk has no room",
    "it cannot be written as JSON",
    "a kill cut it off",
    "the disk gave back something else",
    "the log is closed",
)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much is kept: records in the queue, bytes in memory while the disk takes none, bytes on disk, and bytes per file."""

    queued_records: int = 10_000
    held_bytes: int = 16 << 20
    spool_bytes: int = 1 << 30
    segment_bytes: int = 4 << 20


@dataclass(frozen=True, kw_only=True)
class LogCounts:
    """The log at a moment.

    delivered: records that Kafka acknowledged, since the start. waiting: records in memory alone. spooled: records on disk that Kafka has
    not acknowledged, in files of `spooled_bytes`. lost: records by reason, since the start. away_since: since when Kafka has not answered.
    """

    delivered: int
    waiting: int
    spooled: int
    spooled_bytes: int
    lost: Mapping[str, int]
    away_since: datetime | None


class PredictionLog:
    """The log of one process, which has a thread of its own from the start to `close`.

    folder: where all workers of a machine spool to; on a local disk, for this user alone.
    """

    def __init__(self, settings: BrokerSettings, folder: Path, topic: str, *, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._queue: deque[tuple[int, Callable[[], Iterable[Logged]]]] = deque()
        self._queued = 0
        self._held: deque[Record] = deque()
        self._held_bytes = 0
        self._disk = WorkerSpool(parent=folder, limit_bytes=self._bounds.spool_bytes, segment_bytes=self._bounds.segment_bytes)
        self._sender = Sender(settings, topic, self._settled)
        self._delivered = 0
        self._away_since: datetime | None = None
        self._lost: Counter[str] = Counter()
        self._reported, self._report_at, self._sync_at, self._take_over_at = 0, 0.0, 0.0, 0.0
        self._disk_problem: str | None = None
        self._lock, self._closing, self._deadline = Lock(), Event(), 0.0
        self._thread = Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, records: Sequence[Logged]) -> None:
        """Leaves records to be logged. Never waits, never raises; what there is no room for is counted as lost."""
        self.put_made(len(records), lambda: records)

    def put_made(self, count: int, make: Callable[[], Iterable[Logged]]) -> None:
        """The same for so many records that the log's thread makes, as that takes longer than who answers requests has."""
        if self._closing.is_set():
            self._lose(count, CLOSED)
        elif self._queued + count > self._bounds.queued_records:
            self._lose(count, QUEUE_FULL)
        else:
            with self._lock:
                self._queued += count
            self._queue.append((count, make))

    def counts(self) -> LogCounts:
        """What has become of the records by now."""
        spool = self._disk.spool
        unseen = {HALF_WRITTEN: self._disk.half_written, UNREADABLE: 0 if spool is None else spool.unreadable}
        with self._lock:
            lost = {**self._lost, **{reason: records for reason, records in unseen.items() if records}}
        return LogCounts(
            delivered=self._delivered,
            waiting=self._queued + len(self._held) + self._sender.in_memory,
            spooled=0 if spool is None else spool.records,
            spooled_bytes=0 if spool is None else spool.bytes,
            lost=lost,
            away_since=self._away_since,
        )

    def close(self, seconds: float) -> None:
        """Sends what is left, for at most so long; what Kafka has not acknowledged by then is on disk, for the next process."""
        self._deadline = monotonic() + seconds
        self._closing.set()
        self._thread.join(seconds + 10)
        if self._thread.is_alive():
            LOG.error("The log of predictions did not end within %.0f s; what it has in memory is lost.", seconds + 10)
        self._report()

    def _run(self) -> None:
        while not self._is_finished():
            try:
                self._turn()
            except Exception:
                # Nothing may end the thread: what comes after would be lost.
                LOG.exception("The log of predictions failed, and goes on.")
            self._closing.wait(PAUSE_SECONDS)
        self._end()

    def _turn(self) -> None:
        self._take()
        self._keep()
        self._feed()
        self._sender.poll(PAUSE_SECONDS if self._closing.is_set() else 0)
        self._tend()

    def _is_finished(self) -> bool:
        """Whether the thread may end: once it is to close, and nothing is left or its time is over."""
        if not self._closing.is_set():
            return False
        if self._away_since is not None and not (self._queued or self._held):
            # All is on disk, and nobody takes it.
            return True
        counts = self.counts()
        return monotonic() >= self._deadline or not (counts.waiting or counts.spooled)

    def _take(self) -> None:
        """From the queue into memory, as bytes."""
        now_ms, again = time_ns() // 1_000_000, Counter[bytes]()
        for _ in range(len(self._queue)):
            count, make = self._queue.popleft()
            try:
                for one in make():
                    # One that is there again is another version of the same, which has to be later.
                    self._hold(one, now_ms + again[one.key])
                    again[one.key] += 1
            except Exception:
                self._lose(count, NOT_WRITTEN)
                LOG.exception("%d predictions cannot be logged.", count)
            with self._lock:
                self._queued -= count

    def _hold(self, one: Logged, now_ms: int) -> None:
        try:
            record = Record(one.key, one.to_json(), now_ms, one.traceparent or b"")
        except (TypeError, ValueError) as error:
            self._lose(1, NOT_WRITTEN)
            LOG.error("The prediction %r of %s cannot be logged: %s", one.prediction_id, one.model, error)  # noqa: TRY400
        else:
            self._held.append(record)
            self._held_bytes += record.size

    def _keep(self) -> None:
        """From memory to disk; what is on its way to Kafka anyway need not be read again."""
        try:
            while self._held:
                piece = [self._held[place] for place in range(min(PIECE, len(self._held)))]
                is_next = self._disk.is_read and self._sender.room >= len(piece)
                segment = self._disk.append(piece)
                for record in piece:
                    self._drop_held()
                    if is_next:
                        self._sender.send(record, segment)
                if is_next and self._disk.spool is not None:
                    self._disk.spool.skip(segment)
            self._disk_problem = None
        except OSError as error:
            self._report_disk(error)
            self._trim()

    def _drop_held(self) -> Record:
        record = self._held.popleft()
        self._held_bytes -= record.size
        return record

    def _trim(self) -> None:
        """The disk takes nothing: the newest go that are more than memory may have."""
        lost = 0
        while self._held_bytes > self._bounds.held_bytes:
            self._held_bytes -= self._held.pop().size
            lost += 1
        self._lose(lost, NO_ROOM)

    def _feed(self) -> None:
        """From disk to Kafka, and then from memory what the disk did not take."""
        while self._sender.room > 0:
            found = self._disk.read(min(self._sender.room, PIECE))
            if not found:
                break
            for record, segment in found:
                self._sender.send(record, segment)
        while self._held and self._disk.is_read and self._sender.room > 0:
            self._sender.send(self._drop_held(), None)

    def _settled(self, segment: Segment | None, problem: str | None) -> None:
        """Kafka has a record, or refuses it for good."""
        if problem is None:
            self._delivered += 1
            self._come_back()
        else:
            self._lose(1, f"it {problem}")
        if segment is not None and self._disk.spool is not None:
            self._disk.spool.done(segment)

    def _come_back(self) -> None:
        if self._away_since is not None:
            LOG.warning("Kafka answers again; %d predictions are spooled on disk.", self.counts().spooled)
            self._away_since = None

    def _tend(self) -> None:
        now, waits_since = monotonic(), self._sender.waits_since
        if waits_since is not None and now - waits_since > PATIENCE_SECONDS and self._away_since is None:
            self._away_since = datetime.now(UTC)
            LOG.warning("Kafka does not answer (%s); predictions are spooled to %s.", self._sender.failed or "no error", self._disk.parent)
        try:
            self._tend_disk(now)
        except OSError as error:
            self._report_disk(error)
        if now >= self._report_at:
            self._report()

    def _tend_disk(self, now: float) -> None:
        if self._away_since is not None and now >= self._sync_at and self._disk.spool is not None:
            self._sync_at = now + SYNC_SECONDS
            self._disk.spool.sync()
        if now >= self._take_over_at:
            self._take_over_at = now + TAKE_OVER_SECONDS
            taken = self._disk.take_over()
            if taken:
                LOG.warning("Took over %d predictions that a worker left on disk.", taken)

    def _end(self) -> None:
        """Whatever is in memory alone is lost now; what is on disk stays."""
        left = self.counts().waiting
        self._lose(left, CLOSED)
        self._sender.close()
        try:
            self._disk.close()
        except OSError as error:
            self._report_disk(error)

    def _lose(self, records: int, reason: str) -> None:
        if records:
            with self._lock:
                self._lost[reason] += records

    def _report(self) -> None:
        """Says what was lost since it was last said."""
        lost = self.counts().lost
        total = sum(lost.values())
        if total > self._reported:
            LOG.error("%d predictions were not logged: %s.", total - self._reported, lost)
        self._reported, self._report_at = total, monotonic() + REPORT_SECONDS

    def _report_disk(self, error: OSError) -> None:
        if str(error) != self._disk_problem:
            self._disk_problem = str(error)
            LOG.error("Predictions cannot be spooled to %s: %s. They wait in memory.", self._disk.parent, error)
