"""What the benches of the online store are made of: the views of the reference model, and rows and questions of random entities."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pyarrow as pa

from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.instants import microseconds_at
from pipeline_assets.core.project import Project
from pipeline_assets.core.settings import Settings
from pipeline_assets.ingestion.sources.contracts import arrow_schema
from pipeline_assets.model_lifecycle.feature_store.online.feeds import Feed, feeds_of, feeds_of_model
from pipeline_assets.model_lifecycle.feature_store.online.kept_values import Notes
from pipeline_assets.model_lifecycle.feature_store.online.read import Reader
from pipeline_assets.model_lifecycle.feature_store.online.stored import Stored
from pipeline_assets.processing.cleaning.dbt import project_folder
from pipeline_assets.processing.cleaning.manifest import read_manifest
from pipeline_assets.use_cases.nyc_flights.features import CARRIERS
from pipeline_assets.use_cases.nyc_flights.sources import NEW_YORK_AIRPORTS

MODEL = "flight_delay"
ENTITIES: Mapping[str, Sequence[str]] = {
    "carrier": CARRIERS,
    "tailnum": [f"N{number}" for number in range(4_000)],
    "origin": NEW_YORK_AIRPORTS,
    "dest": [f"D{number}" for number in range(100)],
}


def declared() -> tuple[Project, tuple[Feed, ...]]:
    """The project, and the feeds of the model."""
    project = load_project()
    return project, feeds_of_model(feeds_of(project, read_manifest(project_folder())), project.model(MODEL))


def events(feed: Feed, first: int, at: np.ndarray) -> pa.Table:
    """An event of a stream at each of the times, each of a flight of its own, the flights numbered from `first` on."""
    random, schema, count = np.random.default_rng(first), arrow_schema(feed.contract), len(at)
    columns: dict[str, object] = {
        "flight_id": [f"flight-{number}" for number in range(first, first + count)],
        **{name: random.choice(np.array(values, object), count) for name, values in ENTITIES.items()},
        "event_at": at - np.timedelta64(30, "s"),
        "delay_minutes": random.integers(-20, 200, count),
        "is_cancelled": random.integers(0, 50, count) == 0,
        "recorded_at": at,
    }
    return pa.table({field.name: pa.array(columns[field.name]).cast(field.type) for field in schema}, schema=schema)


def times(start: datetime, end: datetime, count: int) -> np.ndarray:
    """As many times, evenly from one on and before another."""
    first, last = microseconds_at(start), microseconds_at(end)
    found: np.ndarray = np.linspace(first, last, count, endpoint=False).astype(np.int64).view("datetime64[us]")
    return found


def table_rows(feed: Feed, start: datetime, end: datetime) -> pa.Table:
    """Rows of a cleaned table: of the weather one for each airport and hour, of the register one for each aircraft."""
    key, names = (name := feed.views[0].entity.keys[0]), ENTITIES[name]
    hours = 1 if key == "tailnum" else int((end - start) / timedelta(hours=1))
    count, random = len(names) * hours, np.random.default_rng(1)
    at = np.repeat(times(start, end, hours), len(names))
    known = {key: np.tile(np.array(names, object), hours), feed.table.event_at: at, feed.table.known_at: at}
    columns = {}
    for name in feed.columns:
        if name in known:
            columns[name] = pa.array(known[name]) if name == key else pa.array(known[name]).cast(pa.timestamp("us", "UTC"))
        elif name == feed.table.superseded_at:
            columns[name] = pa.nulls(count, pa.timestamp("us", "UTC"))
        else:
            columns[name] = pa.array(random.integers(1, 100, count)).cast(pa.int64() if feed.kinds[name] == "integer" else pa.float64())
    return pa.table(columns)


def questions(random: np.random.Generator, rows: int) -> pa.Table:
    """Random entities."""
    return pa.table({name: pa.array(random.choice(np.array(values, object), rows)) for name, values in ENTITIES.items()})


def at(asked: pa.Table, moment: datetime) -> pa.Table:
    """Entities as they are at a time."""
    return asked.append_column("decision_at", pa.array([moment] * asked.num_rows, pa.timestamp("us", "UTC")))


def every_entity() -> pa.Table:
    """All entities, in as few rows as there are aircraft."""
    count = len(ENTITIES["tailnum"])
    return pa.table({name: pa.array(np.resize(np.array(values, object), count)) for name, values in ENTITIES.items()})


@contextmanager
def a_reader(settings: Settings, *, keeps: bool) -> Iterator[Reader]:
    """A reader of all views that has been asked for every entity, as it is now; and keeps finished values, or asks for them each time."""
    project, feeds = declared()
    with psycopg.connect(settings.online_dsn.get_secret_value(), autocommit=True) as connection, closing(Notes(settings, feeds)) as notes:
        reader = Reader(Stored(connection, feeds), project.model(MODEL).views, notes=notes if keeps else None)
        for _ in range(3):
            reader.read(at(every_entity(), datetime.now(UTC)))
            # Several turns of the thread that reads notes.
            time.sleep(0.2)
        yield reader


def shown(values: Sequence[float], unit: str = "ms") -> str:
    """The half and the 99th of a hundred."""
    p50, p99 = np.percentile(values, [50, 99])
    return f"p50 {p50:.2f} {unit}, p99 {p99:.2f} {unit}"
