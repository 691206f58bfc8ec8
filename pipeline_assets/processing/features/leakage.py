"""What would leak: declarations by which a decision is given what was known only after it, or what depends on the time of the run.

Windows count what was known at the decision, however near it is to the label: late departures of before are a feature of the next one.
That rests on what is checked here, with the lineage of dbt's columns:

- `known_at` of what a view, a label or observations with versions read comes from the `known_at` of each contract whose values they read,
  and is not put earlier on the way;
- no fact of a request, key or time of a decision is the label, or is computed from what the label of the same row is computed from;
- what dbt joins to observations from other contracts is joined as it was known (`was_known_at`);
- no table takes the time of the wall clock.

Windows and times to live that look ahead are refused by the rules of features.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from pipeline_assets.core import names
from pipeline_assets.core.declarations import file_of
from pipeline_assets.core.names import AssetName
from pipeline_assets.core.problems import DeclarationProblem
from pipeline_assets.core.project import Project
from pipeline_assets.processing.cleaning.lineage import ColumnOrigin, DbtLineage, SourceColumn, reached
from pipeline_assets.processing.cleaning.raw_schema import LOADED_AT
from pipeline_assets.processing.cleaning.references import References
from pipeline_assets.spec.contracts import Contract
from pipeline_assets.spec.features import FeatureView
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.use_case import UseCase

# What makes a time of a time that may be an earlier one, in the SQL of a column's expression.
EARLIER = re.compile(r" - |\b(LEAST|MIN|DATE_TRUNC|DATE_BIN|FIRST_VALUE|LAG)\(|AS DATE\)", re.IGNORECASE)
# An outcome that is certain once so much time has passed: known at the end of that time, or when it became known before.
DEADLINE = re.compile(r"\bLEAST\([^()]*\+ INTERVAL\b[^()]*\)", re.IGNORECASE)
TEXTS = re.compile(r"'[^']*'")
LATER = "the time at which the row was known itself, or the greatest of it and others"
OF_DECISION = "a column that is known at the decision; what was known of it by then is a feature of a view, such as Latest"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What reads columns of a cleaned table: a view, a label, or observations."""

    use_case: UseCase
    declared: object
    subject: str
    field: str
    table: AssetName
    values: tuple[str, ...]
    known_at: str | None

    def problem(self, problem: str, expected: str, field: str | None = None) -> DeclarationProblem:
        """A problem of the declaration that reads."""
        return DeclarationProblem(
            use_case=self.use_case.name,
            file=file_of(self.declared),
            subject=self.subject,
            field=self.field if field is None else field,
            problem=problem,
            expected=expected,
        )


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """The declarations of a project beside the lineage of its dbt models. What no model builds, or sqlglot cannot read, is not judged."""

    project: Project
    dbt: DbtLineage
    references: References

    def problems(self) -> Iterator[DeclarationProblem]:
        """Everything that leaks."""
        for reading in self._readings:
            yield from self._known_later(reading)
            yield from self._loaded(reading)
        for use_case in self.project.use_cases:
            for model in use_case.models:
                yield from self._of_label(use_case, model)
                yield from self._joined(use_case, model)
        yield from self._clocks()

    @cached_property
    def _readings(self) -> tuple[Reading, ...]:
        views = (_of_view(self.project.home_of_view(view), view) for view in self.project.views)
        models = ((use_case, model) for use_case in self.project.use_cases for model in use_case.models)
        return (*views, *(reading for use_case, model in models for reading in _of_model(use_case, model)))

    def _known_later(self, reading: Reading) -> Iterator[DeclarationProblem]:
        """A value that counts before its contract says that it could be known."""
        if reading.known_at is None:
            return
        known = self.dbt.behind([(reading.table, reading.known_at)]).computed
        earlier = self._earlier((reading.table, reading.known_at))
        field = f"{reading.field}.known_at"
        if earlier is not None:
            yield reading.problem(f"is '{reading.known_at}', which is {earlier}: that may be earlier than the row was known", LATER, field)
        of_deadlines = {raw for raw, _ in known} if self._has_deadline((reading.table, reading.known_at)) else set[AssetName]()
        for contract in self._contracts(reading.table, reading.values):
            is_known = _known_at(contract) in known or names.raw(contract.name) in of_deadlines
            if not is_known and not self._is_joined_as_known(reading.table, contract):
                problem = f"is '{reading.known_at}', which is not {contract.known_at} of {contract.name}, when its values were known"
                yield reading.problem(problem, self._better(reading.table, contract), field)

    def _loaded(self, reading: Reading) -> Iterator[DeclarationProblem]:
        """A value that is the time of the wall clock at which its row was copied."""
        for column in (*reading.values, *((reading.known_at,) if reading.known_at is not None else ())):
            copied = [raw for raw in self.dbt.behind([(reading.table, column)]).computed if raw[1] == LOADED_AT]
            for (_, contract), _ in copied[:1]:
                problem = f"reads '{column}', which comes from {LOADED_AT} of {contract}, the wall-clock time of a copy"
                yield reading.problem(problem, "times of the rows themselves")

    def _of_label(self, use_case: UseCase, model: Model) -> Iterator[DeclarationProblem]:
        """Columns of the observations that are the label, or come from what the label of the same row comes from."""
        asked, label = names.cleaned(model.observations.table), (names.cleaned(model.label.table), model.label.column)
        revealing = self._revealing(model)
        for subject, field, column in _asked_columns(model):
            place = _place(use_case, model, subject, field)
            if (asked, column) == label:
                yield place.problem(f"is '{column}', the label", OF_DECISION)
                continue
            shared = sorted(self.dbt.behind([(asked, column)]).same_row & revealing)
            if shared:
                (_, contract), name = shared[0]
                problem = f"is '{column}', which is computed from {contract}.{name}, as the label '{model.label.column}' of the same row is"
                yield place.problem(problem, OF_DECISION)

    def _revealing(self, model: Model) -> frozenset[SourceColumn]:
        """The columns of raw tables that say what the label is: those that it is computed from in its row, less what decisions rest on.

        Where some come from other contracts than the keys of the decisions, only those do: the others are known with the decision.
        """
        asked, table = model.observations, names.cleaned(model.observations.table)
        behind = self.dbt.behind([(names.cleaned(model.label.table), model.label.column)]).same_row
        own = self._own(model)
        others = {column for column in behind if column[0] not in own}
        found = others or behind - self.dbt.behind([(table, column) for column in (*asked.keys, asked.event_at)]).computed
        contracts = {names.raw(contract.name): contract for contract, _ in self.project.lake_contracts}
        return frozenset(one for one in found if one[0] in contracts and not self._is_joined_as_known(table, contracts[one[0]]))

    def _joined(self, use_case: UseCase, model: Model) -> Iterator[DeclarationProblem]:
        """Columns of the observations that dbt joins from another contract, whenever it was known."""
        asked, table, own = model.observations, names.cleaned(model.observations.table), self._own(model)
        versions = () if asked.versions is None else ((table, asked.versions.known_at),)
        known, revealing = self.dbt.behind(versions).computed, self._revealing(model)
        for subject, field, column in _asked_columns(model):
            is_judged = column == asked.decision_at or self.dbt.behind([(table, column)]).same_row & revealing
            for contract in () if is_judged else self._contracts(table, [column]):
                is_own = names.raw(contract.name) in own or _known_at(contract) in known
                if not is_own and not self._is_joined_as_known(table, contract):
                    problem = f"is '{column}', which dbt joins from {contract.name} whether or not it was known at the decision"
                    yield _place(use_case, model, subject, field).problem(problem, self._better(table, contract))

    def _clocks(self) -> Iterator[DeclarationProblem]:
        """Each dbt model that takes the time of the wall clock, with the first declaration that reads it."""
        found: dict[AssetName, Reading] = {}
        for reading in self._readings:
            for table in self.dbt.tables_below(reading.table):
                if self.dbt.models[table].clocks:
                    found.setdefault(table, reading)
        for table, reading in found.items():
            model = self.dbt.models[table]
            reader = f"{reading.subject}, {reading.field}"
            problem = f"takes the time of the wall clock ({', '.join(model.clocks)}), and is read for {reader}"
            expected = "times of the rows themselves: what was known at a decision must be the same whenever it is computed"
            place = DeclarationProblem(
                use_case=reading.use_case.name, file=f"dbt_project/{model.file}", subject=f"Model '{table[1]}' of dbt", field="",
                problem=problem, expected=expected,
            )  # fmt: skip
            yield place

    def _own(self, model: Model) -> frozenset[AssetName]:
        """The raw tables that keys and time of the decisions come from: what stands in the same row is known with the decision.

        A key that joins has the value of each side; the times say which side the decision is of.
        """
        asked, table = model.observations, names.cleaned(model.observations.table)
        keys = {raw for raw, _ in self.dbt.behind([(table, key) for key in asked.keys]).same_row}
        times = {raw for raw, _ in self.dbt.behind([(table, asked.decision_at), (table, asked.event_at)]).same_row}
        return frozenset(keys & times or keys)

    def _contracts(self, table: AssetName, columns: Iterable[str]) -> list[Contract]:
        """The contracts that columns of a table come from."""
        raw = {found for found, _ in self.dbt.behind([(table, column) for column in columns]).computed}
        return [contract for contract, _ in self.project.lake_contracts if names.raw(contract.name) in raw]

    def _is_joined_as_known(self, table: AssetName, contract: Contract) -> bool:
        """Whether a model below a table joins the rows of a contract by when they were known, or ones that are declared to be of now."""
        below = self.dbt.tables_below(table)
        joins = (one for one in below if len({raw for raw, _ in self._below(one)}) > 1)
        deciding = (column for one in joins for column in self.dbt.models[one].decided_by)
        if any(_known_at(contract) in self.dbt.behind([column]).same_row for column in deciding):
            return True
        of_now = {one.table for one in self.references.current_only_below(table[1])} - {table}
        return any(names.raw(contract.name) in {raw for raw, _ in self._below(one)} for one in of_now)

    def _below(self, table: AssetName) -> frozenset[SourceColumn]:
        return self.dbt.behind((table, column) for column in self.dbt.models[table].columns).computed

    def _earlier(self, column: SourceColumn) -> str | None:
        """The expression on the way of a time that may make it an earlier one: by itself, or as it takes another time in some rows."""
        for one in reached([column], self.dbt.parents):
            origin = self.dbt.origin(one) or ColumnOrigin()
            plain = TEXTS.sub("''", origin.expression)
            is_another = DEADLINE.search(plain) is None and self._takes_another(origin)
            if EARLIER.search(DEADLINE.sub("", plain)) or is_another:
                return origin.expression
        return None

    def _has_deadline(self, column: SourceColumn) -> bool:
        origin = self.dbt.origin(column)
        return origin is not None and DEADLINE.search(TEXTS.sub("''", origin.expression)) is not None

    def _takes_another(self, origin: ColumnOrigin) -> bool:
        """Whether a time is chosen among several columns, not all of which say when something was known; the latest of them may be."""
        is_choice = len(origin.same_row) > 1 and not origin.expression.upper().startswith("GREATEST(")
        return is_choice and not self.dbt.behind(origin.same_row).same_row <= self._times_known

    @cached_property
    def _times_known(self) -> frozenset[SourceColumn]:
        return frozenset(_known_at(contract) for contract, _ in self.project.lake_contracts)

    def _better(self, table: AssetName, contract: Contract) -> str:
        """The column that has the time from which on values of a contract were known, or how to join them."""
        times = [name for name in self.dbt.models[table].columns if _known_at(contract) in self.dbt.behind([(table, name)]).same_row]
        joined = f"a join by the macro `was_known_at`, or {contract.known_at} of {contract.name} in {table[1]}"
        return f"the column {' or '.join(times)}" if times else joined


def _known_at(contract: Contract) -> SourceColumn:
    return names.raw(contract.name), contract.known_at


def _of_view(use_case: UseCase, view: FeatureView) -> Reading:
    columns = (feature.column for feature in view.features if feature.column is not None)
    return Reading(
        use_case=use_case,
        declared=view,
        subject=f"View '{view.name}'",
        field="source",
        table=names.cleaned(view.source.name),
        values=tuple(dict.fromkeys((*view.entity.keys, view.source.event_at, *columns))),
        known_at=view.source.known_at,
    )


def _of_model(use_case: UseCase, model: Model) -> Iterator[Reading]:
    asked, label = model.observations, model.label
    known_at = None if asked.versions is None else asked.versions.known_at
    for field, table, values, known in (
        ("observations", asked.table, (*asked.keys, asked.decision_at, asked.event_at), known_at),
        ("label", label.table, (*label.keys, label.column), label.known_at),
    ):
        yield Reading(
            use_case=use_case, declared=model, subject=f"Model '{model.name}'", field=field, table=names.cleaned(table), values=values,
            known_at=known,
        )  # fmt: skip


def _asked_columns(model: Model) -> Iterator[tuple[str, str, str]]:
    """The columns of the observations that reach the model, each with the part of the model and the field that names it."""
    for feature in model.request_features:
        yield f": request feature '{feature.name}'", "column", feature.column
    for view in model.views:
        yield from ((f": view '{view.name}'", "entity", key) for key in view.entity.keys)
    yield "", "observations.decision_at", model.observations.decision_at


def _place(use_case: UseCase, model: Model, subject: str, field: str) -> Reading:
    return Reading(
        use_case=use_case, declared=model, subject=f"Model '{model.name}'{subject}", field=field,
        table=names.cleaned(model.observations.table), values=(), known_at=None,
    )  # fmt: skip
