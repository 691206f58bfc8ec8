"""What a person may do to what is live or tried: promote a version by name, roll back, have one tried, stop that.

All of it goes through the ledger's compare-and-swap.
"""

from datetime import datetime

from pipeline_assets.core.connections import warehouse
from pipeline_assets.core.errors import ModelRejected, PromotionRefused, UserInputError
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import ledger, trials, versions
from pipeline_assets.model_lifecycle.registry.gate import Rule, broken, served_rule
from pipeline_assets.model_lifecycle.registry.judgement import served_compared
from pipeline_assets.model_lifecycle.registry.ledger import Decision, Entry, Trial
from pipeline_assets.model_lifecycle.training.inputs import end_of_vectors
from pipeline_assets.spec.models import Model


def promote(
    settings: Settings, model: Model, version: int, *, actor: str, reason: str, is_forced: bool = False, live_from: datetime | None = None
) -> Entry:
    """Makes a version live that a person asks for; its file is loaded and checked first.

    `live_from` is the event time from which it counts (None: the end of the newest day that has vectors).
    Raises UnknownName if there is no such version, PromotionRefused if it is live already, ModelRejected if it `is_forced` not and the
    gate's last word on it was no or a feature is served otherwise than the lake has it, ArtifactCorrupt if its file was changed,
    PromotionConflict if another version went live meanwhile.
    """
    loaded = versions.load(settings, model, version)
    entries = ledger.history(settings, model)
    if ledger.live(entries) == version:
        raise PromotionRefused(model.name, f"version {version} is live already")
    if not is_forced:
        _check_not_rejected(settings, model, version, entries)
    since = live_from or end_of_vectors(settings, model) or loaded.contract.as_of
    decision = Decision(version=version, actor=actor, reason=reason, live_from=since, contract_sha256=loaded.contract_sha256)
    entry = ledger.promote(settings, model, decision, expected_version=ledger.live(entries))
    versions.mirror(settings, model)
    return entry


def roll_back(
    settings: Settings, model: Model, *, actor: str, reason: str, to: int | None = None, live_from: datetime | None = None
) -> Entry:
    """Makes the version live again that was live before, or `to`; its file is loaded and checked first.

    `live_from` is the event time from which that counts (None: the end of the newest day that has vectors), so days before it stay those
    of the version that is left. Raises PromotionRefused if there is nothing to go back to, or `to` is live or never was;
    ArtifactCorrupt if its file was changed, PromotionConflict if another version went live meanwhile.
    """
    entries = ledger.history(settings, model)
    version = _target(model, entries, to)
    loaded = versions.load(settings, model, version)
    since = live_from or end_of_vectors(settings, model) or loaded.contract.as_of
    decision = Decision(version=version, actor=actor, reason=reason, live_from=since, contract_sha256=loaded.contract_sha256)
    entry = ledger.promote(settings, model, decision, expected_version=ledger.live(entries), action="rollback")
    versions.mirror(settings, model)
    return entry


def shadow(settings: Settings, model: Model, version: int, *, actor: str, reason: str) -> Entry:
    """Has a version score live requests beside the live one, whose answers alone are given; its file is loaded and checked first.

    Raises UnknownName if there is no such version, PromotionRefused if it is live, none is, or another one is tried; ArtifactCorrupt,
    TrialConflict.
    """
    decision, tried = _on_trial(settings, model, version, actor, reason)
    if tried is not None:
        raise PromotionRefused(model.name, f"{trials.in_words(tried)}; stop that first")
    with warehouse(settings) as connection:
        return trials.start(connection, model, decision, role="shadow", share=None, expected=None)


def canary(
    settings: Settings, model: Model, version: int, *, share: float | None, actor: str, reason: str, is_forced: bool = False
) -> Entry:
    """Has a version answer a share of entities; its file is loaded and checked first.

    share: between 0 and 1 (None: the first step that the model declares); another share of the same canary is its next step.
    Raises as `shadow` does; ModelRejected as `promote` does, UserInputError for a share that is none.
    """
    decision, tried = _on_trial(settings, model, version, actor, reason)
    if tried is not None and (tried.version != version or (tried.role == "canary" and share in {None, tried.share})):
        remedy = "stop that first" if tried.version != version else "give it another share"
        raise PromotionRefused(model.name, f"{trials.in_words(tried)}; {remedy}")
    if not is_forced:
        _check_not_rejected(settings, model, version, ledger.history(settings, model))
    asked = _share(model, share)
    with warehouse(settings) as connection:
        return trials.start(connection, model, decision, role="canary", share=asked, expected=tried)


def stop(settings: Settings, model: Model, *, actor: str, reason: str) -> Entry:
    """Ends what is tried: the live version answers alone. Raises PromotionRefused if nothing is tried, TrialConflict."""
    tried = ledger.trial(ledger.history(settings, model))
    if tried is None:
        raise PromotionRefused(model.name, "no version is tried, so there is nothing to stop")
    decision = Decision(version=tried.version, actor=actor, reason=reason, live_from=tried.live_from)
    with warehouse(settings) as connection:
        return trials.end(connection, model, decision, expected=tried)


def _on_trial(settings: Settings, model: Model, version: int, actor: str, reason: str) -> tuple[Decision, Trial | None]:
    """The decision to try a version, whose file is what it was, and what is tried now; raises PromotionRefused where it cannot be tried."""
    loaded = versions.load(settings, model, version)
    entries = ledger.history(settings, model)
    if ledger.live(entries) is None:
        raise PromotionRefused(model.name, "no version is live beside which one could be tried; promote it instead")
    if ledger.live(entries) == version:
        raise PromotionRefused(model.name, f"version {version} is live already")
    since = end_of_vectors(settings, model) or loaded.contract.as_of
    decision = Decision(version=version, actor=actor, reason=reason, live_from=since, contract_sha256=loaded.contract_sha256)
    return decision, ledger.trial(entries)


def _share(model: Model, share: float | None) -> float:
    if share is None and not model.canary.steps:
        raise UserInputError(f"Model '{model.name}' declares no steps of a canary. Give a share, such as --share 0.05.")
    asked = model.canary.steps[0] if share is None else share
    if not 0 < asked < 1:
        raise UserInputError(f"--share is {asked}; a canary answers a share between 0 and 1. To answer all, promote the version.")
    return asked


def _check_not_rejected(settings: Settings, model: Model, version: int, entries: tuple[Entry, ...]) -> None:
    """Raises ModelRejected if the gate's last word on a version was no, or a feature is served otherwise than the lake has it."""
    last = next((entry for entry in reversed(entries) if entry.version == version and entry.action in {"reject", *ledger.CHANGES}), None)
    is_rejected = last is not None and last.action == "reject"
    judged = [*map(Rule.from_json, last.rules)] if last is not None and is_rejected else []
    against = {rule.name: rule for rule in broken([*judged, served_rule(served_compared(settings, model))])}
    if is_rejected or against:
        raise ModelRejected(model.name, version, [str(rule) for rule in against.values()])


def _target(model: Model, entries: tuple[Entry, ...], to: int | None) -> int:
    """The version to go back to."""
    line = ledger.ancestry(entries)
    if not line:
        raise PromotionRefused(model.name, "no version is live, so there is nothing to roll back from")
    if to is None and len(line) == 1:
        raise PromotionRefused(model.name, f"no version was live before version {line[0]}")
    if to is None:
        return line[-2]
    if to == line[-1]:
        raise PromotionRefused(model.name, f"version {to} is live already")
    if to not in {entry.version for entry in entries if entry.action in ledger.CHANGES}:
        raise PromotionRefused(model.name, f"version {to} was never live, so there is no way back to it; promote it instead")
    return to
