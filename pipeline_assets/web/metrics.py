"""What Prometheus reads of the platform: its code, runs, checks, how old assets are, what was observed of them, and the disk."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

PATH = "/metrics"
CONTENT_TYPE = CONTENT_TYPE_LATEST
# However often it is asked, so often it is looked.
KEPT_SECONDS = 15.0

L = TypeVar("L", bound=tuple[str, ...])


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The platform at one moment; times are seconds since 1970.

    runs: all that there are, by state. loaded: whether the code of each location is; there are no checks and assets of one that is not.
    checks: of each that was ever judged, by asset and name: whether it failed, and its severity.
    materialized: when an asset last was. observed: the numbers of an asset's newest observation, by asset and name.
    """

    runs: Mapping[str, int]
    loaded: Mapping[str, bool] = field(default_factory=dict)
    checks: Mapping[tuple[str, str], tuple[bool, str]] = field(default_factory=dict)
    materialized: Mapping[str, float] = field(default_factory=dict)
    observed: Mapping[tuple[str, str], float] = field(default_factory=dict)


class PlatformMetrics:
    """The metrics as text, kept for a while, made by one caller at a time."""

    def __init__(self, look: Callable[[], Seen], home: Path) -> None:
        self._look, self._home = look, home
        self._lock, self._made_at, self._text = Lock(), -KEPT_SECONDS, b""
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """All metrics, at most `KEPT_SECONDS` old."""
        with self._lock:
            if monotonic() - self._made_at >= KEPT_SECONDS:
                self._text = generate_latest(self._registry)
                self._made_at = monotonic()
            return self._text

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering looks at nothing."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics, from a new look."""
        seen = self._look()
        yield _gauge("pipeline_runs", "Runs that there are, by state.", ("state",), {(state,): count for state, count in seen.runs.items()})
        loaded = {(location,): float(is_loaded) for location, is_loaded in seen.loaded.items()}
        yield _gauge(
            "pipeline_code_loaded",
            "1 where the code of a location is loaded; what is not has no assets and checks here.",
            ("location",),
            loaded,
        )
        failing = {(*check, severity): float(failed) for check, (failed, severity) in seen.checks.items()}
        yield _gauge("pipeline_check_failing", "1 where a check failed as it was judged last.", ("asset", "check", "severity"), failing)
        at = {(asset,): time for asset, time in seen.materialized.items()}
        yield _gauge("pipeline_asset_materialized_seconds", "When an asset was last materialized, since 1970.", ("asset",), at)
        yield _gauge(
            "pipeline_asset_observed", "Numbers of an asset's newest observation, such as its lag.", ("asset", "name"), seen.observed
        )
        disk = shutil.disk_usage(self._home)
        sizes = {("total",): disk.total, ("free",): disk.free}
        yield _gauge("pipeline_disk_bytes", "The disk of the folder of the platform's state, in all and free.", ("part",), sizes)


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[L, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label, value in sorted(values.items()):
        family.add_metric(label, value)
    return family
