"""Processes of one service that know of each other by files."""

import fcntl
import os
from pathlib import Path
from time import monotonic

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline_assets.serving.realtime.overview import LogOverview
from pipeline_assets.serving.realtime.service.workers import Report, Workers, text_of
from pipeline_assets_tests.stream_records import until


def report(requests: int) -> Report:
    """What a process says that has counted so many requests."""
    log = LogOverview(delivered=requests, waiting=0, spooled=0, lost={}, away_since=None)
    return Report(at=monotonic(), started_at="2026-01-01T00:00:00+00:00", is_ready=True, problems=[], models={}, log=log, metrics="")


def worker(folder: Path, requests: int, *, are_several: bool = True) -> Workers:
    """A process that has taken its place."""
    found = Workers(folder, lambda: report(requests), are_several=are_several)
    found.start()
    return found


def delivered(one: Workers) -> list[int]:
    """What all processes have delivered, as one of them sees it."""
    return [found.log.delivered for found in one.reports().values()]


def test_each_process_answers_for_all_that_live(tmp_path: Path) -> None:
    """Two see each other in the same order; one that ended is not seen, and its place is taken by the next."""
    first, second = worker(tmp_path, 1), worker(tmp_path, 2)
    try:
        both = (
            until(lambda: delivered(first), lambda found: len(found) == 2),
            until(lambda: delivered(second), lambda found: len(found) == 2),
        )
        second.stop()
        alone = delivered(first)
        third = worker(tmp_path, 3)
        try:
            after = until(lambda: delivered(first), lambda found: len(found) == 2 and found[1] == 3)
        finally:
            third.stop()
    finally:
        first.stop()

    assert both == ([1, 2], [1, 2])
    assert alone == [1]
    assert (after, third.place) == ([1, 3], 1)


def test_a_report_without_a_process_or_without_sense_is_left_out(tmp_path: Path) -> None:
    """What a killed one left, and what is no report of one that lives: the others answer without it."""
    first = worker(tmp_path, 1)
    for place, text in ((7, msgspec.json.encode(report(7))), (8, b"{")):
        (tmp_path / f"{place}.json").write_bytes(text)
        (tmp_path / f"{place}.lock").touch()
    try:
        with (tmp_path / "8.lock").open() as lives:
            fcntl.flock(lives, fcntl.LOCK_EX)
            found = delivered(first)
        with (tmp_path / "7.lock").open() as lives:
            fcntl.flock(lives, fcntl.LOCK_EX)
            with_it = delivered(first)
    finally:
        first.stop()

    assert found == [1]
    assert with_it == [1, 7]


def test_a_process_alone_writes_nothing(tmp_path: Path) -> None:
    """It answers for itself, and leaves no file."""
    alone = worker(tmp_path / "none", 5, are_several=False)

    assert delivered(alone) == [5]
    assert not os.path.lexists(tmp_path / "none")


def test_metrics_of_processes_are_one_text_with_a_label() -> None:
    """Values with and without labels of their own, and buckets: Prometheus' own parser reads each family once, and sums are right."""
    texts = {}
    for place in (0, 1):
        registry = CollectorRegistry()
        asked = Counter("asked", "Requests, {by} model.", ("model",), registry=registry)
        asked.labels("a b{x}").inc(place + 1)
        Counter("plain", "Without labels.", registry=registry).inc(10)
        Histogram("seconds", "Time.", ("model",), buckets=(1.0,), registry=registry).labels("m").observe(0.5)
        texts[place] = generate_latest(registry).decode()
    families = list(text_string_to_metric_families(text_of(texts)))
    values = {
        (sample.name, sample.labels["worker"], sample.labels.get("model")): sample.value for one in families for sample in one.samples
    }

    assert len({one.name for one in families}) == len(families)
    assert (values["asked_total", "0", "a b{x}"], values["asked_total", "1", "a b{x}"]) == (1, 2)
    assert (values["plain_total", "0", None], values["plain_total", "1", None]) == (10, 10)
    assert values["seconds_count", "1", "m"] == 1
