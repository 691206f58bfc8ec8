"""The rules of models: observations, label, task, split, gate, monitor and canary."""

from collections.abc import Iterator, Mapping

from pipeline_assets.core.columns import ColumnKind, Tables
from pipeline_assets.core.names import OBSERVATION_KNOWN_AT, PREDICTION_COLUMNS, score_of
from pipeline_assets.core.rules.features import KEYS, of_kind, request_problems
from pipeline_assets.core.rules.problems import Place, Problem
from pipeline_assets.spec.models import Canary, Model
from pipeline_assets.spec.monitors import Monitor
from pipeline_assets.spec.tasks import METRICS, Binary, MetricRule, Multiclass, Regression, Task
from pipeline_assets.spec.use_case import UseCase

LABELS: Mapping[type[Task], tuple[ColumnKind, ...]] = {
    Binary: ("boolean",),
    Multiclass: ("string",),
    Regression: ("integer", "number"),
}
OBJECTIVES: Mapping[type[Task], tuple[str, ...]] = {
    Binary: ("binary:logistic",),
    Multiclass: ("multi:softprob",),
    Regression: (
        "reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:squaredlogerror", "reg:gamma", "reg:tweedie", "count:poisson",
    ),
}  # fmt: skip
FEWEST_CLASSES = 2


def problems(use_case: UseCase, tables: Tables) -> Iterator[Problem]:
    """What is wrong with the models of a use case."""
    for model in use_case.models:
        place = Place(declared=model, subject=f"Model '{model.name}'")
        yield from place.names("Model", [model.name])
        yield from place.owner(model.owner)
        yield from place.at_least("early_stopping_rounds", model.early_stopping_rounds, 1)
        yield from _task(place, model)
        yield from _observations(place, model, tables)
        yield from _label(place, model, tables)
        yield from _inputs(place, model)
        yield from _split(place, model)
        yield from _gate(place, model)
        yield from _monitor(place.part("monitor"), model.task, model.monitor)
        yield from _canary(place.part("canary"), model.canary)


def _task(place: Place, model: Model) -> Iterator[Problem]:
    yield from place.one_of("parameters['objective']", model.parameters.get("objective"), {*OBJECTIVES[type(model.task)], None})
    if isinstance(model.task, Multiclass):
        classes = model.task.classes
        if len(set(classes)) < max(FEWEST_CLASSES, len(classes)):
            yield place.problem("task.classes", f"is {classes}", "at least two classes, each once")
        elif len(set(map(score_of, classes))) < len(classes):
            found = f"is {classes}, with the columns {', '.join(map(score_of, classes))}"
            yield place.problem("task.classes", found, "classes that differ in their lower-case letters and digits")


def _observations(place: Place, model: Model, tables: Tables) -> Iterator[Problem]:
    asked = model.observations
    yield from place.not_negative("observations.ahead", asked.ahead)
    yield from place.not_negative("observations.behind", asked.behind)
    if not asked.keys:
        yield place.problem("observations.keys", "is empty", "at least one column")
    for key in {*asked.keys} & {*PREDICTION_COLUMNS, OBSERVATION_KNOWN_AT}:
        yield place.problem("observations.keys", f"has '{key}', which predictions have for themselves", "another column, or another name")
    if asked.table not in tables:
        yield from place.one_of("observations", asked.table, tables)
        return
    columns = tables[asked.table]
    for key in asked.keys:
        yield from of_kind(place, f"observations '{asked.table}'", key, columns, KEYS)
    for key, kinds in _entity_keys(model, tables).items():
        yield from of_kind(place, f"observations '{asked.table}'", key, columns, kinds)
    for time in (asked.decision_at, asked.event_at):
        yield from of_kind(place, f"observations '{asked.table}'", time, columns, ("timestamp",))
    if asked.versions is not None:
        for time in (asked.versions.known_at, asked.versions.superseded_at):
            yield from of_kind(place, f"observations '{asked.table}'", time, columns, ("timestamp",))
        yield from of_kind(place, f"observations '{asked.table}'", asked.versions.version, columns, ("integer",))
    for column in model.slices:
        yield from of_kind(place, "slices", column, columns, ("string", "integer", "boolean"))
    yield from request_problems(model, columns)


def _entity_keys(model: Model, tables: Tables) -> dict[str, tuple[ColumnKind, ...]]:
    """The key columns of the model's views, and the kinds that each may have: that of the events whose keys it is compared with."""
    found: dict[str, tuple[ColumnKind, ...]] = {}
    for view in model.views:
        columns = tables.get(view.source.name, {})
        found |= {key: (columns[key],) if columns.get(key) in KEYS else KEYS for key in view.entity.keys}
    return found


def _label(place: Place, model: Model, tables: Tables) -> Iterator[Problem]:
    label = model.label
    yield from place.not_negative("label.horizon", label.horizon)
    if len(label.keys) != len(model.observations.keys):
        yield place.problem("label.keys", f"has {len(label.keys)} columns", f"one for each key: {', '.join(model.observations.keys)}")
    if label.table not in tables:
        yield from place.one_of("label", label.table, tables)
        return
    columns = tables[label.table]
    asked = tables.get(model.observations.table, {})
    for ours, theirs in zip(model.observations.keys, label.keys, strict=False):
        yield from of_kind(place, "label.keys", theirs, columns, (asked[ours],) if ours in asked else KEYS)
    yield from of_kind(place, "label.column", label.column, columns, LABELS.get(type(model.task), ()))
    yield from of_kind(place, "label.known_at", label.known_at, columns, ("timestamp",))
    if label.superseded_at is not None:
        yield from of_kind(place, "label.superseded_at", label.superseded_at, columns, ("timestamp",))


def _inputs(place: Place, model: Model) -> Iterator[Problem]:
    if not model.views and not model.request_features:
        yield place.problem("views", "is empty", "at least one view or request feature")
    yield from place.names(f"{place.subject}: view", [view.name for view in model.views])


def _split(place: Place, model: Model) -> Iterator[Problem]:
    for field, length in (("train", model.split.train), ("validation", model.split.validation), ("holdout", model.split.holdout)):
        yield from place.positive(f"split.{field}", length)


def _gate(place: Place, model: Model) -> Iterator[Problem]:
    metrics = METRICS.get(type(model.task), {})
    yield from place.one_of("gate.metric", model.gate.metric, metrics)
    yield from _rules(place, "gate.limits", model.task, model.gate.limits)
    yield from place.finite("gate.min_gain_over_baseline", model.gate.min_gain_over_baseline)
    yield from place.finite("gate.min_gain_over_champion", model.gate.min_gain_over_champion)
    yield from place.at_least("gate.max_slice_loss", model.gate.max_slice_loss, 0)
    yield from place.at_least("gate.min_slice_rows", model.gate.min_slice_rows, 1)
    yield from place.at_least("gate.max_size_bytes", model.gate.max_size_bytes, 1)
    yield from place.at_least("gate.max_latency_ms", model.gate.max_latency_ms, 0)


def _monitor(place: Place, task: Task, monitor: Monitor) -> Iterator[Problem]:
    yield from place.between("bins", monitor.bins, 2, 100)
    yield from place.between("max_drifted_share", monitor.max_drifted_share, 0, 1)
    yield from place.at_least("max_psi", monitor.max_psi, 0)
    yield from place.at_least("min_labels", monitor.min_labels, 1)
    yield from place.at_least("report_sample_rows", monitor.report_sample_rows, 1)
    yield from place.between("served", monitor.served.share, 0, 1)
    yield from place.at_least("served", monitor.served.most, 1)
    yield from place.positive("served", monitor.served.kept_for)
    yield from _rules(place, "rules", task, monitor.rules)
    yield from place.positive("cool_down", monitor.cool_down)


def _canary(place: Place, canary: Canary) -> Iterator[Problem]:
    if list(canary.steps) != sorted(set(canary.steps)) or not all(0 < step < 1 for step in canary.steps):
        yield place.problem("steps", f"is {canary.steps}", "shares between 0 and 1, the smallest first, each once")
    yield from place.not_negative("step_time", canary.step_time)
    yield from place.at_least("least_answers", canary.least_answers, 1)
    yield from place.between("most_errors", canary.most_errors, 0, 1)
    yield from place.at_least("most_latency_ratio", canary.most_latency_ratio, 1)
    yield from place.between("most_score_shift", canary.most_score_shift, 0, 1)
    yield from place.between("patience (in seconds)", canary.patience.total_seconds(), 0.001, 0.5)


def _rules(place: Place, field: str, task: Task, rules: tuple[MetricRule, ...]) -> Iterator[Problem]:
    for rule in rules:
        yield from place.one_of(f"{field} names metric", rule.metric, METRICS.get(type(task), {}))
        yield from place.finite(f"{field} limit", rule.limit)
