"""From the newest candidate to a decision in the ledger: register, measure, judge, write down, mirror.

Each step can be repeated: a candidate keeps its version, is judged once, and the mirror follows the ledger. So a run that was killed
anywhere is mended by the next one.
"""

from dataclasses import dataclass
from time import thread_time
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import gate, ledger, versions
from pipeline_assets.model_lifecycle.registry.gate import Measured, Rule
from pipeline_assets.model_lifecycle.registry.ledger import Decision, Entry
from pipeline_assets.model_lifecycle.registry.versions import LoadedModel
from pipeline_assets.model_lifecycle.training.archive import read_path
from pipeline_assets.model_lifecycle.training.candidate import BASELINE
from pipeline_assets.model_lifecycle.training.contract import ModelContract
from pipeline_assets.model_lifecycle.training.dataset import HOLDOUT, only
from pipeline_assets.model_lifecycle.training.evaluate import Evaluation, evaluate
from pipeline_assets.model_lifecycle.training.fit import labels_of
from pipeline_assets.spec.models import Model

Verdict = Literal["promoted", "rejected", "live already"]
WARM_UP_ROWS, TIMED_ROWS = 20, 200
PERCENTILE = 95


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What became of the newest candidate, and what is live now.

    `version` is the candidate's; `rules` are those it was held against, and empty for a candidate whose model file is live already.
    `live_version` and its contract are None where nothing is live: the first candidate was rejected.
    """

    verdict: Verdict
    run_id: str
    version: int
    rules: tuple[Rule, ...]
    live_version: int | None
    live_contract: ModelContract | None


def judge_newest(settings: Settings, use_case: str, model: Model, *, actor: str) -> Judgement:
    """Judges the candidate that was finished last, once; asked again, it tells the decision of then.

    Raises NotTrained if there is no candidate, ArtifactCorrupt if its file or its training set were changed, PromotionConflict if another
    version went live meanwhile (then nothing is decided, and the next call judges against that one).
    """
    run_id = versions.newest_candidate(settings, use_case, model)
    candidate = versions.load_run(settings, run_id)
    version = versions.register(settings, model, run_id, candidate.contract)
    entries = ledger.history(settings, model)
    entry = next((entry for entry in entries if entry.run_id == run_id), None)
    live = ledger.live(entries)
    if entry is None and version != live:
        entry = _decide(settings, model, candidate, Asked(run_id=run_id, version=version, actor=actor, entries=entries))
    versions.mirror(settings, model)
    now = ledger.live_version(settings, model)
    return Judgement(
        verdict="live already" if entry is None else "rejected" if entry.action == "reject" else "promoted",
        run_id=run_id,
        version=version,
        rules=() if entry is None else tuple(Rule.from_json(told) for told in entry.rules),
        live_version=now,
        live_contract=None if now is None else versions.load(settings, model, now).contract,
    )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which candidate is to be judged, by whom, and what the ledger said before."""

    run_id: str
    version: int
    actor: str
    entries: tuple[Entry, ...]


def _decide(settings: Settings, model: Model, candidate: LoadedModel, asked: Asked) -> Entry:
    expected = ledger.live(asked.entries)
    rules = gate.judge(model.gate, _measure(settings, model, candidate, asked))
    broken = gate.broken(rules)
    decision = Decision(
        version=asked.version,
        actor=asked.actor,
        reason="; ".join(map(str, broken)) if broken else f"Passed all {len(rules)} rules; {rules[0]}",
        live_from=candidate.contract.as_of,
        rules=[rule.to_json() for rule in rules],
        run_id=asked.run_id,
    )
    if broken:
        return ledger.reject(settings, model, decision)
    return ledger.promote(settings, model, decision, expected_version=expected)


def _measure(settings: Settings, model: Model, candidate: LoadedModel, asked: Asked) -> Measured:
    contract = candidate.contract
    held = only(read_path(settings, contract.training_set, contract.training_set_sha256), HOLDOUT)
    live = ledger.live(asked.entries)
    champion = versions.load(settings, model, live) if live is not None else None
    lost = [] if champion is None else [feature.name for feature in champion.contract.features if feature.name not in held.column_names]
    return Measured(
        candidate=_evaluated(model, candidate, held),
        champion=None if champion is None or lost else _evaluated(model, champion, held),
        baseline_roc_auc=contract.metrics[f"{BASELINE}roc_auc"],
        size_bytes=contract.size_bytes,
        latency_ms=_latency_ms(candidate, held),
        features_lost=len(lost),
        rolled_back=sum(entry.action == "rollback" and entry.previous_version == asked.version for entry in asked.entries),
    )


def _evaluated(model: Model, loaded: LoadedModel, held: pa.Table) -> Evaluation:
    return evaluate(held, labels_of(held), loaded.score(held), slices=model.slices, decision_at=model.observations.decision_at)


def _latency_ms(loaded: LoadedModel, held: pa.Table) -> float:
    """The 95th percentile of scoring one row, over rows spread evenly over the hold-out, after a warm-up.

    It is the time on the processor, not by the wall clock: a model must not be rejected because the machine that judges it is busy.
    """
    rows = np.linspace(0, held.num_rows - 1, WARM_UP_ROWS + TIMED_ROWS).astype(int).tolist()
    seconds = [_seconds(loaded, held.slice(row, 1)) for row in rows]
    return float(1000 * np.percentile(seconds[WARM_UP_ROWS:], PERCENTILE))


def _seconds(loaded: LoadedModel, row: pa.Table) -> float:
    begun = thread_time()
    loaded.score(row)
    return thread_time() - begun
