"""By which columns an entity is known: what declarations and lineage say, in this project and in models that are written out here."""

from dataclasses import replace
from datetime import timedelta

import pytest

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.project import Project
from pipeline_assets.forgetting.identity import Identity, Keyed, entity_of, identity_of
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.lineage import DbtLineage, read_lineage
from pipeline_assets.spec.features import CleanedTable, Entity, FeatureView, Windowed
from pipeline_assets.spec.models import Observations
from pipeline_assets.spec.use_case import UseCase
from pipeline_assets.use_cases.nyc_flights import use_case as flights
from pipeline_assets_tests.dbt_lineage import lineage_of
from pipeline_assets_tests.kiosks import kiosk, sales

CUSTOMERS = CleanedTable(name="of_customers", event_at="ordered_at", known_at="recorded_at", order_by=())
ORDERS = replace(sales, contract=replace(sales.contract, name="orders", primary_key=("order_id",)))
PAYMENTS = replace(sales, contract=replace(sales.contract, name="payments", primary_key=("order_id",)))


def project_of(*keys: str) -> Project:
    """A use case of orders and payments whose one view describes an entity by columns of `of_customers`."""
    view = FeatureView(
        name="spending",
        entity=Entity(name="customer", keys=keys, description="Who orders."),
        source=CUSTOMERS,
        features=(Windowed(name="orders", aggregate="count", windows=(timedelta(days=1),)),),
        owner="owner@orders.example",
        description="What was ordered.",
        freshness=timedelta(days=1),
    )
    asked = Observations(table="of_customers", keys=("order_id",), decision_at="ordered_at", event_at="ordered_at")
    model = replace(flights.models[0], views=(view,), observations=asked, request_features=())
    case: UseCase = replace(kiosk, sources=(ORDERS, PAYMENTS), models=(model,))
    return Project(use_cases=(case,))


def known(project: Project, dbt: DbtLineage, entity: str) -> Identity:
    """The identity of an entity by its name."""
    return identity_of(project, dbt, entity_of(project, entity))


def test_a_club_is_known_by_its_place_in_a_match_and_by_its_register_and_not_as_a_guest() -> None:
    """The key goes down to both topics, and over a join to the whole key of the register; the other club of a match is another entity."""
    found = known(load_project(), read_lineage(project_folder()), "home_club")

    assert found.of(names.raw("league_results")) == (("home_id",),)
    assert found.of(names.raw("league_fixtures")) == (("home_id",),)
    assert found.of(names.raw("league_clubs")) == (("club_id",),)
    assert found.of(names.cleaned("clubs_history")) == (("club_id",),)
    assert {columns for each in found.columns.values() for columns in each} == {("home_id",), ("club_id",)}


def test_a_key_of_two_columns_is_followed_where_both_go_together() -> None:
    """Two clubs that meet are known in matches, and in no register of one club."""
    found = known(load_project(), read_lineage(project_folder()), "pairing")

    assert found.of(names.raw("league_results")) == (("home_id", "away_id"),)
    assert found.of(names.raw("league_clubs")) == ()


def test_what_a_topic_had_before_it_began_is_known_by_the_same_fields() -> None:
    """The history of a stream has the columns of the stream."""
    found = known(load_project(), read_lineage(project_folder()), "aircraft")

    assert found.of(names.raw("flight_history")) == (("tailnum",),)
    assert found.of(names.raw("planes")) == (("tailnum",),)


def test_a_renamed_key_is_followed_down_and_up() -> None:
    """Each table has its own name for it, also one that no view reads."""
    dbt = lineage_of(
        of_customers="select customer as who, order_id, ordered_at, recorded_at from raw.orders",
        others="select who as buyer, amount from cleaned.of_customers join raw.orders using (order_id)",
    )

    found = known(project_of("who"), dbt, "customer")

    assert found.columns == {
        names.raw("orders"): (("customer",),), names.cleaned("of_customers"): (("who",),), names.cleaned("others"): (("buyer",),),
    }  # fmt: skip
    assert found.computed == ()


def test_a_key_from_two_tables_is_known_in_both() -> None:
    """Rows of a union come from either."""
    dbt = lineage_of(
        of_customers=(
            "select customer, order_id, ordered_at, recorded_at from raw.orders union all "
            "select customer, order_id, ordered_at, recorded_at from raw.payments"
        )
    )

    found = known(project_of("customer"), dbt, "customer")

    assert found.of(names.raw("orders")) == (("customer",),)
    assert found.of(names.raw("payments")) == (("customer",),)


def test_a_key_that_is_computed_is_found_by_the_primary_key_of_its_rows() -> None:
    """No field of the contract says it; the table has both keys."""
    dbt = lineage_of(of_customers="select lower(customer) as customer, order_id as number, ordered_at, recorded_at from raw.orders")

    found = known(project_of("customer"), dbt, "customer")

    assert found.columns == {names.cleaned("of_customers"): (("customer",),)}
    assert found.computed == (Keyed(table=names.cleaned("of_customers"), columns=("number",), contract="orders"),)


def test_a_table_with_the_primary_key_alone_carries_the_rows() -> None:
    """It has nothing of the entity's key, and its rows are those of the entity's orders."""
    dbt = lineage_of(
        of_customers="select customer, order_id, ordered_at, recorded_at from raw.orders",
        totals="select order_id as number, amount from raw.orders",
        sums="select sum(amount) as amount from raw.orders",
    )

    found = known(project_of("customer"), dbt, "customer")

    assert found.carried == (Keyed(table=names.cleaned("totals"), columns=("number",), contract="orders"),)


def test_a_column_of_a_window_or_an_aggregate_is_no_key() -> None:
    """The greatest customer of a day is none of its rows."""
    dbt = lineage_of(of_customers="select max(customer) as customer, max(order_id) as order_id from raw.orders group by ordered_at")

    assert known(project_of("customer"), dbt, "customer").columns == {names.cleaned("of_customers"): (("customer",),)}


def test_an_entity_that_nobody_declares_is_refused_with_those_there_are() -> None:
    """The error lists the entities."""
    with pytest.raises(UnknownName, match="customer"):
        entity_of(project_of("customer"), "supplier")
