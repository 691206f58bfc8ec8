"""The asset of the registry: the champion of each model, which a candidate becomes if it passes the gate."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from pipeline_assets.core import names
from pipeline_assets.core.handover import needed
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, dagster_errors, key, use_case_tags
from pipeline_assets.model_lifecycle.registry.sensors import ALIASES_MATCH, aliases_mirrored
from pipeline_assets.spec.models import Model
from pipeline_assets.spec.use_case import UseCase

if TYPE_CHECKING:
    from pipeline_assets.model_lifecycle.registry.gate import Rule
    from pipeline_assets.model_lifecycle.registry.judgement import Judgement
    from pipeline_assets.model_lifecycle.registry.ledger import Entry

GATE = "gate"
# By this the candidate is handed to the gate.
CANDIDATE_RUN_ID = "mlflow_run_id"
CODE_VERSION = "2"


class ChosenCandidate(dg.Config):
    """Which candidate is judged, where it is not that of the same run."""

    candidate_run_id: str | None = Field(default=None, description="MLflow run of a candidate. Default: the candidate of this run.")


def defs(project: Project) -> dg.Definitions:
    """The champion of every model, and the aliases that follow it."""
    champions = [_champion(project.home_of_model(model), model) for model in project.models]
    return dg.Definitions(assets=champions, sensors=[aliases_mirrored(project.models)] if champions else [])


def _champion(use_case: UseCase, model: Model) -> dg.AssetsDefinition:
    asset_key = key(names.champion(model.name))
    upstream = key(names.candidate(model.name))

    @dg.asset(
        key=asset_key,
        deps=[upstream],
        group_name=names.REGISTRY,
        kinds={"mlflow", "postgres"},
        owners=[model.owner],
        tags=use_case_tags(use_case),
        code_version=CODE_VERSION,
        pool=names.REGISTRY,
        description=f"The live version of {model.name}: the candidate of the run where it passes the gate, else the one before.",
        check_specs=[
            dg.AssetCheckSpec(GATE, asset=asset_key, description="The candidate keeps every rule of the gate."),
            dg.AssetCheckSpec(ALIASES_MATCH, asset=asset_key, description="MLflow's aliases name the versions that the ledger names."),
        ],
    )
    def champion(context: dg.AssetExecutionContext, platform: Platform, config: ChosenCandidate) -> dg.MaterializeResult:
        from pipeline_assets.model_lifecycle.registry.aliases import alias_drift, in_words
        from pipeline_assets.model_lifecycle.registry.judgement import judge_candidate
        from pipeline_assets.model_lifecycle.registry.versions import version_url

        with dagster_errors():
            settings = platform.settings
            run_id = needed(context, upstream, CANDIDATE_RUN_ID, given=config.candidate_run_id, option="candidate_run_id")
            changed = alias_drift(settings, model)
            judged = judge_candidate(settings, model, run_id, actor=f"dagster run {context.run.run_id}")
            context.log.info("Candidate of run %s: %s", judged.run_id, judged.verdict)
            page = dg.MetadataValue.url(version_url(settings, model, judged.version))
            left = alias_drift(settings, model) if changed else ()
        sentence, severity = in_words(model, left, before=changed), dg.AssetCheckSeverity.WARN
        aliases = dg.AssetCheckResult(check_name=ALIASES_MATCH, passed=not left, severity=severity, description=sentence)
        return dg.MaterializeResult(metadata=_metadata(model, judged) | {"version_page": page}, check_results=[_check(judged), aliases])

    return champion


def _metadata(model: Model, judged: "Judgement") -> dict[str, dg.MetadataValue | float | int | str]:
    """What is live now, and what became of the candidate."""
    from pipeline_assets.model_lifecycle.training.candidate import BASELINE

    metadata: dict[str, dg.MetadataValue | float | int | str] = {
        "verdict": judged.verdict,
        "candidate_run_id": judged.run_id,
        "candidate_version": judged.version,
        "rules": _rules(judged.rules),
    }
    if judged.live is not None and judged.live_contract is not None:
        contract, metric = judged.live_contract, model.gate.metric
        shown = dict.fromkeys((metric, f"{BASELINE}{metric}", "calibration_error"))
        figures = {name: contract.metrics[name] for name in shown if name in contract.metrics}
        metadata |= {"version": judged.live.version, "training_rows": contract.rows, "sha256": contract.sha256, **figures}
        metadata |= {"as_of": dg.MetadataValue.timestamp(contract.as_of), "made_live_by": _made_live(judged.live)}
    return metadata


def _made_live(entry: "Entry") -> dg.MetadataValue:
    """Who made the live version live, when, why, and the rules that it kept then, whatever became of candidates since."""
    kept = [f"| {rule['name']} | {_shown(rule['value'])} | {rule['limit']:.6g} | {rule['passed']} |" for rule in entry.rules]
    table = ["", "| rule | value | limit | kept |", "|---|---|---|---|", *kept] if kept else []
    head = f"{entry.action} of version {entry.version} by {entry.actor}, {entry.recorded_at:%Y-%m-%d %H:%M} UTC: {entry.reason}"
    return dg.MetadataValue.md("\n".join([head, *table]))


def _rules(rules: "Sequence[Rule]") -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "rule": rule.name,
                    "value": _shown(rule.value),
                    "must be": rule.bound,
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


def _check(judged: "Judgement") -> dg.AssetCheckResult:
    """Which rules were broken, and by how much."""
    from pipeline_assets.model_lifecycle.registry import gate

    broken = gate.broken(judged.rules)
    return dg.AssetCheckResult(
        check_name=GATE,
        passed=not broken,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(str(rule) for rule in broken) or f"Candidate {judged.verdict}.",
        metadata={"candidate_version": judged.version, "rules_broken": len(broken), "rules": _rules(judged.rules)},
    )
