"""The sensor that has MLflow's aliases follow what was decided without MLflow, such as by the prediction service."""

import json
from collections.abc import Sequence

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, cursor_of, dagster_errors
from pipeline_assets.spec.models import Model

SECONDS = 60


def aliases_mirrored(models: Sequence[Model]) -> dg.SensorDefinition:
    """Mirrors each model whose live version was decided by another entry of the ledger than at the last tick."""

    @dg.sensor(
        name=names.ALIASES_MIRRORED,
        # It requests no run; a sensor has to name something that it could.
        asset_selection=dg.AssetSelection.assets(*(list(names.champion(model.name)) for model in models)),
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sets the aliases of MLflow to what the ledger of promotions says, where a version went live by itself.",
    )
    def mirrored(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        from pipeline_assets.core.connections import warehouse
        from pipeline_assets.model_lifecycle.registry import ledger, versions

        before = cursor_of(context)
        with dagster_errors():
            with warehouse(platform.settings) as connection:
                found = {name: one.sequence for name, one in ledger.live_versions(connection).items()}
            for model in models:
                if found.get(model.name) != before.get(model.name):
                    versions.mirror(platform.settings, model)
        return dg.SensorResult(cursor=json.dumps(found))

    return mirrored
