"""The graph of views and vectors: which days of which tables a day of decisions depends on, for any number of models."""

from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.model_lifecycle.feature_store import assets as feature_store
from pipeline_assets.processing.features import assets as features
from pipeline_assets.spec.features import Latest
from pipeline_assets.spec.models import Model, Observations
from pipeline_assets.use_cases.nyc_flights import use_case
from pipeline_assets.use_cases.nyc_flights.models import flight_delay
from pipeline_assets_tests.feature_tables import DAY, HOUR, view_of, windowed

NOW = timedelta(0)
VIEW = replace(view_of(windowed("count", None, 7 * DAY)), online=None)


def observations(table: str, ahead: timedelta = NOW, behind: timedelta = NOW) -> Observations:
    """Decisions about the rows of a table."""
    return Observations(table=table, keys=("place", "gate"), decision_at="decision_at", event_at="event_at", ahead=ahead, behind=behind)


def project_of(*asked: Observations) -> Project:
    """A project with one model per table of observations, all with the same view."""
    models = tuple(
        replace(flight_delay, name=f"m{number}", observations=one, views=(VIEW,), request_features=(), slices=())
        for number, one in enumerate(asked)
    )
    return Project(use_cases=(replace(use_case, models=models),))


def located(definitions: dg.Definitions) -> dg.Definitions:
    """The assets of a room with the resource that a code location gives them."""
    return dg.Definitions.merge(definitions, dg.Definitions(resources={"platform": Platform()}))


def offsets(definitions: dg.Definitions, asset: names.AssetName) -> dict[str, tuple[int, int] | None]:
    """The first and last day of each cleaned table that a day of the asset depends on, relative to it; None: all days."""
    graph = located(definitions).resolve_asset_graph()
    found: dict[str, tuple[int, int] | None] = {}
    for parent in graph.get(key(asset)).parent_keys:
        mapping = graph.get_partition_mapping(key(asset), parent)
        if parent.path[0] == names.CLEANED:
            found[parent.path[1]] = (
                (mapping.start_offset, mapping.end_offset) if isinstance(mapping, dg.TimeWindowPartitionMapping) else None
            )
    return found


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([observations("visits")], {"events": (-8, 0), "visits": (0, 0)}),
        ([observations("visits", ahead=HOUR)], {"events": (-8, 0), "visits": (0, 1)}),
        ([observations("visits", ahead=2 * DAY, behind=25 * HOUR)], {"events": (-8, 0), "visits": (-2, 2)}),
        ([observations("visits", ahead=HOUR), observations("visits", behind=HOUR)], {"events": (-8, 0), "visits": (-1, 1)}),
        ([observations("visits"), observations("orders", behind=HOUR)], {"events": (-8, 0), "visits": (0, 0), "orders": (-1, 0)}),
        ([observations("events")], {"events": (-8, 0)}),
        ([observations("events", ahead=HOUR, behind=20 * DAY)], {"events": (-20, 1)}),
    ],
)
def test_a_day_of_a_view_depends_on_the_days_that_it_reads(asked: list[Observations], expected: dict[str, tuple[int, int]]) -> None:
    """As far back as the windows look, as far about as decisions lie from their events, and once where both are one table."""
    assert offsets(features.defs(project_of(*asked)), names.features(VIEW.name)) == expected


def test_observations_in_the_source_of_a_view_without_a_limit_are_one_dependency() -> None:
    """Regression: the graph could not be built where a view and its decisions are read from one table."""
    view = replace(VIEW, features=(Latest(name="newest", column="amount"),))
    model = replace(flight_delay, observations=observations("events", ahead=HOUR), views=(view,))
    definitions = features.defs(Project(use_cases=(replace(use_case, models=(model,)),)))

    assert offsets(definitions, names.features(view.name)) == {"events": None}


@pytest.mark.parametrize(("ahead", "behind", "days"), [(NOW, NOW, (0, 0)), (HOUR, NOW, (0, 1)), (NOW, 3 * DAY, (-3, 0))])
def test_a_day_of_vectors_depends_on_the_days_of_its_decisions(ahead: timedelta, behind: timedelta, days: tuple[int, int]) -> None:
    """On the event itself, before it or after it."""
    definitions = feature_store.defs(project_of(observations("visits", ahead, behind)))

    assert offsets(definitions, names.vectors("m0")) == {"visits": days}


def lineage_of(model: Model) -> set[tuple[str, ...]]:
    """The tables that a model's vectors are joined from."""
    definitions = feature_store.defs(Project(use_cases=(replace(use_case, models=(model,)),), tables=load_project().tables))
    graph = located(definitions).resolve_asset_graph()
    return {tuple(parent.path) for parent in graph.get(key(names.vectors(model.name))).parent_keys}


def test_every_view_and_model_of_the_project_has_one_asset() -> None:
    """Views that models share are one table; each model has vectors of its own, and its columns have the types of the dbt models."""
    project = load_project()
    views, vectors = (located(room.defs(project)).resolve_asset_graph() for room in (features, feature_store))
    schema = vectors.get(key(names.vectors(flight_delay.name))).metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)

    assert views.materializable_asset_keys == {key(names.features(view.name)) for view in project.views}
    online = {one for one in vectors.materializable_asset_keys if one.path[0] == names.ONLINE}
    assert vectors.materializable_asset_keys - online == {key(names.vectors(model.name)) for model in project.models}
    assert len(online) == len({(view.source, view.online) for view in project.views if view.online is not None})
    assert lineage_of(flight_delay) == {("cleaned", "flights_history"), *(("features", view.name) for view in flight_delay.views)}
    assert {column.name: column.type for column in schema.columns[:4]} == {
        "flight_id": "string", "decision_at": "timestamp", "origin": "string", "carrier": "string",
    }  # fmt: skip
