"""The aliases of a registered model in MLflow, by its REST interface.

MLflow's own client brings all of MLflow into memory, which a process that looks once a minute would keep, and asks for four minutes where
a server is away. Here each question is asked once, for 10 s, as who looks comes again; what is to be set is tried a few times, as the
decision behind it stands.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import stamina

from pipeline_assets.core.errors import SourceUnavailable
from pipeline_assets.core.http_errors import http_errors, json_fields
from pipeline_assets.core.https import verification
from pipeline_assets.core.settings import PREFIX, TrackingSettings
from pipeline_assets.core.wait_errors import TrackingUnavailable

if TYPE_CHECKING:
    import httpx

ANSWER_SECONDS, TRIES, TRIED_SECONDS = 10.0, 4, 15.0
MODELS = "/api/2.0/mlflow/registered-models"
# What MLflow answers for a name that no model has.
NO_SUCH_MODEL = "RESOURCE_DOES_NOT_EXIST"


def read(settings: TrackingSettings, model: str) -> dict[str, int]:
    """The version of each alias; none where nothing was registered. Raises TrackingUnavailable, and SourceRefused, as the others do."""
    with _asking(settings) as client:
        answer = client.get(f"{MODELS}/get", params={"name": model})
        if json_fields(answer).get("error_code") == NO_SUCH_MODEL:
            return {}
        found = answer.raise_for_status().json()["registered_model"].get("aliases", [])
    return {each["alias"]: int(each["version"]) for each in found}


@stamina.retry(on=TrackingUnavailable, attempts=TRIES, timeout=TRIED_SECONDS)
def put(settings: TrackingSettings, model: str, alias: str, version: int) -> None:
    """Has an alias name a version, whatever it named before."""
    with _asking(settings) as client:
        client.post(f"{MODELS}/alias", json={"name": model, "alias": alias, "version": str(version)}).raise_for_status()


@stamina.retry(on=TrackingUnavailable, attempts=TRIES, timeout=TRIED_SECONDS)
def remove(settings: TrackingSettings, model: str, alias: str) -> None:
    """Takes an alias away."""
    with _asking(settings) as client:
        client.request("DELETE", f"{MODELS}/alias", json={"name": model, "alias": alias}).raise_for_status()


@contextmanager
def _asking(settings: TrackingSettings) -> "Iterator[httpx.Client]":
    import httpx

    user, password = settings.mlflow_user, settings.mlflow_password
    login = (user, password.get_secret_value()) if user is not None and password is not None else None
    url = str(settings.mlflow_url)
    trusted = verification(f"{PREFIX}MLFLOW_URL", url, settings)
    try:
        with http_errors("MLflow"), httpx.Client(base_url=url, timeout=ANSWER_SECONDS, auth=login, verify=trusted) as client:
            yield client
    except SourceUnavailable as error:
        raise TrackingUnavailable(url, str(error)) from error
