"""The jobs: those of the platform as a whole, one per use case that builds its features, and two per model."""

from collections.abc import Callable, Sequence

import dagster as dg

from pipeline_assets.automation.sensors import runs_retried
from pipeline_assets.core import names
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import key
from pipeline_assets.ingestion.streaming.assets import audit_checks, health_checks
from pipeline_assets.ingestion.streaming.streams import followed, record_streams
from pipeline_assets.model_lifecycle.feature_store.assets import health_checks as online_checks
from pipeline_assets.model_lifecycle.feature_store.assets import online_homes
from pipeline_assets.processing.lake.assets import health_checks as freshness_checks
from pipeline_assets.serving.realtime.assets import health_checks as endpoint_checks
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.use_case import UseCase

# What a run over days makes, from the sources to the vectors.
DAILY_ROOMS = (names.BATCH_INGESTION, names.STREAMING_INGESTION, names.LAKE, names.CLEANING, names.FEATURES, names.FEATURE_STORE)
# What the two jobs of a model make.
TRAINING = (names.training_set, names.candidate, names.champion, names.package)
SERVING = (names.predictions, names.drift, names.performance)


def defs(project: Project) -> dg.Definitions:
    """All jobs of the code location, and the sensor that asks again for runs of theirs that failed."""
    # Checks that read everything there is, or that only a sensor can judge, are not part of a run that materializes something.
    by_sensors = [*health_checks(project), *online_checks(project), *endpoint_checks(project), *freshness_checks(project)]
    apart = dg.AssetSelection.checks(*audit_checks(project), *by_sensors)
    selections = {
        **_of_streams(project, apart),
        **{names.build_features(use_case.name): _features(use_case) - apart for use_case in project.use_cases},
        **({names.RECORD_PREDICTIONS: _predictions(project.platform) - apart} if project.platform is not None else {}),
        **{names.build_online(use_case.name): _online(use_case) - apart for use_case in online_homes(project)},
        **{names.train(model.name): _made(model, TRAINING) for model in project.models},
        **{names.score_and_monitor(model.name): _made(model, SERVING) for model in project.models},
    }
    jobs = {name: dg.define_asset_job(name, selection=selection) for name, selection in selections.items()}
    left = {name for use_case in project.use_cases if "retry" not in use_case.automatic for name in _names(use_case)}
    retried = runs_retried({name: job for name, job in jobs.items() if name not in left})
    return dg.Definitions(jobs=list(jobs.values()), sensors=[retried])


def _names(use_case: UseCase) -> set[str]:
    """The jobs of a use case and of its models."""
    models = [make(model.name) for model in use_case.models for make in (names.train, names.score_and_monitor)]
    return {names.build_features(use_case.name), names.build_online(use_case.name), *models}


def _of_streams(project: Project, apart: dg.AssetSelection) -> dict[str, dg.AssetSelection]:
    """The jobs that the sensors of the streams request; none where there is no stream."""
    if not record_streams(project):
        return {}
    tables = [key(names.staged(source.contract.name)) for source in followed(project)]
    rows = dg.AssetSelection.assets(*tables)
    # From the staged rows on to the registers of dbt; what comes after them goes by the day, what is recorded of predictions by itself.
    recorded = dg.AssetSelection.key_prefixes([names.ENDPOINTS], include_sources=True).downstream()
    registers = rows.downstream() & dg.AssetSelection.groups(names.STREAMING_INGESTION, names.LAKE, names.CLEANING)
    whole = registers - recorded - dg.AssetSelection.tag(names.BY_DAY_TAG, "")
    connectors = dg.AssetSelection.key_prefixes([names.CONNECTORS])
    jobs = {
        names.APPLY_CONNECTORS: connectors - apart,
        names.TYPE_RECORDS: dg.AssetSelection.key_prefixes([names.TYPED]) - apart,
        names.AUDIT_SOURCES: dg.AssetSelection.checks(*audit_checks(project)),
    }
    return {**jobs, names.UPDATE_FOLLOWED_TABLES: whole - apart} if tables else jobs


def _features(use_case: UseCase) -> dg.AssetSelection:
    """Everything from the sources of a use case to the vectors of its models, and its cleaned tables that nothing reads yet."""
    made = [key(names.vectors(model.name)) for model in use_case.models]
    labels = [key(names.cleaned(model.label.table)) for model in use_case.models]
    own = dg.AssetSelection.tag(names.USE_CASE_TAG, use_case.name)
    needed = dg.AssetSelection.assets(*made, *labels).upstream() | own
    return (needed & dg.AssetSelection.groups(*DAILY_ROOMS)) - dg.AssetSelection.key_prefixes(
        [names.CONNECTORS], [names.MAINTENANCE], [names.ONLINE]
    )


def _predictions(platform: UseCase) -> dg.AssetSelection:
    """What the platform records of its predictions, from the typed records to the warehouse."""
    own = dg.AssetSelection.tag(names.USE_CASE_TAG, platform.name)
    return own & dg.AssetSelection.groups(names.STREAMING_INGESTION, names.LAKE, names.CLEANING)


def _online(use_case: UseCase) -> dg.AssetSelection:
    """The views of a use case that are kept online; they are built apart from the days, in a job that has none."""
    return dg.AssetSelection.key_prefixes([names.ONLINE]) & dg.AssetSelection.tag(names.USE_CASE_TAG, use_case.name)


def _made(model: Model, assets: Sequence[Callable[[str], names.AssetName]]) -> dg.AssetSelection:
    """Some assets of a model."""
    return dg.AssetSelection.assets(*(key(name(model.name)) for name in assets))
