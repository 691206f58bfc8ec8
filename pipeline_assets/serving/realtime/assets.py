"""The assets of real-time inference: the package of each live version, proven by loading it back, and what answers with it."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from pipeline_assets.core import names
from pipeline_assets.core.handover import handed_over
from pipeline_assets.core.project import Project
from pipeline_assets.core.resources import Platform, dagster_errors, key, use_case_tags
from pipeline_assets.serving.realtime.health import assets as health
from pipeline_assets.serving.realtime.health.sensors import endpoint_health
from pipeline_assets.spec.models import Gate, Model
from pipeline_assets.spec.use_case import UseCase

if TYPE_CHECKING:
    from pipeline_assets.serving.realtime.package import Verdict

SELFTEST, LATENCY = "selftest", "latency"
# By this the champion hands over which version is live.
HANDED_VERSION = "version"

Metadata = dict[str, dg.MetadataValue | int | float | str]


class ChosenVersion(dg.Config):
    """Which version is packaged, where it is not the one that is live after the judgement of the same run."""

    version: int | None = Field(
        default=None, description="A version. Default: what is live after the champion of this run, else what is live."
    )


def defs(project: Project) -> dg.Definitions:
    """The package of every model, and its endpoint with checks and their sensor; none where there is no model."""
    if not project.models:
        return dg.Definitions()
    homes = {model.name: project.home_of_model(model).name for model in project.models}
    packages = [_package(project.home_of_model(model), model) for model in project.models]
    return dg.Definitions(
        assets=[*packages, *health.endpoints(project)],
        asset_checks=[health.is_served(project.models, homes)],
        sensors=[endpoint_health(project.models, homes)],
    )


def health_checks(project: Project) -> list[dg.AssetCheckKey]:
    """The checks that a sensor evaluates."""
    return [check.key for check in health.specs(project.models)]


def _package(use_case: UseCase, model: Model) -> dg.AssetsDefinition:
    asset_key = key(names.package(model.name))

    @dg.asset(
        key=asset_key,
        deps=[key(names.champion(model.name)), key(names.training_set(model.name))],
        group_name=names.REALTIME_INFERENCE,
        kinds={"xgboost", "s3"},
        owners=[model.owner],
        tags=use_case_tags(use_case),
        code_version="2",
        pool=names.REALTIME_INFERENCE,
        description=f"What the prediction service loads of {model.name}: model, contract, rows with known scores. One folder per version.",
        check_specs=_check_specs(asset_key, model.gate),
    )
    def package(context: dg.AssetExecutionContext, platform: Platform, config: ChosenVersion) -> dg.MaterializeResult:
        from pipeline_assets.serving.realtime.package import build_package, verify_package

        with dagster_errors():
            built = build_package(platform.settings, model, _version(context, model, config))
            context.log.info("version %d in %s", built.version, built.uri)
            verdict = verify_package(platform.settings, model, built.version)
        return dg.MaterializeResult(metadata=_metadata(verdict), check_results=[_selftest(verdict), _latency(model.gate, verdict)])

    return package


def _version(context: dg.AssetExecutionContext, model: Model, config: ChosenVersion) -> int | None:
    """The version that the config names, or that the champion of this run handed over; None: the one that is live."""
    if config.version is not None:
        return config.version
    found = handed_over(context, key(names.champion(model.name)), HANDED_VERSION)
    return None if found is None else int(found)


def _check_specs(asset_key: dg.AssetKey, gate: Gate) -> list[dg.AssetCheckSpec]:
    selftest = "Loaded back, every file has the bytes of the manifest, and the golden rows get their known scores to the last bit."
    latency = f"The 95th percentile of scoring one row is at most {gate.max_latency_ms} ms."
    return [
        dg.AssetCheckSpec(SELFTEST, asset=asset_key, blocking=True, description=selftest),
        dg.AssetCheckSpec(LATENCY, asset=asset_key, description=latency),
    ]


def _selftest(verdict: "Verdict") -> dg.AssetCheckResult:
    metadata: Metadata = {"golden_rows": verdict.golden_rows, "problems": dg.MetadataValue.json(list(verdict.problems))}
    return dg.AssetCheckResult(check_name=SELFTEST, passed=not verdict.problems, metadata=metadata)


def _latency(gate: Gate, verdict: "Verdict") -> dg.AssetCheckResult:
    latency = verdict.latency
    return dg.AssetCheckResult(
        check_name=LATENCY,
        passed=latency is not None and latency.p95_ms <= gate.max_latency_ms,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"max_latency_ms": gate.max_latency_ms, **_percentiles(verdict)},
    )


def _metadata(verdict: "Verdict") -> Metadata:
    package = verdict.package
    files = [dg.TableRecord({"file": name, "bytes": file.bytes, "sha256": file.sha256}) for name, file in package.files.items()]
    return {
        "dagster/uri": dg.MetadataValue.text(package.uri),
        "model_version": package.version,
        "golden_rows": verdict.golden_rows,
        "bytes": sum(file.bytes for file in package.files.values()),
        "files": dg.MetadataValue.table(files),
        **_percentiles(verdict),
    }


def _percentiles(verdict: "Verdict") -> dict[str, float]:
    latency = verdict.latency
    return {} if latency is None else {"p50_ms": latency.p50_ms, "p95_ms": latency.p95_ms, "p99_ms": latency.p99_ms}
