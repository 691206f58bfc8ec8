"""The gate: rules that a candidate has to keep before it may go live. Pure: figures in, verdict out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from pipeline_assets.model_lifecycle.training.evaluate import Evaluation
from pipeline_assets.model_lifecycle.training.tasks.kind import TaskKind
from pipeline_assets.spec.models import Gate

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule as it was judged: `value` against `limit`, of which it must be the one side.

    `value` is None where it does not exist (a ROC AUC where all labels are the same); then the rule is broken.
    """

    name: str
    value: float | None
    limit: float
    is_minimum: bool

    @property
    def margin(self) -> float | None:
        """By how much the rule is kept; negative: by how much it is broken."""
        if self.value is None:
            return None
        return self.value - self.limit if self.is_minimum else self.limit - self.value

    @property
    def bound(self) -> str:
        """What the value must be, such as "at most 0.08"."""
        return f"{'at least' if self.is_minimum else 'at most'} {self.limit:g}"

    @property
    def passed(self) -> bool:
        """Whether the rule is kept; to be exactly at the limit is enough."""
        return self.margin is not None and self.margin >= 0

    def to_json(self) -> dict[str, Any]:
        """The rule as the ledger keeps it."""
        return {**asdict(self), "margin": self.margin, "passed": self.passed}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Rule":
        """The rule that `to_json` wrote."""
        return cls(name=stored["name"], value=stored["value"], limit=stored["limit"], is_minimum=stored["is_minimum"])

    def __str__(self) -> str:
        if self.value is None or self.margin is None:
            return f"{self.name} does not exist, must be {self.bound}"
        verdict = f"kept by {self.margin:.4g}" if self.passed else f"broken by {-self.margin:.4g}"
        return f"{self.name} is {self.value:.4g}, must be {self.bound}: {verdict}"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Vectors that were served online and compared with the lake: when, how many, and the features that differed in any."""

    at: str
    vectors: int
    differing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the gate looks at: the candidate, and its rivals on the same hold-out.

    `baseline` is the baseline's value of the gate's metric, None where it does not exist. `champion` is None where no version is live.
    `features_lost` counts features of the champion that the hold-out does not have, and `answers_otherwise` says that its task, classes or
    unit are others, so that it cannot be judged there: then `champion` is None too. `champion_ahead` is how much later than the candidate
    the champion was trained (event time; negative: earlier).
    `latency_ms` is the 95th percentile of scoring one row on a free core. `rolled_back` says how often people or monitors went back from
    this very model file. `served` are the vectors that were served online and last compared with the lake.
    """

    candidate: Evaluation
    champion: Evaluation | None
    baseline: float | None
    size_bytes: int
    latency_ms: float
    champion_ahead: timedelta = timedelta(0)
    features_lost: int = 0
    answers_otherwise: bool = False
    rolled_back: int = 0
    served: Compared | None = None


def judge(gate: Gate, kind: TaskKind, measured: Measured) -> tuple[Rule, ...]:
    """Every rule of the gate; the candidate may go live if all have passed. Rules against a champion are left out where there is none."""
    figures = measured.candidate.overall.figures
    gain = kind.gain(gate.metric, figures[gate.metric], measured.baseline)
    return (
        _least(f"gain over baseline ({gate.metric})", gain, gate.min_gain_over_baseline),
        *_against_champion(gate, kind, measured),
        *(
            Rule(name=rule.metric, value=figures[rule.metric], limit=rule.limit, is_minimum=kind.is_minimum(rule.metric))
            for rule in gate.limits
        ),
        _most("size in bytes", measured.size_bytes, gate.max_size_bytes),
        _most("latency of one row in ms (p95, on a free core)", measured.latency_ms, gate.max_latency_ms),
        _most("earlier roll backs from the same model file", measured.rolled_back, 0),
        served_rule(measured.served),
    )


def served_rule(served: Compared | None) -> Rule:
    """That no feature is served otherwise than the lake has it; kept where no vector was compared, which the name of the rule says."""
    if served is None:
        return _most("features served otherwise than the lake has them (no served vectors were compared)", 0, 0)
    shown = f"{served.vectors} vectors at {served.at}" + "".join(f", {name}" for name in served.differing)
    return _most(f"features served otherwise than the lake has them ({shown})", len(served.differing), 0)


def broken(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules that were not kept."""
    return tuple(rule for rule in rules if not rule.passed)


def _against_champion(gate: Gate, kind: TaskKind, measured: Measured) -> Iterator[Rule]:
    if measured.features_lost:
        yield _most("champion's features that are no longer computed", measured.features_lost, 0)
    if measured.answers_otherwise:
        yield _most("champions with another task, other classes or another unit", 1, 0)
    if measured.champion_ahead > timedelta(0):
        # A champion trained later has learned from this hold-out, and a model of an earlier time cannot follow it.
        yield _most("days that the champion was trained later", measured.champion_ahead / DAY, 0)
    if measured.champion is None:
        return
    ours, theirs = measured.candidate.overall.figures, measured.champion.overall.figures
    gain = kind.gain(gate.metric, ours[gate.metric], theirs[gate.metric])
    yield _least(f"gain over champion ({gate.metric})", gain, gate.min_gain_over_champion)
    yield from _slices(gate, kind, measured.candidate, measured.champion)


def _slices(gate: Gate, kind: TaskKind, candidate: Evaluation, champion: Evaluation) -> Iterator[Rule]:
    """One rule for each slice that is large enough and on which the metric exists."""
    for column, values in candidate.slices.items():
        for value, ours in values.items():
            loss = kind.gain(gate.metric, champion.slices[column][value].figures[gate.metric], ours.figures[gate.metric])
            if ours.rows >= gate.min_slice_rows and loss is not None:
                yield _most(f"loss to champion in {column} {value} ({gate.metric})", loss, gate.max_slice_loss)


def _least(name: str, value: float | None, limit: float) -> Rule:
    return Rule(name=name, value=value, limit=limit, is_minimum=True)


def _most(name: str, value: float | None, limit: float) -> Rule:
    return Rule(name=name, value=value, limit=limit, is_minimum=False)
