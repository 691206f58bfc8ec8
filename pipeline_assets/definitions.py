"""The code location: twelve rooms in the diagram's order, one merge, and the jobs that lead through them."""

import dagster as dg

from pipeline_assets import jobs
from pipeline_assets.alerts.sensors import alerts
from pipeline_assets.core.declarations import load_project
from pipeline_assets.core.resources import Platform
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

PROJECT = load_project()

ROOMS = (
    sources, batch_ingestion, streaming_ingestion,
    lake, cleaning, features,
    feature_store, training, registry,
    batch_inference, realtime_inference, monitoring,
)  # fmt: skip

defs = dg.Definitions.merge(
    *(room.defs(PROJECT) for room in ROOMS),
    jobs.defs(PROJECT),
    # One process runs all steps of a run: a step takes seconds, and a process of its own would take three more to import.
    dg.Definitions(sensors=[alerts(PROJECT)], resources={"platform": Platform()}, executor=dg.in_process_executor),
)
