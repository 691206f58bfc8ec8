"""Decisions on a version that is tried beside the live one: start, step, return, promotion.

Each is an entry of the ledger, by compare-and-swap. Every process of the prediction service may decide, at the same moment as others and
as a person: whoever saw the last entry of the trial wins, and the others write nothing. Nothing here needs MLflow.
"""

from typing import TYPE_CHECKING

from pipeline_assets.core.trial_errors import TrialConflict
from pipeline_assets.model_lifecycle.registry import ledger
from pipeline_assets.model_lifecycle.registry.ledger import Decision, Entry, Role, Trial
from pipeline_assets.spec.models import Model

if TYPE_CHECKING:
    import psycopg


def start(
    connection: "psycopg.Connection", model: Model, decision: Decision, *, role: Role, share: float | None, expected: Trial | None
) -> Entry:
    """Has a version tried: in the shadow, or as a canary for a `share` of entities (between 0 and 1).

    `expected` is what is tried now; another share of the same canary is its next step. Raises TrialConflict if something else is tried.
    """
    with connection.transaction():
        found = _expected(connection, model, expected)
        return ledger.append(connection, model, role, decision, found, share=share)


def end(connection: "psycopg.Connection", model: Model, decision: Decision, *, expected: Trial) -> Entry:
    """Ends a trial: its version returns, and the live one answers alone. Raises TrialConflict if something else is tried by now."""
    with connection.transaction():
        return ledger.append(connection, model, "return", decision, _expected(connection, model, expected))


def finish(connection: "psycopg.Connection", model: Model, decision: Decision, *, expected: Trial) -> Entry:
    """Ends a trial: its version goes live. Raises TrialConflict if something else is tried, or another version is live by now."""
    with connection.transaction():
        return ledger.append(connection, model, "promote", decision, _expected(connection, model, expected))


def in_words(trial: Trial | None) -> str:
    """What is tried, for people."""
    if trial is None:
        return "no version is tried"
    if trial.share is None:
        return f"version {trial.version} is in the shadow"
    return f"version {trial.version} answers {trial.share * 100:g} % of entities"


def _expected(connection: "psycopg.Connection", model: Model, expected: Trial | None) -> tuple[Entry, ...]:
    """The entries of the model, locked; raises TrialConflict."""
    found = ledger.locked(connection, model)
    if ledger.trial(found) != expected:
        raise TrialConflict(model.name, in_words(expected), in_words(ledger.trial(found)))
    return found
