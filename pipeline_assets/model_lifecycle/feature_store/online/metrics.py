"""What a worker reports, as Prometheus reads it: on loopback, in the text format of its client library."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline_assets.model_lifecycle.feature_store.online.progress import Progress
from pipeline_assets.model_lifecycle.feature_store.online.reporter import Reporter

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

HOST = "127.0.0.1"
GAUGES = {
    "lag": "Records, or commits of the lake, that are still to take.",
    "events_per_second": "Records taken per second since the report before.",
    "progressed_timestamp_seconds": "When something was last taken, or there was nothing to take.",
    "caught_up_timestamp_seconds": "All that had come by then is in the states.",
    "watermark_timestamp_seconds": "The newest time at which something was known.",
    "bytes": "Tables of the feed in the online store, with indexes.",
    "is_failing": "1 where the feed cannot be kept.",
}
COUNTERS = {"taken_records": "Records taken, or rows of the lake read.", "left_out_records": "Records that broke their contract."}


class Collector:
    """The newest report of a worker, as metrics with the label `feed`; made anew for each question."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    def collect(self) -> "Iterator[Metric]":
        """All metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        values = {feed: _values(*reported) for feed, reported in self.reporter.reported.items()}
        for kind, declared in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for name, text in declared.items():
                family = kind(f"pipeline_online_{name}", text, labels=["feed"])
                for feed, found in values.items():
                    value = found[name]
                    if value is not None:
                        family.add_metric([feed], value)
                yield family


def serve(reporter: Reporter, port: int) -> None:
    """Serves the metrics at `http://127.0.0.1:<port>/metrics` from a thread of its own, for as long as the process lives."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(Collector(reporter))
    start_http_server(port, addr=HOST, registry=registry)


def _values(done: Progress, watermark: int | None) -> dict[str, float | None]:
    return {
        "lag": done.lag,
        "events_per_second": done.per_second,
        "progressed_timestamp_seconds": done.progressed_at.timestamp(),
        "caught_up_timestamp_seconds": None if done.caught_up_at is None else done.caught_up_at.timestamp(),
        "watermark_timestamp_seconds": None if watermark is None else watermark / 1e6,
        "bytes": done.bytes,
        "is_failing": float(done.problem is not None),
        "taken_records": done.taken,
        "left_out_records": done.left_out,
    }
