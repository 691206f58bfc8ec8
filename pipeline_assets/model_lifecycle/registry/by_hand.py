"""What a person may do to what is live: promote a version by name, or roll back. Both go through the ledger's compare-and-swap."""

from datetime import datetime

from pipeline_assets.core.errors import ModelRejected, PromotionRefused
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import ledger, versions
from pipeline_assets.model_lifecycle.registry.gate import Rule, broken, served_rule
from pipeline_assets.model_lifecycle.registry.judgement import served_compared
from pipeline_assets.model_lifecycle.registry.ledger import Decision, Entry
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
    contract = versions.load(settings, model, version).contract
    entries = ledger.history(settings, model)
    if ledger.live(entries) == version:
        raise PromotionRefused(model.name, f"version {version} is live already")
    last = next((entry for entry in reversed(entries) if entry.version == version), None)
    is_rejected = last is not None and last.action == "reject"
    judged = [*map(Rule.from_json, last.rules)] if last is not None and is_rejected else []
    against = {rule.name: rule for rule in broken([*judged, served_rule(served_compared(settings, model))])}
    if not is_forced and (is_rejected or against):
        raise ModelRejected(model.name, version, [str(rule) for rule in against.values()])
    since = live_from or end_of_vectors(settings, model) or contract.as_of
    decision = Decision(version=version, actor=actor, reason=reason, live_from=since)
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
    contract = versions.load(settings, model, version).contract
    since = live_from or end_of_vectors(settings, model) or contract.as_of
    decision = Decision(version=version, actor=actor, reason=reason, live_from=since)
    entry = ledger.promote(settings, model, decision, expected_version=ledger.live(entries), action="rollback")
    versions.mirror(settings, model)
    return entry


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
    if to not in {entry.version for entry in entries if entry.action != "reject"}:
        raise PromotionRefused(model.name, f"version {to} was never live, so there is no way back to it; promote it instead")
    return to
