"""The asset of the registry: the champion, which the newest candidate becomes if it passes the gate."""

from collections.abc import Sequence

import dagster as dg

from pipeline_assets.core import names
from pipeline_assets.core.resources import Platform, dagster_errors, key
from pipeline_assets.model_lifecycle.registry import gate
from pipeline_assets.model_lifecycle.registry.gate import Rule
from pipeline_assets.model_lifecycle.registry.judgement import Judgement, judge_newest
from pipeline_assets.model_lifecycle.registry.versions import version_url
from pipeline_assets.model_lifecycle.training.candidate import BASELINE
from pipeline_assets.spec.use_case import UseCase

GATE, ROC_AUC = "gate", "roc_auc"
CODE_VERSION = "1"


def defs(use_case: UseCase) -> dg.Definitions:
    """The champion of the use case's model."""
    return dg.Definitions(assets=[_champion(use_case)])


def _champion(use_case: UseCase) -> dg.AssetsDefinition:
    model = use_case.model
    asset_key = key(names.champion(model.name))

    @dg.asset(
        key=asset_key,
        deps=[key(names.candidate(model.name))],
        group_name=names.REGISTRY,
        kinds={"mlflow", "postgres"},
        owners=[model.owner],
        code_version=CODE_VERSION,
        pool=names.REGISTRY,
        description=f"The live version of {model.name}: the newest candidate where it passes the gate, else the version that was live.",
        check_specs=[dg.AssetCheckSpec(GATE, asset=asset_key, description="The newest candidate keeps every rule of the gate.")],
    )
    def champion(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        with dagster_errors():
            settings = platform.settings
            judged = judge_newest(settings, use_case.name, model, actor=f"dagster run {context.run.run_id}")
            context.log.info("Candidate of run %s: %s", judged.run_id, judged.verdict)
            metadata = _metadata(judged) | {"version_page": dg.MetadataValue.url(version_url(settings, model, judged.version))}
        return dg.MaterializeResult(metadata=metadata, check_results=[_check(judged)])

    return champion


def _metadata(judged: Judgement) -> dict[str, dg.MetadataValue | float | int | str]:
    """What is live now, and what became of the candidate."""
    told: dict[str, dg.MetadataValue | float | int | str] = {
        "verdict": judged.verdict,
        "candidate_run_id": judged.run_id,
        "candidate_version": judged.version,
        "rules": _rules(judged.rules),
    }
    if judged.live_version is not None and judged.live_contract is not None:
        contract = judged.live_contract
        figures = {name: contract.metrics[name] for name in (ROC_AUC, f"{BASELINE}{ROC_AUC}", "calibration_error")}
        told |= {"version": judged.live_version, "training_rows": contract.rows, "sha256": contract.sha256, **figures}
        told["as_of"] = dg.MetadataValue.timestamp(contract.as_of)
    return told


def _rules(rules: Sequence[Rule]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "rule": rule.name,
                    "value": _shown(rule.value),
                    "must be": f"{'at least' if rule.is_minimum else 'at most'} {rule.limit:g}",
                    "by": _shown(rule.margin),
                    "kept": rule.passed,
                }
            )
            for rule in rules
        ],
        schema=dg.TableSchema.from_name_type_dict(
            {"rule": "string", "value": "string", "must be": "string", "by": "string", "kept": "bool"}
        ),
    )


def _shown(number: float | None) -> str:
    return "–" if number is None else f"{number:.6g}"


def _check(judged: Judgement) -> dg.AssetCheckResult:
    """Which rules were broken, and by how much."""
    broken = gate.broken(judged.rules)
    return dg.AssetCheckResult(
        check_name=GATE,
        passed=not broken,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(str(rule) for rule in broken) or f"Candidate {judged.verdict}.",
        metadata={"candidate_version": judged.version, "rules_broken": len(broken), "rules": _rules(judged.rules)},
    )
