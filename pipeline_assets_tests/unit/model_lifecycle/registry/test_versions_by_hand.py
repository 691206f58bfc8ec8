"""Versions that somebody registered in MLflow's own page: they stop nothing, and are told from those of the platform."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput

from pipeline_assets.core.connections import tracking
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import versions
from pipeline_assets.model_lifecycle.registry.commands import _version_cells
from pipeline_assets.model_lifecycle.training.contract import ModelContract
from pipeline_assets.model_lifecycle.training.track import CONTRACT_FILE, SHA256_TAG, log_candidate
from pipeline_assets_tests.live_models import ORIGIN, learned
from pipeline_assets_tests.model_rows import record_of, small_model

MODEL = small_model()
# MLflow's own store, which is in the process here; in all else it is the server's.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@dataclass(frozen=True, kw_only=True)
class Registry:
    """MLflow in a file, with a candidate that was learned and logged, and nothing registered."""

    settings: Settings
    run_id: str
    model_id: str
    contract: ModelContract

    @property
    def client(self) -> MlflowClient:
        """Its client."""
        return tracking(self.settings)

    def register_by_hand(self) -> int:
        """What the button "Register model" on the page of the logged model does: a version without tags."""
        made = self.client.create_model_version(MODEL.name, f"models:/{self.model_id}", model_id=self.model_id, await_creation_for=0)
        return int(made.version)

    def log_again(self, contract: ModelContract) -> str:
        """Another run, of the same logged model and with this contract."""
        run = self.client.create_run(self.client.get_run(self.run_id).info.experiment_id, tags={SHA256_TAG: contract.sha256})
        run_id = str(run.info.run_id)
        self.client.log_outputs(run_id, [LoggedModelOutput(self.model_id, 0)])
        self.client.log_text(run_id, contract.to_json(), CONTRACT_FILE)
        return run_id


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """In a folder of its own."""
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/mlflow.db"
    # A registry in a file asks for logged models there, as the server asks its own store.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    settings = Settings.model_construct(mlflow_url=url, mlflow_user=None, mlflow_password=None)
    rows, candidate = learned(7)
    run_id = log_candidate(settings, "tests", candidate, record_of(MODEL, rows), ORIGIN)
    client = tracking(settings)
    client.create_registered_model(MODEL.name)
    outputs = client.get_run(run_id).outputs
    assert outputs is not None
    model_id = outputs.model_outputs[0].model_id
    return Registry(settings=settings, run_id=run_id, model_id=model_id, contract=candidate.contract)


def test_a_version_that_was_registered_by_hand_stops_no_later_training(registry: Registry) -> None:
    """Regression: each later candidate ended in KeyError 'pipeline.sha256', and `models list` too.

    A candidate that was registered by hand has its version, also where the same model file is learned again; others get the next ones, and
    what is no candidate at all is listed without facts.
    """
    settings, client, contract = registry.settings, registry.client, registry.contract
    other = replace(contract, sha256="0" * 64, training_set_sha256="1" * 64)
    assert registry.register_by_hand() == 1
    client.create_model_version(MODEL.name, "somewhere/else", await_creation_for=0)
    stranger = client.create_run(client.get_run(registry.run_id).info.experiment_id).info.run_id
    client.create_model_version(MODEL.name, f"runs:/{stranger}/model", stranger, await_creation_for=0)

    numbers = [
        versions.register(settings, MODEL, run_id, asked)
        for run_id, asked in ((registry.run_id, contract), (registry.log_again(contract), contract), (registry.log_again(other), other))
    ]

    assert numbers == [1, 1, 4]
    listed = versions.registered(settings, MODEL)
    assert [each.sha256 for each in listed] == [contract.sha256, None, None, other.sha256]
    assert [None if each.as_of is None else datetime.fromisoformat(each.as_of) for each in listed] == [
        contract.as_of, None, None, contract.as_of,
    ]  # fmt: skip
    assert listed[0].metrics[MODEL.gate.metric] == contract.metrics[MODEL.gate.metric]
    assert versions.trained_on(settings, MODEL) == {1: contract.training_set_sha256, 4: other.training_set_sha256}


def test_a_version_that_is_no_candidate_is_listed_without_a_time() -> None:
    """The table has a dash where the platform knows nothing."""
    assert _version_cells("roc_auc", {"version": 2, "state": "no candidate", "as_of": None, "metrics": {}})[:3] == [
        "2",
        "no candidate",
        "–",
    ]
