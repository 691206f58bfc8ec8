"""The model as MLflow's users know models: its clients load it from MLflow by `pyfunc` and `xgboost`.

XGBoost's own file beside a signature, an example and what has to be installed; no pickle and no code is in it. The platform itself loads
the file of the run, whose hash it checks first, and never this one.
"""

import warnings
from pathlib import Path
from platform import python_version
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline_assets.model_lifecycle.training.candidate import Candidate
from pipeline_assets.model_lifecycle.training.contract import ModelContract

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model, ModelSignature

MODEL_FILE = "model.ubj"


def log_model(client: "MlflowClient", experiment: str, run_id: str, candidate: Candidate) -> str:
    """Adds the candidate's model to its run, and returns the id that MLflow gives it; one that cannot be completed ends as FAILED."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    contract = candidate.contract
    made = client.create_logged_model(
        experiment, contract.model, run_id, tags={"pipeline.sha256": contract.sha256}, model_type=contract.task
    )
    model_id = str(made.model_id)
    try:
        with TemporaryDirectory() as folder:
            described = Model(artifact_path=made.artifact_location, run_id=run_id, model_id=model_id, model_uuid=model_id)
            write_model(Path(folder) / "model", candidate, described)
            client.log_model_artifacts(model_id, str(Path(folder) / "model"))
        client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    except BaseException:
        client.finalize_logged_model(model_id, "FAILED")
        raise
    client.finalize_logged_model(model_id, "READY")
    return model_id


def write_model(folder: Path, candidate: Candidate, described: "Model") -> None:
    """Writes a new folder with the candidate's model in MLflow's form, of the flavors `xgboost` and `python_function`."""
    import pandas as pd
    import xgboost

    with warnings.catch_warnings():
        # MLflow warns of its own type hints when this is imported.
        warnings.simplefilter("ignore")
        from mlflow.xgboost import save_model

    contract = candidate.contract
    save_model(
        xgboost.Booster(model_file=bytearray(candidate.fitted.artifact)),
        str(folder),
        mlflow_model=described,
        conda_env=_environment(contract),
        signature=signature(contract),
        input_example=pd.DataFrame([candidate.example]),
        model_format="ubj",
        metadata={"categories": {feature.name: list(feature.categories) for feature in contract.features if feature.is_categorical}},
    )
    # The very bytes whose hash is in the contract.
    (folder / MODEL_FILE).write_bytes(candidate.fitted.artifact)


def signature(contract: ModelContract) -> "ModelSignature":
    """What the model takes and gives: each feature as a 64-bit float in the model's order, null as NaN, a category as its position.

    It gives 32-bit floats: probabilities of a true label (rows,), of the classes (rows, classes), or values (rows,).
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    shape = (-1, len(contract.classes)) if contract.classes else (-1,)
    inputs: list[ColSpec | TensorSpec] = [ColSpec("double", feature.name) for feature in contract.features]
    return ModelSignature(Schema(inputs), Schema([TensorSpec(np.dtype("float32"), shape)]))


def _environment(contract: ModelContract) -> dict[str, object]:
    """What has to be installed to load the model: not the platform."""
    from mlflow.version import VERSION

    packages = [f"mlflow=={VERSION}", f"xgboost=={contract.libraries['xgboost']}"]
    return {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": [f"python={python_version()}", "pip", {"pip": packages}]}
