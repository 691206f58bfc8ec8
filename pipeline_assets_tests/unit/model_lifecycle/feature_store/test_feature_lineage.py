"""`features show` and `features impact`: from a feature down to its sources and up to predictions, and from a column to all above it."""

import json
import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.project import Project
from pipeline_assets.model_lifecycle.feature_store import commands
from pipeline_assets.model_lifecycle.feature_store.description import describe
from pipeline_assets.model_lifecycle.feature_store.impact import Impact, impact_of
from pipeline_assets.model_lifecycle.feature_store.lineage import ProjectLineage, vector_lineage
from pipeline_assets.model_lifecycle.training.lineage import training_set_lineage
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import read_lineage
from pipeline_assets.processing.cleaning.models import read_models
from pipeline_assets.processing.features.catalogue import feature_columns, view_columns
from pipeline_assets.serving.batch.answers import lineage as prediction_lineage
from pipeline_assets_tests.dbt_lineage import lineage_of, project_lineage
from pipeline_assets_tests.kiosks import kiosk

PROJECT = load_project()
LINEAGE = ProjectLineage(project=PROJECT, dbt=read_lineage(project_folder()))


def run(*arguments: str) -> str:
    """The output of the command, which must succeed."""
    app = typer.Typer(pretty_exceptions_enable=False)
    commands.register(app)
    done = CliRunner().invoke(app, ["features", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def shown(name: str) -> list[dict[str, Any]]:
    """What `show --json` says of a feature or view."""
    found: list[dict[str, Any]] = json.loads(run("show", name, "--json"))
    return found


def leaves(origins: list[dict[str, Any]]) -> dict[str, str]:
    """The contract fields at the end of the way down, each with its source."""
    found: dict[str, str] = {}
    for origin in origins:
        found |= leaves(origin["computed_from"]) if origin["computed_from"] else {origin["column"]: origin["source"]}
    return found


def test_a_feature_is_shown_with_its_way_down_and_up() -> None:
    """From its declaration through dbt to topic and table, and to the models whose predictions it is part of."""
    (found,) = shown("origin_departures__late_rate_3h")
    (late,) = found["computed_from"]

    assert {name: found["feature"][name] for name in ("view", "entity", "type", "aggregate", "window", "freshness", "owner")} == {
        "view": "origin_departures", "entity": "origin", "type": "float64", "aggregate": "rate", "window": "3h", "freshness": "6h",
        "owner": "ml-flights@nyc-flights.example",
    }  # fmt: skip
    assert (late["column"], late["expression"]) == ("cleaned.departures_history.is_late", "is_cancelled OR delay_minutes >= 15")
    assert set(leaves([late])) == {"flight_departures.delay_minutes", "flight_departures.is_cancelled"}
    assert set(leaves([late]).values()) == {
        "topic flight-departures; before it began table public.flight_history of database airline_ops, loaded by the day"
    }
    assert {"event_at", "known_at", "origin", "superseded_at"} == {*found["rows_decided_by"]["cleaned.departures_history"]}
    assert {user["model"]: user["predictions"] for user in found["used_by"]} == {
        "flight_delay": "predictions.flight_delay", "arrival_delay": "predictions.arrival_delay",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields", "source"),
    [
        ("aircraft_attributes__seats", {"planes.seats"}, "table public.planes of database airline_ops, followed by its changes"),
        ("origin_weather__pressure_mean_1d", {"weather.pressure_mb"}, "endpoint /v1/observations of service weather, loaded by the day"),
        ("request__planned_minutes", {"flight_schedule.scheduled_departure_at", "flight_schedule.scheduled_arrival_at"},
         "table public.flight_schedule of database airline_ops, loaded by the day"),
        ("aircraft_departures__since_departure_7d", {"flight_departures.event_at", "flight_schedule.scheduled_departure_at"}, None),
        ("origin_departures__flights_1h", set(), None),
    ],
)  # fmt: skip
def test_each_kind_of_feature_leads_to_the_fields_of_its_contracts(name: str, fields: set[str], source: str | None) -> None:
    """Latest values, windows, facts of the request, times since; where rows as such are counted, to none."""
    (found,) = shown(name)

    assert set(leaves(found["computed_from"])) == fields
    assert source is None or set(leaves(found["computed_from"]).values()) == {source}


def test_a_view_is_shown_with_all_of_its_features() -> None:
    """By the name of the view, in the order of its declaration; the tree names each with its column and its models."""
    view = next(view for view in PROJECT.views if view.name == "aircraft_attributes")
    tree = run("show", view.name)

    assert [one["feature"]["name"] for one in shown(view.name)] == [column.name for column in view_columns(view)]
    assert "└── planes.seats  (integer; table public.planes of database airline_ops, followed by its changes; " in tree
    assert re.search(r"model flight_delay .*\n.*table predictions\.flight_delay", tree)


def test_every_feature_of_the_project_can_be_shown() -> None:
    """Each ends in fields of contracts with their source, and says who uses it."""
    references = read_models(PROJECT).references
    for model in PROJECT.models:
        for feature in feature_columns(model):
            for found in describe(LINEAGE, references, feature.name):
                assert found.used_by
                assert all(origin.computed_from or origin.source for origin in found.computed_from)


def impact(name: str) -> Impact:
    """What depends on a column of this project."""
    return impact_of(LINEAGE, name)


def test_the_impact_of_a_field_reaches_tables_features_models_and_predictions() -> None:
    """What is computed from it apart from what has its rows told apart by it, as every version of a row is."""
    found = impact("planes.seats")

    assert found.computed_from_it.features == ("aircraft_attributes__seats",)
    assert "seats" in found.computed_from_it.columns["cleaned.aircraft_history"]
    assert "year_built" in found.rows_decided_by_it.columns["cleaned.aircraft_history"]
    assert found.rows_decided_by_it.features == ("aircraft_attributes__engines", "aircraft_attributes__year_built")
    assert found.models == {"flight_delay": "predictions.flight_delay"}


def test_the_impact_of_a_label_is_said_as_that() -> None:
    """The column of dbt is the label of one model and a feature of both; a field below it is too."""
    late, minutes = impact("departures_history.is_late"), impact("flight_departures.delay_minutes")

    assert late.computed_from_it.labels == {"flight_delay": ("is_late",)}
    assert len(late.computed_from_it.features) == 11
    assert set(late.models) == {"flight_delay", "arrival_delay"}
    assert minutes.computed_from_it.labels == {"flight_delay": ("is_late",)}
    assert "origin_departures__delay_max_3h" in minutes.computed_from_it.features


def test_a_field_of_a_history_depends_on_by_what_its_stream_becomes() -> None:
    """Rows from before a topic began are events of its stream; which of them are is decided by a field of theirs."""
    minutes, kind = impact("flight_history.delay_minutes"), impact("flight_history.event_type")

    assert "origin_departures__delay_max_3h" in minutes.computed_from_it.features
    assert kind.computed_from_it.features == ()
    assert "origin_departures__delay_max_3h" in kind.rows_decided_by_it.features


def test_a_column_that_a_join_reads_decides_rows() -> None:
    """The key of a register that dbt joins, and decisions and slices that rest on it."""
    found = impact("league_clubs.club_id")

    assert "is_founder_at_home" not in found.computed_from_it.columns.get("cleaned.fixtures_history", ())
    assert "is_founder_at_home" in found.rows_decided_by_it.columns["cleaned.fixtures_history"]
    assert found.rows_decided_by_it.slices == {"match_outcome": ("is_founder_at_home",)}
    assert impact("league_clubs.first_season").computed_from_it.slices == {"match_outcome": ("is_founder_at_home",)}
    assert impact("flight_schedule.scheduled_departure_at").computed_from_it.decisions["flight_delay"] == (
        "decision_at", "scheduled_departure_at", "superseded_at",
    )  # fmt: skip


def test_nothing_depends_on_what_nobody_reads() -> None:
    """It is said, and is no error."""
    airlines = impact("airlines.name")

    assert airlines.models == {}
    assert set(airlines.computed_from_it.columns) == {"cleaned.airlines", "staging.stg_airlines"}
    assert "no feature, label, model or prediction depends on it" in run("impact", "airlines.name")
    assert "nothing depends on it" in run("impact", "cleaned.airports.latitude")


@pytest.mark.parametrize(
    ("name", "near"),
    [("planes.seat", "planes.seats"), ("departure_history.is_late", "departures_history.is_late"), ("seats", "planes.seats")],
)
def test_a_column_that_there_is_not_is_an_error_with_near_names(name: str, near: str) -> None:
    """A contract's field and a dbt column are meant alike."""
    with pytest.raises(UnknownName, match=f"Unknown contract field or dbt column '{name}'. Near: .*") as refused:
        impact(name)

    assert near in refused.value.near


def test_a_feature_that_there_is_not_is_an_error_with_near_names() -> None:
    """Views are meant, too."""
    with pytest.raises(UnknownName, match="Near: origin_departures") as refused:
        describe(LINEAGE, read_models(PROJECT).references, "origin_departure")

    assert refused.value.kind == "feature or view"


def test_a_contract_goes_before_a_table_of_its_name() -> None:
    """The column of the table is meant where its schema is written; what no SQL could be read of is named."""
    lineage = ProjectLineage(project=Project(use_cases=(kiosk,)), dbt=lineage_of(kiosk_sales="select ( from"))
    field, column = impact_of(lineage, "kiosk_sales.price"), impact_of(lineage, "cleaned.kiosk_sales.declared")

    assert field.column.source == "files sales/%Y-%m-%d/*.csv.gz of folder tills, loaded by the day"
    assert column.column.column == "cleaned.kiosk_sales.declared"
    assert set(column.unread) == {"cleaned.kiosk_sales"}


def test_what_is_shown_is_what_dagster_shows() -> None:
    """Vectors, training sets and predictions have a column each of what their tables have, and lead to the tables before them."""
    model = PROJECT.model("flight_delay")
    vectors, training, predictions = vector_lineage(model), training_set_lineage(model), prediction_lineage(model)

    assert vectors["origin_departures__late_rate_3h"] == ((names.features("origin_departures"), "origin_departures__late_rate_3h"),)
    assert vectors["request__distance_miles"] == ((names.cleaned("flights_history"), "distance_miles"),)
    assert len(vectors[names.FEATURE_HASH]) == len({source for one in feature_columns(model) for source in vectors[one.name]})
    assert training["label"] == ((names.cleaned("departures_history"), "is_late"),)
    assert training["request__hour"] == ((names.vectors("flight_delay"), "request__hour"),)
    assert {column for _, column in predictions["score"]} == {feature.name for feature in feature_columns(model)}


def test_lineage_is_read_from_where_it_is_kept_as_it_was_found() -> None:
    """The file beside the manifest has the same as the SQL."""
    assert read_lineage(project_folder()) == project_lineage()
