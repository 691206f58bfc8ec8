"""A use case whose rows come from a folder of CSV files and from an API with numbered pages and a bearer token: sales of ice cream.

Its dbt models stand in `kiosk_models/`.
"""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from pipeline_assets.spec.contracts import Contract, Field
from pipeline_assets.spec.features import CleanedTable, Entity, FeatureView, Latest, Windowed
from pipeline_assets.spec.models import Label, Model, Observations
from pipeline_assets.spec.rest import BearerToken, NumberedPages
from pipeline_assets.spec.sources import CsvFile, Files, RestEndpoint, Source
from pipeline_assets.spec.use_case import UseCase
from pipeline_assets.use_cases.nyc_flights import use_case as flights

MODELS = Path(__file__).with_name("kiosk_models")
OWNER, DAY = "owner@kiosks.example", timedelta(days=1)
FOLDER, SERVICE = "tills", "readings"
KIOSK = Field(name="kiosk", type="string", required=True, description="Where.")


def _contract(name: str, key: tuple[str, ...], event_at: str, known_at: str, *fields: Field) -> Contract:
    times = [Field(name=each, type="timestamp", required=True, description="When.") for each in (event_at, known_at)]
    return Contract(
        name=name,
        version="1.0.0",
        owner=OWNER,
        description=f"Rows of {name}.",
        fields=(*fields, *times),
        primary_key=key,
        event_at=event_at,
        known_at=known_at,
        lateness=DAY,
        freshness=DAY,
        broken_share=0.5,
    )


sales = Source(
    contract=_contract(
        "kiosk_sales", ("sale_id",), "sold_at", "recorded_at",
        Field(name="sale_id", type="integer", required=True, description="Which."), KIOSK,
        Field(name="price", type="decimal", precision=8, scale=2, minimum=0, sentinels=("-",), description="Paid; null if nothing."),
    ),
    origin=Files(folder=FOLDER, pattern="sales/%Y-%m-%d/*.csv.gz", format=CsvFile(delimiter=";")),
    load="daily",
)  # fmt: skip
temperatures = Source(
    contract=_contract(
        "kiosk_temperatures", ("kiosk", "measured_at"), "measured_at", "published_at", KIOSK,
        Field(name="temperature", type="number", sentinels=(-999,), description="Degrees Celsius; null if not measured."),
    ),
    origin=RestEndpoint(
        service=SERVICE, path="/v2/temperatures/{since:%Y/%m/%d}", records="data.items", query=(), pages=NumberedPages(),
        login=BearerToken(),
    ),
    load="daily",
)  # fmt: skip
_kiosk = Entity(name="kiosk", keys=("kiosk",), description="A kiosk.")
takings = FeatureView(
    name="kiosk_takings",
    entity=_kiosk,
    source=CleanedTable(name="kiosk_sales", event_at="sold_at", known_at="known_at", order_by=("sale_id",)),
    features=(
        Windowed(name="taken", aggregate="sum", column="price", windows=(timedelta(hours=3),)),
        Windowed(name="sales", aggregate="count", windows=(DAY,)),
    ),
    owner=OWNER,
    description="What was sold.",
    freshness=DAY,
)
weather = FeatureView(
    name="kiosk_weather",
    entity=_kiosk,
    source=CleanedTable(name="kiosk_temperatures", event_at="measured_at", known_at="known_at", order_by=()),
    features=(
        Latest(name="temperature", column="temperature", ttl=DAY),
        Windowed(name="warmest", aggregate="max", column="temperature", windows=(DAY,)),
    ),
    owner=OWNER,
    description="How warm it was.",
    freshness=DAY,
)
model: Model = replace(
    flights.models[0],
    name="kiosk_demand",
    owner=OWNER,
    observations=Observations(table="kiosk_sales", keys=("sale_id",), decision_at="sold_at", event_at="sold_at"),
    label=Label(table="kiosk_sales", keys=("sale_id",), column="price", known_at="known_at"),
    views=(takings, weather),
    request_features=(),
    slices=(),
)
kiosk = UseCase(
    name="kiosk",
    owner=OWNER,
    description="How much ice cream is sold.",
    first_day=date(2013, 5, 1),
    last_day=date(2013, 5, 31),
    sources=(sales, temperatures),
    streams=(),
    models=(model,),
)
