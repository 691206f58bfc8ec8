"""Endpoints in the asset graph: each model as the prediction service answers with it, and the checks of it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.clocks import replayed_to
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, dagster_errors, key, use_case_tags
from pipeline_assets.core.settings import ServiceReader, read_part
from pipeline_assets.serving.realtime.health.judge import RULES
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.health.judge import Verdict
    from pipeline_assets.serving.realtime.health.look import Look

Metadata = dict[str, int | float | str]


def endpoints(project: Project) -> list[dg.AssetSpec]:
    """A model each: made outside of Dagster, of its package and of the views that are kept online."""
    return [
        dg.AssetSpec(
            key(names.endpoint(model.name)),
            deps=[key(names.package(model.name)), *dict.fromkeys(key(name) for name in _kept_online(model))],
            group_name=names.REALTIME_INFERENCE,
            kinds={"http"},
            owners=[model.owner],
            tags=use_case_tags(project.home_of_model(model)),
            description=f"{model.question} Answered by the prediction service with the live version of {model.name}.",
            metadata={"path": f"/v1/models/{model.name}:predict"},
        )
        for model in project.models
    ]


def _kept_online(model: Model) -> list[names.AssetName]:
    """What keeps its views online."""
    return [names.online_views(view.source.name, view.online) for view in model.views if view.online is not None]


def specs(models: Sequence[Model]) -> list[dg.AssetCheckSpec]:
    """The checks of each model."""
    return [
        dg.AssetCheckSpec(rule.name, asset=key(names.endpoint(model.name)), description=rule.promises) for model in models for rule in RULES
    ]


def is_served(models: Sequence[Model], homes: Mapping[str, str]) -> dg.AssetChecksDefinition:
    """The checks by what the running service says, at any time; a sensor evaluates them. `homes`: the use case of each model, by name."""

    @dg.multi_asset_check(name="endpoint_checks", specs=specs(models), can_subset=True)
    def checked(context: dg.AssetCheckExecutionContext, platform: Platform) -> Iterator[dg.AssetCheckResult]:
        from pipeline_assets.serving.realtime.health.judge import judged, numbers

        with dagster_errors():
            seen = looked_at(platform, homes)
        chosen, now = context.selected_asset_check_keys, datetime.now(UTC)
        for model in models:
            asset, found = key(names.endpoint(model.name)), numbers(model, seen)
            for verdict in judged(model, seen, now):
                if dg.AssetCheckKey(asset, verdict.rule.name) in chosen:
                    yield dg.AssetCheckResult(
                        asset_key=asset,
                        check_name=verdict.rule.name,
                        passed=verdict.finding is None,
                        severity=severity(verdict),
                        metadata=shown(verdict, found),
                    )

    return checked


def looked_at(platform: Platform, homes: Mapping[str, str]) -> "Look":
    """The service as it is now, with the replay clocks of the models' use cases; raises SettingsMissing where none is named."""
    from pipeline_assets.serving.realtime.health.look import look

    settings = platform.settings
    clocks = {model: replayed_to(settings.home, use_case) for model, use_case in homes.items()}
    replays = {model: clock for model, clock in clocks.items() if clock is not None}
    return look(read_part(ServiceReader, settings.home), settings, replays)


def severity(verdict: "Verdict") -> dg.AssetCheckSeverity:
    """Whether what a rule finds is an error or a warning."""
    return dg.AssetCheckSeverity.ERROR if verdict.rule.is_error else dg.AssetCheckSeverity.WARN


def shown(verdict: "Verdict", found: Mapping[str, int | float | str]) -> Metadata:
    """The numbers of a check; what is wrong, and what to do."""
    own = {name: found[name] for name in verdict.rule.shows if name in found}
    return own if verdict.finding is None else {**own, "problem": verdict.finding[0], "what to do": verdict.finding[1]}
