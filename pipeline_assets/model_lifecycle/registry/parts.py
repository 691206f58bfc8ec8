"""Whether the ledger and MLflow's registry belong together, as they do not after one of them was restored to an older time."""

from collections.abc import Iterator

from pipeline_assets.core.errors import in_words
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import ledger, versions
from pipeline_assets.spec.models import Model


def problems(settings: Settings, model: Model) -> Iterator[str]:
    """What does not belong together of a model, one sentence each, with what to do."""
    entries, known = ledger.history(settings, model), versions.known(settings, model)
    live = ledger.live(entries)
    decided = {entry.version for entry in entries}
    lost = sorted(decided - known.versions)
    if lost:
        yield f"{model.name}: MLflow lacks {_listed(lost)}, which the ledger names. Restore MLflow's database and files."
    newer = sorted(version for version in known.versions - decided if version > max(decided, default=0))
    if newer:
        yield (
            f"{model.name}: MLflow has {_listed(newer)}, which the ledger knows nothing of. It may be older than MLflow: restore it, "
            "or `pipeline models promote` the one that was live; or they were trained and not judged yet: materialize the champion."
        )
    if known.champion is not None and known.champion != live:
        now = "no version" if live is None else f"version {live}"
        yield f"{model.name}: MLflow says version {known.champion} is live, and the ledger {now}. The ledger counts; MLflow follows it."
    if live is not None and live not in lost:
        try:
            versions.load(settings, model, live)
        except Exception as error:  # noqa: BLE001 - files that are gone are whatever MLflow or the store makes of it
            yield f"{model.name}: version {live} is live and cannot be loaded: {in_words(error)}"


def _listed(found: list[int]) -> str:
    return f"version{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"
