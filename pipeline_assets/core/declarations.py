"""Loads a use case and holds its declarations against the rules, so that a malformed one fails at load and not at three in the morning.

The columns of cleaned tables are those of the YAML files beside the dbt models: they are written there and nowhere else.
"""

import importlib
import json
import pkgutil
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import get_args
from zoneinfo import available_timezones

import yaml

from pipeline_assets.core.errors import SpecError, UnknownName
from pipeline_assets.core.names import landed
from pipeline_assets.core.settings import read_code_settings
from pipeline_assets.spec.contracts import FIELD_TYPES, Contract, Field
from pipeline_assets.spec.features import AGGREGATES, TRANSFORMS, FeatureView, Latest, Windowed
from pipeline_assets.spec.sources import Avro, CloudEvent, CsvLine, DebeziumChange, EventStream, Load, PostgresTable, Source
from pipeline_assets.spec.use_case import UseCase

USE_CASES = "pipeline_assets.use_cases"
NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
NAME_RULE = "a lower-case name of letters, digits and underscores, at most 48 long"
# What CloudEvents lets an attribute be called.
ATTRIBUTE = re.compile(r"[a-z0-9]+")
POSITIVE = "a positive length of time"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with one field of one declared object, and what would be right."""

    module: str
    subject: str
    field: str
    problem: str
    expected: str


def use_case_names() -> tuple[str, ...]:
    """The use cases that are declared, by name."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(USE_CASES).__path__)))


def load_use_case(name: str) -> UseCase:
    """The checked declarations of `pipeline_assets/use_cases/<name>`.

    Raises UnknownName if there is no such use case, and SpecError for the first declaration that breaks a rule.
    """
    folder = f"pipeline_assets/use_cases/{name}"
    known = use_case_names()
    if name not in known:
        raise UnknownName("use case", name, known)
    try:
        use_case: UseCase = importlib.import_module(f"{USE_CASES}.{name}").use_case
    except (TypeError, AttributeError) as error:
        expected = "the fields of the class in pipeline_assets/spec"
        raise SpecError(use_case=name, file=folder, subject="A declaration", field="", problem=str(error), expected=expected) from error
    check(use_case, read_code_settings().dbt_project)
    return use_case


def check(use_case: UseCase, dbt_project: Path) -> None:
    """Holds all declarations of `use_case` against the rules; raises SpecError for the first that breaks one."""
    for found in _Rules(use_case, dbt_project).problems():
        file = f"pipeline_assets/use_cases/{use_case.name}/{found.module}.py"
        raise SpecError(
            use_case=use_case.name, file=file, subject=found.subject, field=found.field, problem=found.problem, expected=found.expected
        )


def _list(values: Collection[str | None]) -> str:
    return ", ".join(sorted(value for value in values if value is not None)) or "none"


def _unknown(module: str, subject: str, field: str, value: object, allowed: Collection[str | None]) -> Iterator[Problem]:
    if value not in allowed:
        yield Problem(module=module, subject=subject, field=field, problem=f"is {value!r}", expected=f"one of {_list(allowed)}")


def _outside(module: str, subject: str, field: str, value: float, low: float, high: float) -> Iterator[Problem]:
    if not low <= value <= high:
        yield Problem(module=module, subject=subject, field=field, problem=f"is {value}", expected=f"a number from {low} to {high}")


def _not_positive(module: str, subject: str, field: str, value: timedelta) -> Iterator[Problem]:
    if value <= timedelta(0):
        yield Problem(module=module, subject=subject, field=field, problem=f"is {value}", expected=POSITIVE)


def _names(module: str, kind: str, names: Collection[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for name in names:
        if not NAME.fullmatch(name):
            yield Problem(module=module, subject=f"{kind} '{name}'", field="name", problem=f"is {name!r}", expected=NAME_RULE)
        if name in seen:
            yield Problem(module=module, subject=f"{kind} '{name}'", field="name", problem="is declared twice", expected="one of each name")
        seen.add(name)


def _is_record_schema(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("type") == "record"


class _Rules:
    """The rules of declarations, one method an object."""

    def __init__(self, use_case: UseCase, dbt_project: Path) -> None:
        self._use_case = use_case
        self._cleaned = dbt_project / "models" / use_case.name / "cleaned"

    @cached_property
    def _columns(self) -> dict[str, tuple[str, ...]]:
        """Columns of each cleaned table, as its YAML file lists them."""
        listed = [yaml.safe_load(file.read_text()) for file in sorted(self._cleaned.glob("*.yml"))]
        return {model["name"]: tuple(column["name"] for column in model["columns"]) for one in listed for model in one.get("models", ())}

    def problems(self) -> Iterator[Problem]:
        """Everything that breaks a rule, in the order of the diagram."""
        contracts = [source.contract for source in self._use_case.sources] + [stream.contract for stream in self._use_case.streams]
        yield from _names("sources", "Contract", [contract.name for contract in contracts])
        for contract in contracts:
            yield from self._contract(contract)
        for source in self._use_case.sources:
            yield from self._source(source)
        for stream in self._use_case.streams:
            yield from self._stream(stream)
        yield from _names("entities", "Entity", [entity.name for entity in self._use_case.entities])
        yield from _names("features", "View", [view.name for view in self._use_case.views])
        for view in self._use_case.views:
            yield from self._view(view)
        yield from self._model()
        yield from self._monitor()

    def _source(self, source: Source) -> Iterator[Problem]:
        subject = f"Source '{source.contract.name}'"
        yield from _unknown("sources", subject, "load", source.load, get_args(Load))
        if source.load == "changes" and not isinstance(source.origin, PostgresTable):
            yield Problem(module="sources", subject=subject, field="load", problem="is 'changes'", expected="a Postgres table as origin")

    def _contract(self, contract: Contract) -> Iterator[Problem]:
        subject = f"Contract '{contract.name}'"
        fields = {field.name: field for field in contract.fields}
        yield from _names("sources", f"{subject}: field", [field.name for field in contract.fields])
        for field in contract.fields:
            yield from self._field(subject, field)
        for key in contract.primary_key:
            yield from _unknown("sources", subject, "primary_key", key, fields)
        instants = [name for name, field in fields.items() if field.type == "timestamp" and field.required]
        yield from _unknown("sources", subject, "event_at", contract.event_at, instants)
        yield from _unknown("sources", subject, "known_at", contract.known_at, instants)
        yield from _outside("sources", subject, "broken_share", contract.broken_share, 0, 1)
        yield from _not_positive("sources", subject, "freshness", contract.freshness)

    def _field(self, contract: str, field: Field) -> Iterator[Problem]:
        subject = f"{contract}: field '{field.name}'"
        yield from _unknown("sources", subject, "type", field.type, FIELD_TYPES)
        has_range = field.minimum is not None or field.maximum is not None
        if has_range and field.type not in {"integer", "number"}:
            yield Problem(
                module="sources", subject=subject, field="minimum", problem="is set", expected="a range on an integer or a number"
            )
        if field.minimum is not None and field.maximum is not None and field.minimum > field.maximum:
            yield Problem(module="sources", subject=subject, field="minimum", problem="exceeds maximum", expected="minimum <= maximum")
        if (field.allowed or field.max_length is not None) and field.type != "string":
            yield Problem(module="sources", subject=subject, field="allowed", problem="is set", expected="a list of values on a string")

    def _stream(self, stream: EventStream) -> Iterator[Problem]:
        subject = f"Stream '{stream.contract.name}'"
        history: Source = stream.history
        yield from _unknown(
            "sources", subject, "history", history.contract.name, [source.contract.name for source in self._use_case.sources]
        )
        have = {field.name: field.type for field in history.contract.fields}
        yield from _unknown("sources", subject, "history_field", stream.history_field, have)
        for field in stream.contract.fields:
            yield from _unknown("sources", subject, f"field '{field.name}'", field.name, have)
        yield from self._format(subject, stream)
        yield from self._route(subject, stream)

    def _format(self, subject: str, stream: EventStream) -> Iterator[Problem]:
        fields, written = {field.name for field in stream.contract.fields}, stream.format
        if isinstance(written, CsvLine):
            yield from _names("sources", f"{subject}: column", written.columns)
            for name in sorted(fields - ({stream.contract.known_at} if stream.known_at_record_time else set())):
                yield from _unknown("sources", subject, f"format.columns lacks field '{name}', which", name, written.columns)
            if len(written.delimiter) != 1:
                yield Problem(
                    module="sources", subject=subject, field="delimiter", problem=f"is {written.delimiter!r}", expected="one character"
                )
        if isinstance(written, Avro) and not _is_record_schema(written.schema):
            yield Problem(
                module="sources", subject=subject, field="format.schema", problem="is no Avro record", expected="a schema as JSON"
            )
        if isinstance(written, Avro) and written.registry is not None and not written.is_framed:
            yield Problem(
                module="sources", subject=subject, field="format.registry", problem="is set", expected="framed records (is_framed=True)"
            )
        if isinstance(written, CloudEvent):
            yield from self._cloud_event(subject, stream, written)
        if isinstance(written, DebeziumChange):
            for told in (written.operation, written.lsn, written.committed_at):
                yield from _unknown("sources", subject, "format", told, {*fields, None})

    def _cloud_event(self, subject: str, stream: EventStream, written: CloudEvent) -> Iterator[Problem]:
        for _, name in written.attributes:
            yield from _unknown("sources", subject, "format.attributes", name, [field.name for field in stream.contract.fields])
        routed = () if stream.route is None else (stream.route.field,)
        for attribute in (*(attribute for attribute, _ in written.attributes), *routed):
            if written.is_binary and not ATTRIBUTE.fullmatch(attribute):
                expected = "small letters and digits, as CloudEvents names attributes"
                yield Problem(module="sources", subject=subject, field="format.attributes", problem=f"has '{attribute}'", expected=expected)

    def _route(self, subject: str, stream: EventStream) -> Iterator[Problem]:
        others = [one for one in self._use_case.streams if one is not stream]
        beside = [one for one in others if one.topic == stream.topic]
        table = landed(stream.topic)
        if any(landed(one.topic) == table and one.topic != stream.topic for one in others):
            expected = "topics that differ in more than case and signs"
            yield Problem(module="sources", subject=subject, field="topic", problem="lands where another topic does", expected=expected)
        routes = {(None if one.route is None else one.route.field, repr(one.format)) for one in (stream, *beside)}
        values = [one.route.value for one in (stream, *beside) if one.route is not None]
        if beside and (len(routes) > 1 or len(set(values)) < len(beside) + 1):
            expected = "streams of one topic with the same format, routed by the same field, each with a value of its own"
            yield Problem(module="sources", subject=subject, field="route", problem=f"shares topic '{stream.topic}'", expected=expected)

    def _view(self, view: FeatureView) -> Iterator[Problem]:
        subject = f"View '{view.name}'"
        yield from _unknown("features", subject, "entity", view.entity.name, [entity.name for entity in self._use_case.entities])
        yield from _unknown("features", subject, "source", view.source.name, self._columns)
        columns = self._columns.get(view.source.name, ())
        for column in (*view.entity.keys, view.source.event_at, view.source.known_at, *view.source.order_by):
            yield from _unknown("features", subject, f"source '{view.source.name}'", column, columns)
        yield from _names("features", f"{subject}: feature", [feature.name for feature in view.features])
        yield from _not_positive("features", subject, "freshness", view.freshness)
        for feature in view.features:
            place = f"{subject}: feature '{feature.name}'"
            if isinstance(feature, Windowed):
                yield from self._windowed(place, feature, columns)
            else:
                yield from self._latest(place, feature, columns)

    def _windowed(self, subject: str, feature: Windowed, columns: tuple[str, ...]) -> Iterator[Problem]:
        yield from _unknown("features", subject, "aggregate", feature.aggregate, AGGREGATES)
        if feature.column is not None:
            yield from _unknown("features", subject, "column", feature.column, columns)
        elif feature.aggregate not in {"count", "time_since_last"}:
            yield Problem(module="features", subject=subject, field="column", problem="is missing", expected=f"one of {_list(columns)}")
        if not feature.windows:
            yield Problem(module="features", subject=subject, field="windows", problem="is empty", expected="at least one length of time")
        for window in feature.windows:
            if window <= timedelta(0) or window % timedelta(minutes=1):
                yield Problem(module="features", subject=subject, field="windows", problem=f"holds {window}", expected="whole minutes")
        if feature.hop is not None:
            yield from _not_positive("features", subject, "hop", feature.hop)

    def _latest(self, subject: str, feature: Latest, columns: tuple[str, ...]) -> Iterator[Problem]:
        yield from _unknown("features", subject, "column", feature.column, columns)
        if feature.ttl is not None:
            yield from _not_positive("features", subject, "ttl", feature.ttl)

    def _model(self) -> Iterator[Problem]:
        model = self._use_case.model
        subject = f"Model '{model.name}'"
        yield from _names("model", "Model", [model.name])
        for view in model.views:
            yield from _unknown("model", subject, "views", view.name, [known.name for known in self._use_case.views])
        yield from _unknown("model", subject, "observations", model.observations.table, self._columns)
        yield from _unknown("model", subject, "label", model.label.table, self._columns)
        asked = self._columns.get(model.observations.table, ())
        for column in (model.observations.key, model.observations.decision_at, *model.slices):
            yield from _unknown("model", subject, "observations", column, asked)
        for column in (model.label.key, model.label.column, model.label.known_at):
            yield from _unknown("model", subject, "label", column, self._columns.get(model.label.table, ()))
        for field, length in (("train", model.split.train), ("validation", model.split.validation), ("holdout", model.split.holdout)):
            yield from _not_positive("model", subject, f"split.{field}", length)
        yield from self._request_features()

    def _request_features(self) -> Iterator[Problem]:
        model = self._use_case.model
        asked = self._columns.get(model.observations.table, ())
        yield from _names("features", "Request feature", [feature.name for feature in model.request_features])
        for feature in model.request_features:
            subject = f"Request feature '{feature.name}'"
            yield from _unknown("features", subject, "column", feature.column, asked)
            yield from _unknown("features", subject, "transform", feature.transform, TRANSFORMS)
            if feature.time_zone not in available_timezones():
                expected = "an IANA time zone such as America/New_York"
                yield Problem(module="features", subject=subject, field="time_zone", problem=f"is {feature.time_zone!r}", expected=expected)

    def _monitor(self) -> Iterator[Problem]:
        monitor = self._use_case.monitor
        subject = f"Monitor of '{monitor.model.name}'"
        yield from _unknown("monitors", subject, "model", monitor.model.name, [self._use_case.model.name])
        yield from _outside("monitors", subject, "bins", monitor.bins, 2, 100)
        yield from _outside("monitors", subject, "max_drifted_share", monitor.max_drifted_share, 0, 1)
        yield from _outside("monitors", subject, "min_roc_auc", monitor.min_roc_auc, 0, 1)
        yield from _not_positive("monitors", subject, "cool_down", monitor.cool_down)
