"""What is predicted, from what, and when a candidate is good enough to go live."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from pipeline_assets.spec.features import FeatureView, RequestFeature
from pipeline_assets.spec.monitors import Monitor
from pipeline_assets.spec.tasks import MetricRule, Task


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The columns by which versions of a row are told apart, as the macro `versions_of` of the dbt project names them.

    `superseded_at` is null for the version that counts now, `version` numbers those of a key from 1.
    """

    known_at: str = "known_at"
    superseded_at: str = "superseded_at"
    version: str = "version"


@dataclass(frozen=True, kw_only=True)
class Observations:
    """The cleaned table of decisions: one row per `keys` (text or integers), decided at `decision_at`.

    With `versions` the table holds all versions of its rows, and a decision is that of the version which counted when it was made: known
    by then and not superseded yet, or the first of its key, if that was known only later. A row that moves after its decision is decided
    again at its new time.

    The table is kept by the day of `event_at`, what the decision is about; the decision may come up to `ahead` before it, up to `behind`
    after it, or at it (both zero). Vectors and scores are kept by the UTC day of `decision_at`.
    """

    table: str
    keys: tuple[str, ...]
    decision_at: str
    event_at: str
    ahead: timedelta = timedelta(0)
    behind: timedelta = timedelta(0)
    versions: Versions | None = None


@dataclass(frozen=True, kw_only=True)
class Label:
    """The outcome that is predicted, in a cleaned table because it is known later than the decision.

    `keys` name the columns that hold the keys of the observations, in their order. `known_at` is when the outcome was known. Before
    decision_at + `horizon` a label counts as unknown whatever it is, so that outcomes which are known early do not outweigh the others:
    "refunded within 14 days" has a horizon of 14 days. Without one a label counts from `known_at` on, and until `superseded_at`, where
    the table holds all versions of its rows: one that was corrected since counts as it was known when training was asked for.
    """

    table: str
    keys: tuple[str, ...]
    column: str
    known_at: str
    horizon: timedelta = timedelta(0)
    superseded_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class Split:
    """Time-blocked: train on `train`, stop early on `validation`, judge on `holdout`, in this order, ending where labels have matured."""

    train: timedelta
    validation: timedelta
    holdout: timedelta


@dataclass(frozen=True, kw_only=True)
class Gate:
    """When a candidate may go live; each rule is judged on the same hold-out as its rivals.

    Gains are differences of `metric`, positive where the candidate is better, whichever direction is better for that metric:
    `min_gain_over_baseline`, and `min_gain_over_champion` (which may be negative: how much worse is still allowed). `limits` bound single
    metrics of the candidate. `max_slice_loss` is how much worse than the champion a slice of at least `min_slice_rows` may be in `metric`;
    `max_latency_ms` is the 95th percentile of scoring one row.
    """

    metric: str
    min_gain_over_baseline: float
    min_gain_over_champion: float
    limits: tuple[MetricRule, ...]
    max_slice_loss: float
    min_slice_rows: int
    max_size_bytes: int
    max_latency_ms: float


@dataclass(frozen=True, kw_only=True)
class Canary:
    """The steps of a canary, and the margins beyond which it returns.

    It answers the shares of entities in `steps`, one after the other, and then is live. A step takes `step_time` at least, and
    `least_answers` of it in one process of the service, all within the margins; without steps it keeps its share until a person decides.
    It returns once it is beyond doubt that, of calls for the same questions as the live version gets,
    - more than `most_errors` fail, or take longer than `patience`, after which the live version's answer is given;
    - the 95th percentile of their time is more than `most_latency_ratio` times that of the live version;
    - the distribution of its scores is further than `most_score_shift` from that of the live version, by Levy's distance (0 to 1): but
      for this share of the questions, scores have moved by no more than this; of classes that of the class where it is largest, of
      numbers in parts of the range that the live version's golden rows have.
    """

    steps: tuple[float, ...] = (0.01, 0.05, 0.25)
    step_time: timedelta = timedelta(hours=1)
    least_answers: int = 1_000
    most_errors: float = 0.01
    most_latency_ratio: float = 2.0
    most_score_shift: float = 0.1
    patience: timedelta = timedelta(milliseconds=100)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of a use case.

    Its features are all features of `views`, then `request_features`. The baseline that it has to beat uses the `request_features` alone,
    or where there are none the constant that fits the training block best. `slices` are columns of the observations by which quality is
    also reported. `parameters` are XGBoost's own, in addition to the objective and the evaluation metric of the task. `canary` says how a
    version is tried on live requests.
    """

    name: str
    question: str
    owner: str
    task: Task
    observations: Observations
    label: Label
    views: tuple[FeatureView, ...]
    request_features: tuple[RequestFeature, ...]
    slices: tuple[str, ...]
    split: Split
    parameters: Mapping[str, float | int | str]
    max_rounds: int
    early_stopping_rounds: int
    gate: Gate
    monitor: Monitor
    canary: Canary = Canary()
