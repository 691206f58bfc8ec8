"""Packages on this machine: fetched once from the object store, whole or not at all, and held against their hashes at each load.

A service that starts while the object store is away loads from here what it had.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from uuid import uuid4

from pipeline_assets.core.errors import PackageCorrupt
from pipeline_assets.core.settings import ObjectStoreSettings
from pipeline_assets.model_lifecycle.training.contract import ModelContract, answer_of
from pipeline_assets.model_lifecycle.training.scorer import Scorer
from pipeline_assets.processing.features.catalogue import definition_hash, view_hash
from pipeline_assets.serving.realtime.package import CONTRACT_FILE, MANIFEST, Package, loaded, package_from, read_files, read_package
from pipeline_assets.serving.realtime.selftest import WARM_UP_ROWS, Golden, measure, wrong_scores
from pipeline_assets.spec.models import Model


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A version in memory that may serve: its files have their hashes, and its golden rows their scores."""

    model: Model
    version: int
    scorer: Scorer
    golden: Golden
    contract_sha256: str

    @property
    def contract(self) -> ModelContract:
        """The contract of the version."""
        return self.scorer.contract

    @cached_property
    def spread(self) -> float:
        """The range of its scores that is usual: 1 of probabilities, of numbers that of the golden rows."""
        scores = [one for one in self.golden.scores if isinstance(one, float)]
        return (max(scores) - min(scores) or 1.0) if self.contract.unit is not None and scores else 1.0

    @cached_property
    def definitions(self) -> dict[str, str]:
        """The hash of each view of the model, by name."""
        return {view.name: view_hash(view) for view in self.model.views}


class Packages:
    """The packages of some models in a folder of this machine."""

    def __init__(self, settings: ObjectStoreSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder

    def load(self, model: Model, version: int, contract_sha256: str | None = None) -> Loaded | None:
        """A version, tested and warm; None where it has no complete package yet. contract_sha256: what the ledger has noted.

        Raises PackageCorrupt where its files are not what they were, or it answers or computes features otherwise than the model is
        declared now; what is damaged here is fetched once more first.
        """
        package, files = self._kept(model.name, version, contract_sha256) or self._fetched(model.name, version)
        if package is None:
            return None
        try:
            contract, scorer, golden = loaded(package, files, contract_sha256)
        except PackageCorrupt:
            shutil.rmtree(self._place(model.name, version), ignore_errors=True)
            raise
        problems = (*_foreign(model, contract), *wrong_scores(scorer, golden))
        if problems:
            raise PackageCorrupt(model.name, version, problems)
        measure(scorer, golden, WARM_UP_ROWS)
        return Loaded(model=model, version=version, scorer=scorer, golden=golden, contract_sha256=package.files[CONTRACT_FILE].sha256)

    def _kept(self, model: str, version: int, contract_sha256: str | None) -> tuple[Package, Mapping[str, bytes]] | None:
        """A package of this machine; None where it is not here, or not whole."""
        place = self._place(model, version)
        try:
            package = package_from(json.loads((place / MANIFEST).read_bytes()))
            files = {name: (place / name).read_bytes() for name in package.files}
            loaded(package, files, contract_sha256)
        except (OSError, ValueError, TypeError, KeyError, PackageCorrupt):
            shutil.rmtree(place, ignore_errors=True)
            return None
        return package, files

    def _fetched(self, model: str, version: int) -> tuple[Package | None, Mapping[str, bytes]]:
        package = read_package(self._settings, model, version)
        if package is None:
            return None, {}
        files = read_files(self._settings, package)
        place = self._place(model, version)
        draft = place.with_name(f".{uuid4().hex}")
        draft.mkdir(mode=0o700, parents=True)
        for name, content in {**files, MANIFEST: json.dumps(asdict(package)).encode()}.items():
            (draft / name).write_bytes(content)
        try:
            draft.rename(place)
        except OSError:
            # Another worker was faster.
            shutil.rmtree(draft, ignore_errors=True)
        return package, files

    def _place(self, model: str, version: int) -> Path:
        return self._folder / model / str(version)


def _foreign(model: Model, contract: ModelContract) -> tuple[str, ...]:
    """In what a version differs from the model as it is declared now."""
    rules = {
        f"it answers as {contract.answer}, and the model as {answer_of(model.task)}": contract.answer == answer_of(model.task),
        "its features were declared otherwise: train again": contract.definition == definition_hash(model),
    }
    return tuple(problem for problem, holds in rules.items() if not holds)
