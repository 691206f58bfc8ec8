"""The sensor that has MLflow's aliases follow what was decided without MLflow, and shows where somebody changed them there."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, cursor_of, dagster_errors, key
from pipeline_assets.core.wait_errors import TrackingUnavailable
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
    def mirrored(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        from pipeline_assets.model_lifecycle.registry.aliases import alias_drift, follow

        before = cursor_of(context, lambda cursor: dict(cursor.get("live", {})))
        with dagster_errors():
            settings = platform.settings
            try:
                live = follow(settings, models, before.get("live", {}))
                found = [(model, alias_drift(settings, model)) for model in models]
            except TrackingUnavailable as error:
                return dg.SkipReason(f"Nothing is mirrored, and no alias looked at, as MLflow is away. {error}")
        events = [_evaluation(model, drifted) for model, drifted in found if is_news(context.instance, model, drifted)]
        return dg.SensorResult(asset_events=events, cursor=json.dumps({"live": live}))

    return mirrored


def is_news(instance: dg.DagsterInstance, model: Model, found: "Sequence[AliasDrift]") -> bool:
    """Whether the newest evaluation of the check, by a run or by the sensor, says otherwise, or the run ended that was to evaluate it.

    Where it was never evaluated, only drift is news.
    """
    from pipeline_assets.model_lifecycle.registry.aliases import in_words

    record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(key(names.champion(model.name)), ALIASES_MATCH))
    if record is None:
        return bool(found)
    last = record.evaluation
    if not isinstance(last, dg.AssetCheckEvaluation):
        return True
    return last.passed == bool(found) or (not last.passed and last.description != in_words(model, found))


def _evaluation(model: Model, found: "Sequence[AliasDrift]") -> dg.AssetCheckEvaluation:
    from pipeline_assets.model_lifecycle.registry.aliases import in_words

    return dg.AssetCheckEvaluation(
        asset_key=key(names.champion(model.name)),
        check_name=ALIASES_MATCH,
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        description=in_words(model, found),
    )
