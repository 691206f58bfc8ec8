"""Two small use cases that share a database, a topic, a stream and a followed table; shared by the tests of several use cases."""

from dataclasses import replace
from datetime import date, timedelta

from pipeline_assets.core.project import Project
from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.features import CleanedTable, FeatureView
from pipeline_assets.spec.models import Label, Model, Observations
from pipeline_assets.spec.sources import CloudEvent, EventStream, History, PostgresTable, Route, Source
from pipeline_assets.spec.use_case import UseCase
from pipeline_assets.use_cases.nyc_flights import use_case as flights

DATABASE, TOPIC = "shop", "orders"
TEMPLATE: Model = flights.models[0]


def contract(name: str, key: str, owner: str = "sales@shop.example") -> Contract:
    """A contract with an integer key and two times."""
    return Contract(
        name=name,
        version="1.0.0",
        owner=owner,
        description=f"Rows of {name}.",
        fields=(
            Field(name=key, type="integer", required=True, description="Its number."),
            Field(name="happened_at", type="timestamp", required=True, description="When it happened."),
            Field(name="recorded_at", type="timestamp", required=True, description="When it was recorded."),
        ),
        primary_key=(key,),
        event_at="happened_at",
        known_at="recorded_at",
        lateness=timedelta(days=1),
        freshness=timedelta(days=1),
        broken_share=0.01,
    )


def _followed(table: str, key: str, owner: str) -> Source:
    return Source(contract=contract(table, key, owner), origin=PostgresTable(database=DATABASE, table=table), load="changes")


def _events(name: str, kind: str, history: History | None = None) -> EventStream:
    return EventStream(
        contract=contract(name, "order_id"),
        topic=TOPIC,
        format=CloudEvent(is_binary=True),
        route=Route(field="type", value=kind),
        history=history,
    )


def view(table: str) -> FeatureView:
    """A view of a cleaned table."""
    return replace(
        TEMPLATE.views[0],
        name=f"of_{table}",
        source=CleanedTable(name=table, event_at="happened_at", known_at="recorded_at", order_by=()),
    )


def model(name: str, tables: tuple[str, ...], ahead: timedelta = timedelta(0), behind: timedelta = timedelta(0)) -> Model:
    """A model of some cleaned tables, the first of which has its observations and its label."""
    asked = Observations(table=tables[0], keys=("order_id",), decision_at="happened_at", event_at="happened_at", ahead=ahead, behind=behind)
    label = Label(table=tables[0], keys=("order_id",), column="is_refunded", known_at="recorded_at")
    return replace(TEMPLATE, name=name, observations=asked, label=label, views=tuple(view(table) for table in tables[1:]))


customers = _followed("customers", "customer_id", "crm@shop.example")
products = _followed("products", "product_id", "stock@shop.example")
past_orders = Source(
    contract=contract("past_orders", "order_id"), origin=PostgresTable(database=DATABASE, table="past_orders"), load="daily"
)
placed = _events("orders_placed", "placed", History(source=past_orders))
refunded = _events("orders_refunded", "refunded")


def use_case(name: str, models: tuple[Model, ...], sources: tuple[Source, ...], streams: tuple[EventStream, ...]) -> UseCase:
    """A use case of the shop in the first half of 2024."""
    return UseCase(
        name=name,
        owner=f"{name}@shop.example",
        description=f"What is asked about {name}.",
        first_day=date(2024, 1, 1),
        last_day=date(2024, 6, 30),
        sources=sources,
        streams=streams,
        models=models,
    )


demand = use_case("demand", (model("demand", ("stock_days", "orders")),), (customers, products), (placed,))
refunds = use_case("refunds", (model("refunds", ("orders", "refunds"), behind=timedelta(hours=30)),), (customers,), (placed, refunded))
SHOP = Project(use_cases=(demand, refunds))
