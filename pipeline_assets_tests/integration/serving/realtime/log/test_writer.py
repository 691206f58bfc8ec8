"""The log of predictions before a real broker: stopped, slow, without a topic; before a full disk; and in processes that are killed."""

import json
import logging
import operator
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from threading import Event, Thread
from time import monotonic

import psutil
import pytest

from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.streaming.capture.topics import Topic, ensure_topics
from pipeline_assets.local_stack.plan import KAFKA
from pipeline_assets.serving.realtime.log import writer
from pipeline_assets.serving.realtime.log.acked import LARGEST_RECORD
from pipeline_assets.serving.realtime.log.record import Logged
from pipeline_assets.serving.realtime.log.writer import Bounds, LogCounts, PredictionLog
from pipeline_assets_tests.logged_predictions import logged
from pipeline_assets_tests.silent_broker import silent
from pipeline_assets_tests.stack_services import kill, pid_of, start
from pipeline_assets_tests.stream_records import consume, until


@contextmanager
def opened(settings: Settings, folder: Path, topic: str, bounds: Bounds | None = None) -> Iterator[PredictionLog]:
    """A log that is closed in the end."""
    log = PredictionLog(settings, folder, topic, bounds=bounds)
    try:
        yield log
    finally:
        log.close(5)


def put(log: PredictionLog, first: int, end: int) -> None:
    """Logs predictions, in bunches."""
    for number in range(first, end, 20):
        log.put([logged(one) for one in range(number, min(number + 20, end))])


def take_all(log: PredictionLog) -> None:
    """Waits until the log's thread kept or lost all that was put before: it has begun another turn since it took the last of it."""
    for _ in range(2):
        taken = Event()
        log.put_made(0, partial(_mark, taken))
        assert taken.wait(30)


def _mark(taken: Event) -> list[Logged]:
    taken.set()
    return []


def by_partition(settings: Settings, topic: str) -> dict[int, list[int]]:
    """The predictions of each partition by their numbers, in order."""
    found: dict[int, list[int]] = {}
    for message in consume(settings, topic):
        place, value = message.partition(), message.value()
        assert place is not None
        assert value is not None
        found.setdefault(place, []).append(int(str(json.loads(value)["prediction_id"]).partition("-")[2]))
    return found


def numbers_in(settings: Settings, topic: str) -> Counter[int]:
    """How often each prediction is in the topic, by its number."""
    return Counter(number for own in by_partition(settings, topic).values() for number in own)


def are_ordered(settings: Settings, topic: str) -> bool:
    """Whether the first records of each partition, by their numbers, are in order."""
    found = by_partition(settings, topic)
    return len(found) == 2 and all(list(dict.fromkeys(own)) == sorted(set(own)) for own in found.values())


def spooled_in(folder: Path) -> list[Path]:
    """The files of all workers in a folder."""
    return sorted(folder.glob("*/*.spool"))


def test_every_prediction_is_in_the_topic_and_nothing_is_left(kafka: Settings, topic: str, tmp_path: Path) -> None:
    """Each once, in the order of its partition; counts say so; a log that is closed leaves no file."""
    with opened(kafka, tmp_path, topic) as log:
        put(log, 0, 3_000)
        counts = until(log.counts, lambda found: found.delivered == 3_000, 60)

    assert numbers_in(kafka, topic) == Counter(range(3_000))
    assert are_ordered(kafka, topic)
    assert (counts.waiting, counts.spooled, counts.lost, counts.away_since) == (0, 0, {}, None)
    assert list(tmp_path.iterdir()) == []


def test_putting_never_waits_while_kafka_is_stopped(kafka: Settings, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Killed in between, the broker gets all once it runs again, each once, in order; meanwhile they are on disk, and it is said."""
    caplog.set_level(logging.WARNING)
    with opened(kafka, tmp_path, topic) as log:
        put(log, 0, 200)
        until(log.counts, lambda found: found.delivered == 200, 60)
        kill(kafka, KAFKA)
        begun = monotonic()
        put(log, 200, 4_200)
        seconds = monotonic() - begun
        away = until(log.counts, lambda found: found.away_since is not None and found.spooled == 4_000, 30)
        on_disk = sum(path.stat().st_size for path in spooled_in(tmp_path))
        start(kafka.home, KAFKA)
        back = until(log.counts, lambda found: found.delivered == 4_200, 60)

    assert away.delivered == 200
    assert away.spooled_bytes == on_disk > 4_000_000
    assert (back.spooled, back.lost, back.away_since) == (0, {}, None)
    assert numbers_in(kafka, topic) == Counter(range(4_200))
    assert are_ordered(kafka, topic)
    assert [one.message.split(" (")[0] for one in caplog.records if one.name == writer.__name__][:1] == ["Kafka does not answer"]
    assert "Kafka answers again" in caplog.text
    # 200 calls, which make 4,000 records.
    assert seconds < 2


@contextmanager
def slowed(settings: Settings) -> Iterator[None]:
    """A broker that stands still for half a second, again and again, with pauses of a tenth."""
    process, ended = psutil.Process(pid_of(settings, KAFKA)), Event()

    def slow() -> None:
        while not ended.is_set():
            process.send_signal(signal.SIGSTOP)
            ended.wait(0.5)
            process.send_signal(signal.SIGCONT)
            ended.wait(0.1)

    thread = Thread(target=slow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        process.send_signal(signal.SIGCONT)


def test_a_slow_broker_delays_nothing_but_the_log(kafka: Settings, topic: str, tmp_path: Path) -> None:
    """What it has not acknowledged is on disk; all arrives, each once, in order."""
    with opened(kafka, tmp_path, topic) as log:
        with slowed(kafka):
            begun = monotonic()
            put(log, 0, 3_000)
            seconds = monotonic() - begun
            waited = until(log.counts, lambda found: found.spooled > 0, 30)
            slow = until(log.counts, lambda found: found.delivered > 0, 60)
            first_answer = monotonic() - begun
        whole = until(log.counts, lambda found: found.delivered == 3_000, 60)

    assert first_answer > 0.4  # it was slow
    assert waited.spooled > 0
    assert (slow.lost, whole.lost) == ({}, {})
    assert seconds < 2
    assert numbers_in(kafka, topic) == Counter(range(3_000))
    assert are_ordered(kafka, topic)


def test_a_topic_that_is_not_there_yet_is_waited_for(kafka: Settings, tmp_path: Path) -> None:
    """A service that starts before its topic was made spools, and sends it all later."""
    name = f"log-{token_hex(6)}"
    with opened(kafka, tmp_path, name) as log:
        put(log, 0, 100)
        waiting = until(log.counts, lambda found: found.away_since is not None, 30)
        ensure_topics(kafka, [Topic(name=name, partitions=2)])
        found = until(log.counts, lambda found: found.delivered == 100, 90)

    assert (waiting.delivered, waiting.spooled) == (0, 100)
    assert found.lost == {}
    assert numbers_in(kafka, name) == Counter(range(100))


def test_a_record_that_kafka_refuses_is_lost_alone(kafka: Settings, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that is larger than Kafka takes is counted, and so is one that is no JSON; those around them arrive."""
    with opened(kafka, tmp_path, topic) as log:
        log.put([logged(0), logged(1, features={"text": "x" * LARGEST_RECORD}), logged(2, prediction_id="\ud800"), logged(3)])
        counts = until(log.counts, lambda found: found.delivered == 2, 60)

    assert counts.lost == {"it is larger than Kafka takes": 1, writer.NOT_WRITTEN: 1}
    assert (counts.waiting, counts.spooled) == (0, 0)
    assert numbers_in(kafka, topic) == Counter([0, 3])
    assert "2 predictions were not logged" in caplog.text


def test_a_record_that_is_larger_than_its_topic_allows_is_lost_alone(kafka: Settings, tmp_path: Path) -> None:
    """Kafka refuses all that are sent together with it; they arrive all the same, each once."""
    name = f"log-{token_hex(6)}"
    ensure_topics(kafka, [Topic(name=name, partitions=1, configs={"max.message.bytes": "20000"})])
    with opened(kafka, tmp_path, name) as log:
        large = "".join(map(str, range(30_000)))
        log.put([logged(one, **({"request": {"text": large}} if one == 7 else {})) for one in range(40)])
        counts = until(log.counts, lambda found: found.delivered == 39, 60)

    assert counts.lost == {"it is larger than Kafka takes": 1}
    assert numbers_in(kafka, name) == Counter(set(range(40)) - {7})


def test_a_closed_log_leaves_on_disk_what_kafka_did_not_take(kafka: Settings, topic: str, tmp_path: Path) -> None:
    """The next one sends it before its own; what is put after the end is counted as lost."""
    with silent(kafka):
        log = PredictionLog(kafka, tmp_path, topic)
        put(log, 0, 500)
        log.close(1)
        log.put([logged(9_999)])
        left = spooled_in(tmp_path)
    with opened(kafka, tmp_path, topic) as following:
        put(following, 500, 600)
        counts = until(following.counts, lambda found: found.delivered == 600, 60)

    assert left
    assert log.counts().lost == {writer.CLOSED: 1}
    assert counts.lost == {}
    assert numbers_in(kafka, topic) == Counter(range(600))
    assert are_ordered(kafka, topic)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def logging_process(settings: Settings, folder: Path, topic: str, first: int) -> "Iterator[subprocess.Popen[str]]":
    """A process that logs predictions; killed in the end."""
    command = [sys.executable, "-m", "pipeline_assets_tests.logging_process", str(settings.home), str(folder), topic, str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: "subprocess.Popen[str]") -> dict[str, int]:
    """The next line of a process."""
    assert process.stdout is not None
    found: dict[str, int] = json.loads(process.stdout.readline())
    return found


def test_what_killed_processes_spooled_is_sent_by_the_next(kafka: Settings, topic: str, tmp_path: Path) -> None:
    """Two workers are killed (-9) while Kafka is away; one that starts then sends what both left and its own, and removes their folders.

    Lost is at most what was put in the last moment before the kill, and records that were cut off are counted.
    """
    with silent(kafka):
        with logging_process(kafka, tmp_path, topic, 0) as one, logging_process(kafka, tmp_path, topic, 100_000) as other:
            lines = [until(partial(said, process), lambda found: found["spooled"] >= 1_000, 60) for process in (one, other)]
            for process in (one, other):
                process.send_signal(signal.SIGKILL)
                process.wait()
        known = {*range(lines[0]["spooled"]), *range(100_000, 100_000 + lines[1]["spooled"])}
        folders = {path.parent for path in spooled_in(tmp_path)}
    with opened(kafka, tmp_path, topic) as log:
        put(log, 200_000, 200_100)
        counts = until(log.counts, lambda found: found.delivered > len(known) and found.spooled == 0, 60)

    found = numbers_in(kafka, topic)
    assert [process.returncode for process in (one, other)] == [-signal.SIGKILL] * 2
    assert len(folders) == 2
    assert known <= found.keys()
    assert set(range(200_000, 200_100)) <= found.keys()
    assert set(found.values()) == {1}
    assert counts.delivered == found.total()
    assert are_ordered(kafka, topic)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_in_the_middle_of_sending_doubles_records_and_loses_none(kafka: Settings, topic: str, tmp_path: Path) -> None:
    """Killed while records flow, a worker's open file is sent again by the next: each is there, some twice, in the order of its first."""
    with logging_process(kafka, tmp_path, topic, 0) as process:
        line = until(lambda: said(process), lambda found: found["delivered"] >= 1_000, 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with opened(kafka, tmp_path, topic) as log:
        until(log.counts, lambda found: found.delivered > 0 and found.spooled == 0, 60)

    found = numbers_in(kafka, topic)
    assert set(range(line["delivered"])) <= found.keys()
    assert set(found) == set(range(max(found) + 1))
    assert {2} <= set(found.values()) <= {1, 2}


def test_a_worker_that_lives_takes_over_from_one_that_died(
    kafka: Settings, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to start anew for it; a worker that lives loses nothing to another."""
    monkeypatch.setattr(writer, "TAKE_OVER_SECONDS", 0.5)
    with opened(kafka, tmp_path, topic) as log:
        with silent(kafka):
            put(log, 500_000, 500_100)
            until(lambda: log.counts().spooled, lambda found: found == 100, 30)
            with logging_process(kafka, tmp_path, topic, 0) as process:
                line = until(lambda: said(process), lambda found: found["spooled"] >= 500, 60)
                assert log.counts().spooled == 100
                process.send_signal(signal.SIGKILL)
                process.wait()
            until(lambda: log.counts().spooled, lambda found: found >= 100 + line["spooled"], 30)
        until(log.counts, lambda found: found.spooled == 0, 60)

    found = numbers_in(kafka, topic)
    assert {*range(line["spooled"]), *range(500_000, 500_100)} <= found.keys()
    assert set(found.values()) == {1}


@contextmanager
def small_files(most_bytes: int) -> Iterator[None]:
    """No file of this process may become larger: the kernel refuses the rest of a write, as a disk that is full does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_nothing_while_kafka_answers(
    kafka: Settings, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the disk does not take goes to Kafka from memory, in order."""
    with opened(kafka, tmp_path, topic) as log, small_files(100_000):
        for first in range(0, 2_000, 200):
            put(log, first, first + 200)
            until(lambda: log.counts().delivered, partial(operator.eq, first + 200), 30)
        counts = log.counts()
        assert "File too large" in caplog.text

    assert counts.lost == {}
    assert numbers_in(kafka, topic) == Counter(range(2_000))
    assert are_ordered(kafka, topic)


def test_what_a_full_disk_loses_is_counted_and_said(kafka: Settings, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Kafka is away and the disk is full: memory takes what it may, what comes then is lost, and all else arrives, in order."""
    with opened(kafka, tmp_path, topic, Bounds(held_bytes=1_000_000)) as log:
        with small_files(1_000_000), silent(kafka):
            put(log, 0, 4_000)
            take_all(log)
            full = log.counts()
            assert "File too large" in caplog.text
        whole = until(log.counts, lambda found: found.waiting == found.spooled == 0, 60)

    found = numbers_in(kafka, topic)
    assert full.waiting + full.spooled + _lost(full) == 4_000
    assert full.lost == whole.lost == {writer.NO_ROOM: 4_000 - whole.delivered}
    assert 0 < whole.delivered < 4_000
    assert found.total() == len(found) == whole.delivered
    assert are_ordered(kafka, topic)
    assert f"{whole.lost[writer.NO_ROOM]} predictions were not logged" in caplog.text


def _lost(counts: LogCounts) -> int:
    return sum(counts.lost.values())


def test_the_bound_of_the_spool_is_kept(kafka: Settings, topic: str, tmp_path: Path) -> None:
    """Kafka is away: no more bytes are on disk than declared, what is beyond and beyond memory is counted, the rest arrives."""
    bounds = Bounds(spool_bytes=500_000, segment_bytes=100_000, held_bytes=100_000)
    with opened(kafka, tmp_path, topic, bounds) as log:
        with silent(kafka):
            put(log, 0, 3_000)
            full = until(log.counts, lambda found: _lost(found) > 0 and found.waiting + found.spooled + _lost(found) == 3_000, 30)
            on_disk = sum(path.stat().st_size for path in spooled_in(tmp_path))
        whole = until(log.counts, lambda found: found.waiting == found.spooled == 0, 60)

    assert on_disk == full.spooled_bytes <= 500_000
    assert full.lost.keys() == {writer.NO_ROOM}
    assert whole.delivered + _lost(whole) == 3_000
    assert numbers_in(kafka, topic).total() == whole.delivered
    assert list(tmp_path.iterdir()) == []


def test_a_queue_that_is_full_refuses_and_counts(kafka: Settings, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that does not keep up is not waited for."""
    monkeypatch.setattr(writer, "PAUSE_SECONDS", 1.0)
    with opened(kafka, tmp_path, topic, Bounds(queued_records=100)) as log:
        for first in range(0, 1_000, 100):
            log.put([logged(one) for one in range(first, first + 100)])
        counts = until(log.counts, lambda found: found.delivered + _lost(found) == 1_000, 30)

    assert counts.lost.keys() == {writer.QUEUE_FULL}
    assert counts.lost[writer.QUEUE_FULL] >= 100
    assert numbers_in(kafka, topic).total() == counts.delivered


def test_a_folder_that_cannot_be_written_stops_nothing(kafka: Settings, topic: str, tmp_path: Path) -> None:
    """Where the folder should be stands a file: the log goes on from memory."""
    (tmp_path / "spool").write_text("not a folder")
    with opened(kafka, tmp_path / "spool", topic) as log:
        put(log, 0, 100)
        counts = until(log.counts, lambda found: found.delivered == 100, 30)

    assert counts.lost == {}
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]
