"""`features list`: every feature once, with what a person asks about it."""

import json
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.project import Project
from pipeline_assets.model_lifecycle.feature_store import commands
from pipeline_assets.model_lifecycle.feature_store.listing import ListedFeature, list_features
from pipeline_assets.model_lifecycle.feature_store.offline import feature_names
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets.use_cases.nyc_flights import use_case

BOTH = tuple(model.name for model in use_case.models)
PROJECT = Project(use_cases=(use_case,))
first_view = use_case.models[0].views[0]


def listed_of(project: Project) -> tuple[ListedFeature, ...]:
    """The features of a project whose tables dbt's project builds."""
    return list_features(project, read_models(project).references)


def run(*arguments: str) -> str:
    """The output of the command, which must succeed."""
    app = typer.Typer(pretty_exceptions_enable=False)
    commands.register(app)
    done = CliRunner().invoke(app, ["features", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_every_input_of_the_models_is_listed_once() -> None:
    """Views that models share, and facts of the request that they take alike, are one line; each model's features are in its order."""
    listed = [feature.name for feature in listed_of(PROJECT)]

    assert len(listed) == len(set(listed)) >= 40
    for model in use_case.models:
        assert [name for name in listed if name in feature_names(model)] == feature_names(model)


def test_a_fact_of_the_request_that_models_take_differently_is_listed_for_each() -> None:
    """Another column under the same name is another feature; so is the same one of another owner."""
    first, second = use_case.models
    own = replace(second, request_features=(replace(second.request_features[0], column="decision_at"), *second.request_features[1:]))
    listed = listed_of(Project(use_cases=(replace(use_case, models=(first, own)),)))
    hours = [(feature.column, feature.models) for feature in listed if feature.name == "request__hour"]

    assert hours == [("scheduled_departure_at", (first.name,)), ("decision_at", (own.name,))]


def test_a_feature_says_where_it_comes_from_and_who_uses_it() -> None:
    """Windowed features, latest values, counts and facts of the request each have what applies to them."""
    listed = {feature.name: feature for feature in listed_of(PROJECT)}
    late, seats = listed["carrier_departures__late_rate_7d"], listed["origin_weather__temperature_f"]
    flights, hour = listed["origin_departures__flights_1h"], listed["request__hour"]

    assert (late.source, late.column, late.aggregate, late.window, late.freshness) == (
        "cleaned.departures_history",
        "is_late",
        "rate",
        "7d",
        "6h",
    )
    assert (late.view, late.entity, late.models) == ("carrier_departures", "carrier", BOTH)
    assert listed["aircraft_attributes__seats"].models == ("flight_delay",)
    assert hour.models == BOTH
    assert (seats.aggregate, seats.window) == ("latest", "6h")
    assert (flights.column, flights.type) == (None, "int64")
    assert (hour.view, hour.source, hour.column, hour.window, hour.freshness) == (
        "request",
        "cleaned.flights_history",
        "scheduled_departure_at",
        None,
        None,
    )


def test_a_feature_names_the_tables_that_it_takes_the_present_of() -> None:
    """A register without history, and a view of the rows as they are now, are named; tables with all versions are not."""
    airports = replace(first_view, name="airports", source=replace(first_view.source, name="airports"))
    now = replace(use_case.models[0].observations, table="flights")
    model = replace(use_case.models[0], observations=now, views=(first_view, airports))
    listed = listed_of(Project(use_cases=(replace(use_case, models=(model,)),)))
    found = {feature.view: feature.current_value_only for feature in listed}

    assert found == {first_view.name: (), "airports": ("cleaned.airports",), "request": ("cleaned.flights",)}
    assert {feature.current_value_only for feature in listed_of(PROJECT)} == {()}


def test_the_command_prints_views_with_nothing_cut_off() -> None:
    """Each view says once where it comes from and who uses it, each feature what it is."""
    lines = run("list").splitlines()
    (line,) = [line for line in lines if "aircraft_departures__since_departure_7d" in line]
    headings = [line for line in lines if line.startswith("aircraft_departures by")]

    assert f"{len(listed_of(load_project()))} features" in lines[0]
    assert line.split(maxsplit=1)[1].strip() == next(one.description for one in listed_of(PROJECT) if one.name == line.split()[0])
    assert len(headings) == 1
    for part in ("by aircraft", "cleaned.departures_history", "6h old", "ml-flights@nyc-flights.example", "flight_delay, arrival_delay"):
        assert part in headings[0]


def test_the_command_lists_what_is_asked_for() -> None:
    """By model, by view and by a text of name, source or description; names that are not declared are an error with those that are."""
    of_model = json.loads(run("list", "--model", "match_outcome", "--json"))
    of_view = json.loads(run("list", "WEATHER", "--view", "origin_weather", "--json"))

    assert {name for feature in of_model for name in feature["models"]} == {"match_outcome"}
    assert {feature["view"] for feature in of_view} == {"origin_weather"}
    assert run("list", "no such text").splitlines() == ["0 features"]
    with pytest.raises(UnknownName, match=r"Unknown model 'weather'\. Known: arrival_delay, flight_delay, match_outcome"):
        run("list", "--model", "weather")
    with pytest.raises(UnknownName, match="Unknown view 'origin'"):
        run("list", "--view", "origin")


def test_the_command_prints_json() -> None:
    """A list of objects with the same facts."""
    listed = json.loads(run("list", "--json"))

    assert [feature["name"] for feature in listed] == [feature.name for feature in listed_of(load_project())]
    assert next(feature["models"] for feature in listed if feature["name"] == "request__hour") == list(BOTH)
    assert {"owner", "source", "column", "aggregate", "window", "freshness", "view", "description"} <= set(listed[0])
