"""The sensor that has MLflow's aliases follow what was decided without MLflow, and shows where somebody changed them there."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, cursor_of, dagster_errors, key
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.registry.aliases import AliasDrift

SECONDS = 60
ALIASES_MATCH = "aliases_match"


def aliases_mirrored(models: Sequence[Model]) -> dg.SensorDefinition:
    """Mirrors each model whose live version was decided by another entry of the ledger than at the last tick.

    Aliases that differ without a decision were changed by somebody in MLflow: they stay, and the check of the champion says so.
    """

    @dg.sensor(
        name=names.ALIASES_MIRRORED,
        # It requests no run; a sensor has to name something that it could.
        asset_selection=dg.AssetSelection.assets(*(list(names.champion(model.name)) for model in models)),
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sets the aliases of MLflow to what the ledger of promotions says, where a version went live by itself; shows changes "
        "that were made in MLflow.",
    )
    def mirrored(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        from pipeline_assets.core.connections import warehouse
        from pipeline_assets.model_lifecycle.registry import ledger, versions
        from pipeline_assets.model_lifecycle.registry.aliases import alias_drift

        before = cursor_of(context, lambda cursor: [dict(cursor.get(part, {})) for part in ("live", "apart")])
        with dagster_errors():
            with warehouse(platform.settings) as connection:
                live = {name: one.sequence for name, one in ledger.live_versions(connection).items()}
            for model in models:
                if live.get(model.name) != before.get("live", {}).get(model.name):
                    versions.mirror(platform.settings, model)
            apart = {model.name: alias_drift(platform.settings, model) for model in models}
        shown = {name: [str(one) for one in found] for name, found in apart.items()}
        news = [model for model in models if shown[model.name] != before.get("apart", {}).get(model.name, [])]
        events = [_evaluation(model, apart[model.name]) for model in news]
        return dg.SensorResult(asset_events=events, cursor=json.dumps({"live": live, "apart": shown}))

    return mirrored


def _evaluation(model: Model, found: "Sequence[AliasDrift]") -> dg.AssetCheckEvaluation:
    from pipeline_assets.model_lifecycle.registry.aliases import in_words

    return dg.AssetCheckEvaluation(
        asset_key=key(names.champion(model.name)),
        check_name=ALIASES_MATCH,
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        description=in_words(model, found),
    )
