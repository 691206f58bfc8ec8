"""What is watched after a model is live, and when that asks for a retraining."""

from dataclasses import dataclass
from datetime import timedelta

from pipeline_assets.spec.tasks import MetricRule


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which of the vectors that were served online are kept, to be held against the lake: a `share`, the newest `most`, for `kept_for`."""

    share: float = 0.01
    most: int = 20_000
    kept_for: timedelta = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Drift and performance of a model, judged per day against its training reference.

    A feature has drifted when its population stability index over `bins` equal-frequency bins of the reference exceeds `max_psi`; a value
    that holds a bin's share of the reference, such as a flag's or a constant's, has a bin of its own besides. A day has drifted when the
    share of drifted features exceeds `max_drifted_share`, or the score itself has drifted. Performance fails where a metric breaks one of
    `rules` on a day with at least `min_labels` mature labels. At most one retraining is requested in `cool_down` (event time).
    `served` says which vectors are kept that were served online.
    """

    bins: int
    max_psi: float
    max_drifted_share: float
    rules: tuple[MetricRule, ...]
    min_labels: int
    report_sample_rows: int
    cool_down: timedelta
    served: Sampling = Sampling()
