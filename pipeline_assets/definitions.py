"""The code location: twelve rooms in the diagram's order, one merge, and a job for each journey through them."""

import gc

# The imports make some hundred thousand objects and drop none: to look for garbage among them takes a third of the load.
gc.disable()

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.declarations import load_use_case
from pipeline_assets.core.resources import Platform, key
from pipeline_assets.ingestion.batch import assets as batch_ingestion
from pipeline_assets.ingestion.sources import assets as sources
from pipeline_assets.ingestion.streaming import assets as streaming_ingestion
from pipeline_assets.model_lifecycle.feature_store import assets as feature_store
from pipeline_assets.model_lifecycle.registry import assets as registry
from pipeline_assets.model_lifecycle.training import assets as training
from pipeline_assets.processing.cleaning import assets as cleaning
from pipeline_assets.processing.features import assets as features
from pipeline_assets.processing.lake import assets as lake
from pipeline_assets.serving.batch import assets as batch_inference
from pipeline_assets.serving.monitoring import assets as monitoring
from pipeline_assets.serving.realtime import assets as realtime_inference

USE_CASE = load_use_case("nyc_flights")

ROOMS = (
    sources, batch_ingestion, streaming_ingestion,
    lake, cleaning, features,
    feature_store, training, registry,
    batch_inference, realtime_inference, monitoring,
)  # fmt: skip

JOURNEYS = {
    names.BUILD_FEATURES: (names.BATCH_INGESTION, names.STREAMING_INGESTION, names.CLEANING, names.FEATURES, names.FEATURE_STORE),
    names.TRAIN: (names.TRAINING, names.REGISTRY, names.REALTIME_INFERENCE),
    names.SCORE_AND_MONITOR: (names.BATCH_INFERENCE, names.MONITORING),
}
ORACLE = dg.AssetSelection.checks(*streaming_ingestion.oracle_checks(USE_CASE))
# What no run tells that materializes something.
APART = ORACLE | dg.AssetSelection.checks(*streaming_ingestion.watch_checks(USE_CASE))


def _journey(name: str, rooms: tuple[str, ...]) -> dg.Definitions:
    selection: dg.AssetSelection = dg.AssetSelection.groups(*rooms)
    if name == names.BUILD_FEATURES:
        selection = (selection | dg.AssetSelection.key_prefixes([names.LAKE])) - dg.AssetSelection.key_prefixes([names.CONNECTORS])
    description = f"Materializes {', '.join(room.replace('_', ' ') for room in rooms)}."
    return dg.Definitions(jobs=[dg.define_asset_job(name, selection=selection - APART, description=description)])


def _streams() -> dg.Definitions:
    """The jobs that the sensors of the streams ask for."""
    tables = [key(names.staged(source.contract.name)) for source in USE_CASE.sources if source.load == "changes"]
    # Lake, warehouse, staging view, register: what comes after them goes by the day.
    jobs = (
        (names.CONNECT_STREAMS, dg.AssetSelection.key_prefixes([names.CONNECTORS]) - APART, "Has all connectors run as they are declared."),
        (names.TYPE_EVENTS, dg.AssetSelection.key_prefixes([names.TYPED]) - APART, "Types what has landed."),
        (
            names.FOLLOW_TABLES,
            dg.AssetSelection.assets(*tables).downstream(depth=4),
            "Takes the rows that changes left to dbt's registers.",
        ),
        (names.VERIFY, ORACLE, "Holds all topics and followed tables against the lake."),
    )
    return dg.Definitions(jobs=[dg.define_asset_job(name, selection=chosen, description=does) for name, chosen, does in jobs])


defs = dg.Definitions.merge(
    *(room.defs(USE_CASE) for room in ROOMS),
    *(_journey(name, rooms) for name, rooms in JOURNEYS.items()),
    _streams(),
    # One process runs all steps of a run: a step takes seconds, and a process of its own would take three more to import.
    dg.Definitions(resources={"platform": Platform()}, executor=dg.in_process_executor),
)

# What is loaded stays until the process ends, and is looked at no more.
gc.freeze()
gc.enable()
