"""Declarations by which something would leak are refused, and what is near them and does not leak is not."""

from dataclasses import replace

import pytest

from pipeline_assets.core import declarations
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import SpecError
from pipeline_assets.core.problems import DeclarationProblem
from pipeline_assets.core.project import Project
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import DbtLineage
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets.processing.features import assets
from pipeline_assets.processing.features.leakage import Leakage
from pipeline_assets.spec.features import Entity, FeatureView, Latest, RequestFeature, Windowed
from pipeline_assets.spec.models import Label, Model
from pipeline_assets_tests.dbt_lineage import project_lineage
from pipeline_assets_tests.feature_tables import HOUR

PROJECT = load_project()
FLIGHT_DELAY, MATCH_OUTCOME = PROJECT.model("flight_delay"), PROJECT.model("match_outcome")
DEPARTURES = FLIGHT_DELAY.views[0]


@pytest.fixture(scope="module")
def lineage() -> DbtLineage:
    """The lineage of the models as they are."""
    return project_lineage()


def problems(model: Model, lineage: DbtLineage) -> list[DeclarationProblem]:
    """What leaks in the project with one of its models changed."""
    changed = [
        replace(one, models=tuple(model if old.name == model.name else old for old in one.models))
        for one in PROJECT.use_cases
        if model.name in {old.name for old in one.models}
    ]
    project = Project(use_cases=tuple(changed), tables=PROJECT.tables)
    return list(Leakage(project=project, dbt=lineage, references=read_models(PROJECT).references).problems())


def with_request(column: str, model: Model = FLIGHT_DELAY) -> Model:
    """The model with one more fact of the request."""
    return replace(model, request_features=(*model.request_features, RequestFeature(name="asked", column=column, description="A fact.")))


def joined_flights(column: str, condition: str = "") -> DbtLineage:
    """The lineage where the table of flights has a column `joined` of their departures, joined by the flight and a condition."""
    parts = (
        'with schedule as (select * from "0"."staging"."stg_flight_schedule"),',
        'outcomes as (select * from "0"."cleaned"."departures_history")',
        "select schedule.*, schedule.scheduled_departure_at - interval '60 minutes' as decision_at, 5 as planned_minutes,",
        f"outcomes.{column} as joined",
        f"from schedule left join outcomes on outcomes.flight_id = schedule.flight_id {condition}",
    )
    return project_lineage(whole={"flights_history": " ".join(parts)})


def test_nothing_that_the_project_declares_leaks(lineage: DbtLineage) -> None:
    """Windows over late departures of before are features of the delay of the next: they count what was known at the decision."""
    found = Leakage(project=PROJECT, dbt=lineage, references=read_models(PROJECT).references).problems()

    assert list(found) == []
    assert any(feature.column == FLIGHT_DELAY.label.column for feature in DEPARTURES.features)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ("is_late", "is 'is_late', the label"),
        ("delay_minutes", "computed from flight_departures.delay_minutes, as the label 'is_late' of the same row is"),
        ("is_cancelled", "computed from flight_departures.is_cancelled, as the label 'is_late' of the same row is"),
    ],
)
def test_the_label_and_what_it_is_computed_from_are_no_facts_of_the_request(lineage: DbtLineage, column: str, problem: str) -> None:
    """Where decisions are read from the table of the label, its own columns would say the answer; the others are known."""
    asked = replace(FLIGHT_DELAY.observations, table="departures_history", decision_at="event_at", event_at="event_at")
    model = replace(FLIGHT_DELAY, observations=asked, request_features=(), slices=())
    (found,) = problems(with_request(column, model), lineage)

    assert (found.subject, found.field) == ("Model 'flight_delay': request feature 'asked'", "column")
    assert problem in found.problem
    assert "a feature of a view" in found.expected
    assert problems(with_request("carrier", model), lineage) == []


@pytest.mark.parametrize(
    ("column", "condition", "problem"),
    [
        ("is_late", "", "computed from flight_departures.delay_minutes, as the label"),
        ("tailnum", "", "dbt joins from flight_departures whether or not it was known at the decision"),
        ("tailnum", "and outcomes.is_current", "whether or not it was known at the decision"),
        ("tailnum", "and outcomes.known_at <= schedule.scheduled_departure_at - interval '60 minutes'", None),
        ("is_late", "and outcomes.known_at <= schedule.scheduled_departure_at - interval '60 minutes'", None),
    ],
    ids=["label", "known later", "the newest", "as known", "late as known"],
)
def test_what_dbt_joins_to_a_decision_is_joined_as_it_was_known(column: str, condition: str, problem: str | None) -> None:
    """A column of another contract leaks, be it of the label or not, unless the join asks when it was known."""
    found = problems(with_request("joined"), joined_flights(column, condition))

    assert [one.problem for one in found if problem is None or problem not in one.problem] == []
    assert bool(found) is (problem is not None)


def test_a_key_that_joins_does_not_make_the_other_side_known() -> None:
    """Joined by `using`, the key has the value of both sides; the time of the decision says which of them is known with it."""
    using = (
        'with schedule as (select * from "0"."staging"."stg_flight_schedule"),',
        'outcomes as (select flight_id, tailnum as joined from "0"."cleaned"."departures_history")',
        "select schedule.*, flight_id, joined, schedule.scheduled_departure_at as decision_at, 5 as planned_minutes",
        "from schedule left join outcomes using (flight_id)",
    )
    found = problems(with_request("joined"), project_lineage(whole={"flights_history": " ".join(using)}))

    assert [one.problem for one in found] == [
        "is 'joined', which dbt joins from flight_departures whether or not it was known at the decision"
    ]


@pytest.mark.parametrize(
    ("feature", "field"),
    [
        (Windowed(name="ahead", aggregate="count", windows=(-HOUR,)), "windows"),
        (Windowed(name="ahead", aggregate="count", windows=(0 * HOUR,)), "windows"),
        (Windowed(name="ahead", aggregate="count", windows=(HOUR,), hop=-HOUR), "hop"),
        (Latest(name="ahead", column="delay_minutes", ttl=-HOUR), "ttl"),
        (Latest(name="ahead", column="delay_minutes", ttl=0 * HOUR), "ttl"),
        (Windowed(name="behind", aggregate="count", windows=(HOUR,), hop=HOUR), None),
        (Latest(name="behind", column="delay_minutes", ttl=HOUR), None),
    ],
)
def test_no_window_looks_ahead(feature: Windowed | Latest, field: str | None) -> None:
    """A window, hop or time to live that is not positive is refused, with the feature and what would be right."""
    (use_case,) = [one for one in PROJECT.use_cases if FLIGHT_DELAY in one.models]
    model = replace(FLIGHT_DELAY, views=(replace(DEPARTURES, features=(feature,)),))
    found: list[DeclarationProblem] = []
    try:
        declarations.check([replace(use_case, models=(model,))], project_folder())
    except SpecError as refused:
        found = list(refused.problems)

    assert [one.field for one in found] == ([] if field is None else [field])
    assert all(one.subject == "View 'origin_departures': feature 'ahead'" for one in found)


def test_the_key_that_a_view_is_asked_by_may_not_leak_either() -> None:
    """An aircraft that is known by its departure alone would be looked up before it left."""
    entity = Entity(name="joined", keys=("joined",), description="What it is joined to.")
    view: FeatureView = replace(DEPARTURES, entity=entity)
    (found,) = [one for one in problems(replace(FLIGHT_DELAY, views=(view,)), joined_flights("tailnum")) if one.subject.startswith("Model")]

    assert (found.subject, found.field) == ("Model 'flight_delay': view 'origin_departures'", "entity")


def test_a_joined_register_is_a_fact_of_the_request_as_it_was_known(lineage: DbtLineage) -> None:
    """Fixtures are joined to clubs as they were known, so whether a club is a founder may be asked; without that it may not."""
    model = with_request("is_founder_at_home", MATCH_OUTCOME)
    now = project_lineage({"fixtures_history": ("clubs.known_at <= announced.known_at", "clubs.is_current")})

    assert problems(model, lineage) == []
    assert [one.problem for one in problems(model, now)] == [
        "is 'is_founder_at_home', which dbt joins from league_clubs whether or not it was known at the decision"
    ]


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("recorded_at as known_at", None),
        ("greatest(recorded_at, event_at) as known_at", None),
        ("(recorded_at at time zone 'UTC') at time zone 'UTC' as known_at", None),
        ("recorded_at + interval '1 minute' as known_at", None),
        ("event_at as known_at", "is 'known_at', which is not recorded_at of flight_departures, when its values were known"),
        ("recorded_at - interval '1 hour' as known_at", "is 'known_at', which is recorded_at - INTERVAL '1 HOUR': that may be earlier"),
        ("least(recorded_at, event_at) as known_at", "is 'known_at', which is LEAST(recorded_at, event_at): that may be earlier"),
        ("date_trunc('day', recorded_at) as known_at", "that may be earlier than the row was known"),
        ("case when is_cancelled then event_at else recorded_at end as known_at", "that may be earlier than the row was known"),
        ("coalesce(event_at, recorded_at) as known_at", "that may be earlier than the row was known"),
        ("least(recorded_at, event_at + interval '21 days') as known_at", None),
        ("least(recorded_at, event_at + interval '21 days') - interval '1 day' as known_at", "that may be earlier than the row was known"),
        ("max(recorded_at) over (partition by flight_id) as known_at", None),
    ],
)
def test_known_at_is_when_the_contract_says_or_later(expression: str, problem: str | None) -> None:
    """A view or a label whose rows count from an earlier time is refused, with the declaration and its file; a later time is not."""
    changed = project_lineage({"stg_flight_departures": ("recorded_at as known_at", expression)})
    found = problems(FLIGHT_DELAY, changed)

    assert [one.problem for one in found if problem is None or problem not in one.problem] == []
    if problem is not None:
        assert {(one.subject, one.field) for one in found} >= {
            ("View 'origin_departures'", "source.known_at"), ("Model 'flight_delay'", "label.known_at"),
        }  # fmt: skip
        assert {one.file for one in found if one.subject.startswith("View")} == {"pipeline_assets/use_cases/nyc_flights/features.py"}


def test_a_view_whose_known_at_is_another_column_is_refused(lineage: DbtLineage) -> None:
    """Over the table of the label its rows would be known at the scheduled departure, keyed by the flight itself or not."""
    own = Entity(name="flight", keys=("flight_id",), description="A flight.")
    early = replace(DEPARTURES, entity=own, source=replace(DEPARTURES.source, known_at="event_at"))
    right = replace(DEPARTURES, entity=own)
    (found,) = problems(replace(FLIGHT_DELAY, views=(early,)), lineage)

    assert (found.field, found.expected) == ("source.known_at", "the column known_at")
    assert problems(replace(FLIGHT_DELAY, views=(right,)), lineage) == []


def test_a_label_and_versions_of_decisions_are_known_when_their_contract_says(lineage: DbtLineage) -> None:
    """A label that counts from when it happened, and versions of decisions that count from when they were planned, are refused."""
    label: Label = replace(FLIGHT_DELAY.label, known_at="event_at")
    versions = replace(FLIGHT_DELAY.observations.versions, known_at="scheduled_arrival_at")  # type: ignore[type-var]
    (of_label,) = problems(replace(FLIGHT_DELAY, label=label), lineage)
    asked = problems(replace(FLIGHT_DELAY, observations=replace(FLIGHT_DELAY.observations, versions=versions)), lineage)

    assert (of_label.subject, of_label.field) == ("Model 'flight_delay'", "label.known_at")
    assert [one.field for one in asked] == ["observations.known_at"]


@pytest.mark.parametrize(
    ("model", "old", "new", "clock"),
    [
        ("departures_history", "from events", "from events where event_at < now()", "CURRENT_TIMESTAMP"),
        ("stg_planes", "from versions", "from versions where known_at > current_date - 900", "CURRENT_DATE"),
    ],
)
def test_a_table_that_takes_the_wall_clock_is_refused_wherever_it_stands(model: str, old: str, new: str, clock: str) -> None:
    """Above a view, a label or decisions, with the model, its file and who reads it; a fixed time is none."""
    (found,) = problems(FLIGHT_DELAY, project_lineage({model: (old, new)}))
    fixed = project_lineage({model: (old, f"{old} where known_at > timestamptz '2013-01-01'")})

    assert found.subject == f"Model '{model}' of dbt"
    assert found.file.startswith("dbt_project/models/nyc_flights/")
    assert clock in found.problem
    assert "View '" in found.problem
    assert problems(FLIGHT_DELAY, fixed) == []


def test_a_wall_clock_that_no_declaration_reads_is_nobodys() -> None:
    """A table for people alone may say how things are today."""
    assert problems(FLIGHT_DELAY, project_lineage({"airports": ("from airports", "from airports where known_at < now()")})) == []


def test_the_time_of_a_copy_is_no_value() -> None:
    """When a row was copied to the warehouse depends on the run, also where a column of another name holds it."""
    changed = project_lineage({"stg_flight_departures": ("        event_at,", "        _loaded_at as event_at,")})

    assert "reads 'event_at', which comes from _loaded_at of flight_departures, the wall-clock time of a copy" in {
        one.problem for one in problems(FLIGHT_DELAY, changed)
    }


def test_tables_that_nothing_is_known_of_are_not_judged() -> None:
    """What no model builds, as in other dbt projects, has no lineage to judge by."""
    assert problems(with_request("is_late"), DbtLineage()) == []


def test_a_code_location_with_a_leak_does_not_load(monkeypatch: pytest.MonkeyPatch, lineage: DbtLineage) -> None:
    """All leaks are reported at once, each with use case, file, what and what would be right."""
    early = replace(DEPARTURES, source=replace(DEPARTURES.source, known_at="event_at"))
    (use_case,) = [one for one in PROJECT.use_cases if FLIGHT_DELAY in one.models]
    leaking = replace(use_case, models=(replace(FLIGHT_DELAY, views=(early,), label=replace(FLIGHT_DELAY.label, known_at="event_at")),))
    monkeypatch.setattr(assets, "read_lineage", lambda _: lineage)

    with pytest.raises(SpecError) as refused:
        assets.defs(Project(use_cases=(leaking,), tables=PROJECT.tables))

    assert [(one.use_case, one.field) for one in refused.value.problems] == [
        ("nyc_flights", "source.known_at"), ("nyc_flights", "label.known_at"),
    ]  # fmt: skip
