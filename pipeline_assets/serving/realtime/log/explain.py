"""A prediction explained from what was logged: its version, features with lineage, the events behind them, contributions, and a replay.

Nothing here asks the service or the online store: the log has what was answered and what had been seen, the lake has the rows, the package
has the model.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_assets.core.errors import UnknownName, VersionsNotKept
from pipeline_assets.core.names import DECISION_AT
from pipeline_assets.core.online_errors import PredictionNotLogged
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store.description import describe
from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of_model
from pipeline_assets.model_lifecycle.feature_store.online.position import Position, position_from
from pipeline_assets.model_lifecycle.feature_store.online.recomputed import PENDING, ServedParity, served_parity
from pipeline_assets.model_lifecycle.feature_store.online.replayed import replayed_stream, rows_at_snapshot
from pipeline_assets.model_lifecycle.feature_store.online.served import Sample
from pipeline_assets.model_lifecycle.feature_store.origins import Origin
from pipeline_assets.model_lifecycle.training.contract import ModelFeature
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.processing.cleaning.references import References
from pipeline_assets.processing.features.catalogue import definition_hash, view_hash
from pipeline_assets.serving.realtime.log.find import logged_rows
from pipeline_assets.serving.realtime.package import load_package
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.models import Model

# Fields of the log that are JSON as text.
PARTS = ("keys", "request", "features", "feature_status", "definitions", "positions", "scores", "timings_ms")
ONLINE, EQUAL, DIFFERS = "online", "equal", "differs"
NOT_ONLINE = "its features were not read from the online store"
CALLER, BROUGHT = "caller", "the caller brought the features"
GONE = "the model is declared without it by now"
EVENTS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A feature of a prediction: its value, what it adds to the answer (by class where there are classes), and where it comes from.

    computed_from: the fields of contracts, with the system of each; none where the caller brought the value. description: of the feature.
    """

    name: str
    value: Any
    contribution: float | Mapping[str, float]
    computed_from: tuple[str, ...]
    description: str


@dataclass(frozen=True, kw_only=True)
class Behind:
    """The rows of a view's table that the entity had when it was asked: how many in all, and the newest; of those a window may count some.

    `problem`: why they cannot be shown.
    """

    view: str
    rows: int
    newest: tuple[Mapping[str, Any], ...]
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The prediction made again. features: `equal` where the lake gives each the same bits, `differs`, or why it was not computed again.

    score: whether the packaged model gives the same bits for the features that were logged. differing: features, served and from the lake.
    """

    features: str
    is_score_equal: bool
    differing: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """All that is known of a prediction. prediction: as it was logged. features: the largest contribution first; with bias they add up.

    Contributions are SHAP values in the margin of the objective: log-odds of yes or no, the value itself of a regression.
    """

    prediction: Mapping[str, Any]
    features: tuple[Explained, ...]
    bias: float | Mapping[str, float]
    behind: tuple[Behind, ...]
    replay: Replay


def explain_prediction(
    settings: Settings, lineage: ProjectLineage, references: References, feeds: Sequence[Feed], prediction_id: str
) -> Explanation:
    """The explanation of a prediction by its id; of an id that was logged twice, of what was logged last.

    Raises PredictionNotLogged, UnknownName for a model or a version that is no more, PackageCorrupt.
    """
    found, project = read_prediction(settings, prediction_id), lineage.project
    model = project.model(found["model"])
    _, scorer, _ = load_package(settings, model, found["model_version"])
    row = _features_of(scorer.contract.features, found["features"])
    (why,) = scorer.contributions(row)
    own, is_brought = feeds_of_model(tuple(feeds), model), found["tier"] == CALLER
    described = {one.feature.name: one for view in _views_of(model) for one in describe(lineage, references, view)}
    features = [
        Explained(
            name=one.name,
            value=found["features"].get(one.name),
            contribution=why.values[one.name],
            computed_from=_origins(described[one.name].computed_from) if one.name in described and not is_brought else (),
            description=described[one.name].feature.description if one.name in described else GONE,
        )
        for one in scorer.contract.features
    ]
    return Explanation(
        prediction=found,
        features=tuple(sorted(features, key=lambda one: _weight(one.contribution), reverse=True)),
        bias=why.bias,
        behind=() if is_brought else tuple(_behind(settings, model, own, found)),
        replay=_replay(settings, project, model, own, found, is_score_equal=_score(scorer, row) == list(found["scores"].values())),
    )


def read_prediction(settings: Settings, prediction_id: str) -> dict[str, Any]:
    """A prediction as it was logged, what is JSON as values; raises PredictionNotLogged."""
    rows = logged_rows(settings, prediction_id)
    if not rows:
        raise PredictionNotLogged(prediction_id)
    newest = max(rows, key=lambda row: row["logged_at"])
    return {name: json.loads(value) if name in PARTS else value for name, value in newest.items()}


def _views_of(model: Model) -> list[str]:
    request = ["request"] if model.request_features else []
    return [*(view.name for view in model.views), *request]


def _features_of(features: Sequence[ModelFeature], values: Mapping[str, Any]) -> pa.Table:
    """The features that were logged as a row that the model takes."""
    return pa.table({one.name: _column(one, values.get(one.name)) for one in features})


def _column(feature: ModelFeature, value: Any) -> pa.Array:
    """A value as a column; whole numbers as others, since who brings features may bring others."""
    return pa.array([value], pa.string()) if feature.type == "text" else pa.array([None if value is None else float(value)], pa.float64())


def _score(scorer: Scorer, row: pa.Table) -> list[float]:
    found: list[float] = np.ravel(scorer.score(row)).tolist()
    return found


def _weight(contribution: float | Mapping[str, float]) -> float:
    return max(map(abs, contribution.values())) if isinstance(contribution, Mapping) else abs(contribution)


def _origins(columns: Sequence[Origin]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(leaf for origin in columns for leaf in _leaves(origin)))


def _leaves(origin: Origin) -> Iterator[str]:
    """The ends of the ways of a column, the fields of contracts with their systems."""
    if not origin.computed_from:
        yield origin.column if origin.source is None else f"{origin.column} ({origin.source})"
    for one in origin.computed_from:
        yield from _leaves(one)


def _behind(settings: Settings, model: Model, feeds: Sequence[Feed], found: Mapping[str, Any]) -> Iterator[Behind]:
    """Of each view of a model the rows of its entity, as its feed had seen them."""
    positions = {one["feed"]: position_from(one) for one in found["positions"]}
    for feed in feeds:
        views = [view for view in feed.views if view in model.views]
        position = positions.get(feed.name)
        if position is None or position.hash != feed.hash:
            problem = "the view is declared otherwise by now" if position is not None else "nothing was read of it"
            yield from (Behind(view=view.name, rows=0, newest=(), problem=problem) for view in views)
            continue
        try:
            rows = _rows(settings, feed, position, found)
        except (UnknownName, VersionsNotKept):
            yield from (Behind(view=view.name, rows=0, newest=(), problem="its rows are no longer kept") for view in views)
            continue
        yield from (_of_entity(view, rows, found) for view in views)


def _rows(settings: Settings, feed: Feed, position: Position, found: Mapping[str, Any]) -> pa.Table:
    decided = found[DECISION_AT], found[DECISION_AT]
    if feed.stream is None:
        return rows_at_snapshot(settings, feed, decided, position.snapshot_id or 0)
    with replayed_stream(settings, feed, decided, position.snapshot_id) as stream:
        return stream.rows(position.offsets)


def _of_entity(view: FeatureView, rows: pa.Table, found: Mapping[str, Any]) -> Behind:
    """The rows of the entity that counted when it was asked: known by then, and not superseded."""
    source, at = view.source, pa.scalar(found[DECISION_AT], pa.timestamp("us", "UTC"))
    is_own = pc.and_(pc.less_equal(rows[source.known_at], at), pc.less_equal(rows[source.event_at], at))
    if source.superseded_at is not None:
        ended = rows[source.superseded_at]
        is_own = pc.and_(is_own, pc.or_kleene(pc.is_null(ended), pc.greater(ended, at)))
    for key in view.entity.keys:
        value = found["keys"].get(key)
        is_own = pc.and_(is_own, pc.equal(rows[key].cast(pa.string()), pa.scalar(None if value is None else str(value), pa.string())))
    own = rows.filter(pc.fill_null(is_own, False)).sort_by([(source.event_at, "descending")])
    return Behind(view=view.name, rows=own.num_rows, newest=tuple(own.slice(0, EVENTS_SHOWN).to_pylist()))


def _replay(
    settings: Settings, project: Project, model: Model, feeds: Sequence[Feed], found: Mapping[str, Any], *, is_score_equal: bool
) -> Replay:
    if found["tier"] != ONLINE:
        return Replay(features=BROUGHT if found["tier"] == CALLER else NOT_ONLINE, is_score_equal=is_score_equal, differing={})
    parity = served_parity(settings, project, feeds, model, [_sample(model, found)])
    differing = {one.feature: (one.served, one.recomputed) for one in parity.examples}
    return Replay(features=_state(parity), is_score_equal=is_score_equal, differing=differing)


def _state(parity: ServedParity) -> str:
    if parity.checked:
        return EQUAL if parity.is_equal else DIFFERS
    return f"{PENDING}: the lake has not typed all records that had been seen" if parity.pending else next(iter(parity.unclear))


def _sample(model: Model, found: Mapping[str, Any]) -> Sample:
    """The prediction as a vector that was served."""
    declared = {view.name: view_hash(view) for view in model.views}
    return Sample(
        id=0,
        definition=definition_hash(model) if found["definitions"] == declared else "another",
        positions=tuple(map(position_from, found["positions"])),
        asked={**found["keys"], **found["request"], DECISION_AT: found[DECISION_AT].isoformat()},
        features=found["features"],
    )
