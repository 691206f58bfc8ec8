"""From a candidate to a decision in the ledger: register, measure, judge, write down, mirror.

Each step can be repeated: a candidate keeps its version, is judged once, and the mirror follows the ledger. So a run that was killed
anywhere is mended by the next one.
"""

from dataclasses import dataclass
from datetime import timedelta
from time import thread_time
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.feature_store.online.findings import last_comparison
from pipeline_assets.model_lifecycle.registry import gate, ledger, versions
from pipeline_assets.model_lifecycle.registry.gate import Compared, Measured, Rule
from pipeline_assets.model_lifecycle.registry.ledger import Decision, Entry
from pipeline_assets.model_lifecycle.registry.versions import LoadedModel
from pipeline_assets.model_lifecycle.training.archive import read_path
from pipeline_assets.model_lifecycle.training.blocks import HOLDOUT
from pipeline_assets.model_lifecycle.training.candidate import BASELINE, evaluated
from pipeline_assets.model_lifecycle.training.contract import ModelContract
from pipeline_assets.model_lifecycle.training.dataset import only
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.model_lifecycle.training.tasks import task_kind
from pipeline_assets.spec.models import Model

Verdict = Literal["promoted", "rejected", "live already"]
WARM_UP_ROWS, TIMED_ROWS = 20, 200
PERCENTILE = 95


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What became of a candidate, and what is live now.

    `version` is the candidate's; `rules` are those it was held against, and empty for a candidate whose model file is live already.
    `live`, the entry by which a version is live now, and its contract are None where nothing is live: the first candidate was rejected.
    """

    verdict: Verdict
    run_id: str
    version: int
    rules: tuple[Rule, ...]
    live: Entry | None
    live_contract: ModelContract | None


def judge_candidate(settings: Settings, model: Model, run_id: str, *, actor: str) -> Judgement:
    """Judges the candidate of an MLflow run, once; called again, it returns the decision of then.

    A promotion sets MLflow's aliases. Else those that somebody changed there stay, as nothing was decided about them.

    Raises UserInputError if the run is no finished candidate of this model, ArtifactCorrupt if its file or its training set were changed,
    PromotionConflict if another version went live meanwhile (then nothing is decided, and the next call judges against that one).
    """
    candidate = versions.candidate(settings, model, run_id)
    version = versions.register(settings, model, run_id, candidate.contract)
    entries = ledger.history(settings, model)
    entry = next((entry for entry in entries if entry.run_id == run_id), None)
    if entry is None and version != ledger.live(entries):
        entry = _decide(settings, model, candidate, Case(run_id=run_id, version=version, actor=actor, entries=entries))
    versions.catch_up(settings, model)
    now = ledger.made_live(ledger.history(settings, model))
    return Judgement(
        verdict="live already" if entry is None else "rejected" if entry.action == "reject" else "promoted",
        run_id=run_id,
        version=version,
        rules=() if entry is None else tuple(map(Rule.from_json, entry.rules)),
        live=now,
        live_contract=None if now is None else versions.load(settings, model, now.version).contract,
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """Which candidate is to be judged, by whom, and the entries of the ledger before."""

    run_id: str
    version: int
    actor: str
    entries: tuple[Entry, ...]


def _decide(settings: Settings, model: Model, candidate: LoadedModel, case: Case) -> Entry:
    rules = gate.judge(model.gate, task_kind(model.task), _measure(settings, model, candidate, case))
    broken = gate.broken(rules)
    decision = Decision(
        version=case.version,
        actor=case.actor,
        reason="; ".join(map(str, broken)) if broken else f"Passed all {len(rules)} rules; {rules[0]}",
        live_from=candidate.contract.as_of,
        # Not the candidate's: a model file that was learned before is the version of then, with the contract of then.
        contract_sha256=versions.load(settings, model, case.version).contract_sha256,
        rules=[rule.to_json() for rule in rules],
        run_id=case.run_id,
    )
    if broken:
        return ledger.reject(settings, model, decision)
    entry = ledger.promote(settings, model, decision, expected_version=ledger.live(case.entries))
    versions.mirror(settings, model)
    return entry


def _measure(settings: Settings, model: Model, candidate: LoadedModel, case: Case) -> Measured:
    contract = candidate.contract
    held = only(read_path(settings, contract.training_set, contract.training_set_sha256), HOLDOUT)
    live = ledger.live(case.entries)
    champion = versions.load(settings, model, live) if live is not None else None
    lost = 0 if champion is None else sum(feature.name not in held.column_names for feature in champion.contract.features)
    other = champion is not None and champion.contract.answer != contract.answer
    return Measured(
        candidate=evaluated(model, held, candidate.scorer.score(held)),
        champion=None if champion is None or lost or other else evaluated(model, held, champion.scorer.score(held)),
        baseline=contract.metrics.get(f"{BASELINE}{model.gate.metric}"),
        size_bytes=contract.size_bytes,
        latency_ms=_latency_ms(candidate.scorer, held),
        champion_ahead=timedelta(0) if champion is None else champion.contract.as_of - contract.as_of,
        features_lost=lost,
        answers_otherwise=other,
        rolled_back=sum(entry.action == "rollback" and entry.previous_version == case.version for entry in case.entries),
        served=served_compared(settings, model),
    )


def served_compared(settings: Settings, model: Model) -> Compared | None:
    """The newest comparison of vectors of a model that were served online; None where none was ever compared."""
    found = last_comparison(settings, model)
    if found is None:
        return None
    return Compared(at=found.checked_at.isoformat(timespec="seconds"), vectors=found.checked, differing=tuple(found.differing))


def _latency_ms(scorer: Scorer, held: pa.Table) -> float:
    """The 95th percentile of scoring one row, over rows spread evenly over the hold-out, after a warm-up.

    It is the time on the processor, not by the wall clock: a model must not be rejected because the machine that judges it is busy.
    """
    rows = np.linspace(0, held.num_rows - 1, WARM_UP_ROWS + TIMED_ROWS).astype(int).tolist()
    seconds = [_seconds(scorer, held.slice(row, 1)) for row in rows]
    return float(1000 * np.percentile(seconds[WARM_UP_ROWS:], PERCENTILE))


def _seconds(scorer: Scorer, row: pa.Table) -> float:
    begun = thread_time()
    scorer.score(row)
    return thread_time() - begun
