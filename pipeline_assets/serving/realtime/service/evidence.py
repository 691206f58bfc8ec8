"""What speaks for and against a version that is tried: its calls beside those of the live version for the same questions.

Three measures are held against the margins that the model declares. One is beyond its margin only where that is beyond doubt: where what
was seen would come from a version that is exactly at its margin once in a million times. So a small sample condemns nobody, unless it is
wide off; and whoever looks twice a second for hours may do so. Between the margin and beyond doubt a canary stays where it is.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, log, sqrt
from threading import Lock
from typing import Any

import numpy as np

from pipeline_assets.model_lifecycle.training.judged import Scores
from pipeline_assets.spec.models import Canary

# The logarithm of how often a version at its margin may be found beyond it.
DOUBT = log(1e-6)
NEWEST_CALLS, NEWEST_SCORES = 2_000, 5_000
HALVINGS = 11
PERCENTILE, LEAST_CALLS = 95, 100


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure of a version that is tried; `value` is None as long as too little was seen."""

    name: str
    value: float | None
    margin: float
    is_beyond: bool

    @property
    def is_within(self) -> bool:
        """Whether what was seen is within the margin, beyond doubt or not."""
        return self.value is not None and self.value <= self.margin

    def to_json(self) -> dict[str, Any]:
        """The measure as the ledger keeps it."""
        return {"name": self.name, "value": self.value, "limit": self.margin, "passed": not self.is_beyond}

    def __str__(self) -> str:
        found = "is not known yet" if self.value is None else f"is {self.value:.4g}"
        return f"{self.name} {found}, at most {self.margin:g} is declared"


@dataclass
class Evidence:
    """The newest calls of one step of a trial, in this process. Milliseconds of the processor; a call that failed has none of its own."""

    clock: Any = time.monotonic
    answers: int = 0
    last_error: str | None = None
    _calls: "deque[tuple[float, float | None]]" = field(default_factory=lambda: deque(maxlen=NEWEST_CALLS))
    _scores: "deque[tuple[Scores, Scores]]" = field(default_factory=deque)
    _kept: int = 0
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def seconds(self) -> float:
        """How long this process has seen it."""
        return float(self.clock() - self.began)

    def answered(self, live: tuple[Scores, float], tried: tuple[Scores, float], answers: int) -> None:
        """Both versions scored the same questions, each in so many milliseconds; so many of the answers were those of the tried one.

        Scores are probabilities, or numbers in parts of the range that is usual.
        """
        with self._lock:
            self.answers += answers
            self._calls.append((live[1], tried[1]))
            self._scores.append((live[0], tried[0]))
            self._kept += len(live[0])
            while self._kept > NEWEST_SCORES and len(self._scores) > 1:
                self._kept -= len(self._scores.popleft()[0])

    def failed(self, live_ms: float, why: str) -> None:
        """The tried version did not answer."""
        with self._lock:
            self.last_error = why
            self._calls.append((live_ms, None))

    def measures(self, canary: Canary) -> tuple[Measure, ...]:
        """What was seen, held against the margins."""
        with self._lock:
            calls, scores = list(self._calls), list(self._scores)
        taken = [(live, own) for live, own in calls if own is not None]
        return _errors(calls, canary.most_errors), _latency(taken, canary.most_latency_ratio), _shift(scores, canary.most_score_shift)


def is_surely_more(hits: int, of: int, share: float) -> bool:
    """Whether `hits` of so many say beyond doubt that hits are more than `share` of all.

    By Chernoff's bound of the binomial tail, P(X >= hits) <= exp(-of * KL(hits / of || share)), which holds for any number.
    """
    if not of or hits / of <= share:
        return False
    if share <= 0:
        return True
    found = hits / of
    missed = 0.0 if found >= 1 else (1 - found) * log((1 - found) / (1 - share))
    return -of * (found * log(found / share) + missed) < DOUBT


def distance(one: Scores, other: Scores) -> float:
    """Levy's distance of the empirical distributions of two samples (rows,), 0 to 1, to within a thousandth.

    The least e by which F(x - e) - e <= G(x) <= F(x + e) + e for all x: but for a share e of the rows, scores have moved by no more than
    e. So a slight move of scores that are all alike is a slight distance, which by Kolmogorov and Smirnov would be the largest there is.
    """
    first, second = np.sort(one), np.sort(other)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_enough = _is_below(first, second, middle) and _is_below(second, first, middle)
        low, high = (low, middle) if is_enough else (middle, high)
    return high if low else 0.0


def _is_below(one: Scores, other: Scores, moved: float) -> bool:
    """Whether F(x) - moved <= G(x + moved) for all x; it is enough to look where F of the first, sorted sample rises."""
    shares = np.searchsorted(one, one, side="right") / len(one)
    return bool((shares - np.searchsorted(other, one + moved, side="right") / len(other) <= moved).all())


def doubt_of_distance(rows: int, columns: int) -> float:
    """By how much the `distance` of two samples of so many rows may be off, of any of several columns.

    It is a metric, and never larger than the largest difference of two distribution functions. So it is off by no more than twice the
    bound of Dvoretzky, Kiefer and Wolfowitz with Massart's constant, P(sup |F_n - F| > e) <= 2 exp(-2 n e^2): once for each sample,
    whether or not they depend on each other, as the scores of two versions for the same rows do.
    """
    return 2 * sqrt((log(4 * columns) - DOUBT) / (2 * rows)) if rows else inf


def _errors(calls: Sequence[tuple[float, float | None]], margin: float) -> Measure:
    failed = sum(own is None for _, own in calls)
    value = failed / len(calls) if calls else None
    return Measure(name="share of failed calls", value=value, margin=margin, is_beyond=is_surely_more(failed, len(calls), margin))


def _latency(taken: Sequence[tuple[float, float]], margin: float) -> Measure:
    """The ratio of the 95th percentiles. It is beyond its margin where surely more than 5 % of calls took longer than the margin allows."""
    if len(taken) < LEAST_CALLS:
        return Measure(name="latency ratio", value=None, margin=margin, is_beyond=False)
    live, own = (np.array(times) for times in zip(*taken, strict=True))
    allowed = float(np.percentile(live, PERCENTILE)) * margin
    slow = int((own > allowed).sum())
    value = float(np.percentile(own, PERCENTILE)) / max(float(np.percentile(live, PERCENTILE)), 1e-9)
    return Measure(name="latency ratio", value=value, margin=margin, is_beyond=is_surely_more(slow, len(own), 1 - PERCENTILE / 100))


def _shift(scores: "Sequence[tuple[Scores, Scores]]", margin: float) -> Measure:
    if not scores:
        return Measure(name="score shift", value=None, margin=margin, is_beyond=False)
    live, own = (np.concatenate(found) for found in zip(*scores, strict=True))
    rows, columns = len(live), 1 if live.ndim == 1 else live.shape[1]
    pairs = zip(live.reshape(rows, columns).T, own.reshape(rows, columns).T, strict=True)
    value = max(distance(one, other) for one, other in pairs)
    return Measure(name="score shift", value=value, margin=margin, is_beyond=value - doubt_of_distance(rows, columns) > margin)
