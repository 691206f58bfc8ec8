"""Aliases that somebody changed in MLflow: shown as drift from the ledger, which counts, and adopted into it or undone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.errors import PromotionRefused
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import by_hand, ledger, versions
from pipeline_assets.model_lifecycle.registry.ledger import Entry
from pipeline_assets.model_lifecycle.registry.versions import CHAMPION_ALIAS
from pipeline_assets.spec.models import Model


@dataclass(frozen=True, kw_only=True)
class AliasDrift:
    """An alias that names another version in MLflow than the ledger does; None where one of them names none."""

    alias: str
    in_mlflow: int | None
    in_ledger: int | None

    def __str__(self) -> str:
        """Such as "champion is version 3 in MLflow and version 2 by the ledger"."""
        return f"{self.alias} is {_version(self.in_mlflow)} in MLflow and {_version(self.in_ledger)} by the ledger"


def alias_drift(settings: Settings, model: Model) -> tuple[AliasDrift, ...]:
    """The aliases `champion` and `previous` that are not what the ledger says; none where all are, or nothing was registered."""
    wanted, found = versions.wanted_aliases(settings, model), versions.aliases(settings, model)
    return tuple(
        AliasDrift(alias=alias, in_mlflow=found.get(alias), in_ledger=wanted.get(alias))
        for alias in versions.ALIASES
        if found.get(alias) != wanted.get(alias)
    )


def follow(settings: Settings, models: Sequence[Model], mirrored: Mapping[str, int]) -> dict[str, int]:
    """Sets the aliases of each model whose live version was decided without MLflow; returns by which entry each live version is live.

    mirrored: what it returned before. Of a model that is not in there only a decision is mirrored that nobody has mirrored yet, as nobody
    knows what was decided since; what somebody changed in MLflow stays.
    """
    with warehouse(settings) as connection:
        live = {name: one.sequence for name, one in ledger.live_versions(connection).items()}
    for model in models:
        if model.name in live and model.name not in mirrored:
            versions.catch_up(settings, model)
        elif live.get(model.name) != mirrored.get(model.name):
            versions.mirror(settings, model)
    return live


def in_words(model: Model, found: Sequence[AliasDrift], before: Sequence[AliasDrift] = ()) -> str:
    """What is otherwise in MLflow, and how a person ends that; or that nothing is, and what was `before` a decision set the aliases."""
    if not found and before:
        return f"MLflow's aliases are those of the ledger again, as a decision was mirrored. Before, {'; '.join(map(str, before))}."
    if not found:
        return "MLflow's aliases are those of the ledger."
    return (
        f"Somebody changed MLflow's aliases: {'; '.join(map(str, found))}. The ledger counts. `pipeline models alias-undo {model.name}` "
        f"sets them back; `pipeline models alias-adopt {model.name} --reason …` makes the version live that MLflow names."
    )


def adopt(settings: Settings, model: Model, *, actor: str, reason: str, is_forced: bool = False) -> Entry:
    """Makes the version live that MLflow's alias `champion` names, as a promotion by hand, and sets all aliases by the ledger.

    Raises PromotionRefused if the alias names none, or the version that is live already; else as `by_hand.promote`.
    """
    version = versions.aliases(settings, model).get(CHAMPION_ALIAS)
    if version is None:
        raise PromotionRefused(
            model.name, f"no version has the alias '{CHAMPION_ALIAS}' in MLflow; `alias-undo` sets it as the ledger says"
        )
    if version == ledger.live_version(settings, model):
        raise PromotionRefused(model.name, f"version {version}, which has the alias '{CHAMPION_ALIAS}' in MLflow, is live already")
    return by_hand.promote(settings, model, version, actor=actor, reason=reason, is_forced=is_forced)


def undo(settings: Settings, model: Model) -> tuple[AliasDrift, ...]:
    """Sets MLflow's aliases to what the ledger says, and returns what was otherwise."""
    found = alias_drift(settings, model)
    versions.mirror(settings, model)
    return found


def _version(number: int | None) -> str:
    return "no version" if number is None else f"version {number}"
