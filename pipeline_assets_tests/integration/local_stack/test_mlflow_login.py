"""MLflow asks who is there: nobody without the login of the stack reads or writes anything of it."""

import httpx
import pytest
from mlflow.exceptions import MlflowException
from pydantic import SecretStr

from pipeline_assets.core.connections import tracking
from pipeline_assets.core.settings import Settings

API = "/api/2.0/mlflow"


@pytest.mark.parametrize("login", [None, ("pipeline", "guessed"), ("admin", "password1234")])
def test_a_user_of_the_machine_without_the_password_gets_nothing_of_mlflow(stack: Settings, login: tuple[str, str] | None) -> None:
    """Status 401 for runs, versions, artifacts, jobs and new users; the health alone is open."""
    with httpx.Client(base_url=stack.mlflow_url, auth=login) as stranger:
        answers = [
            stranger.get("/"),
            stranger.get(f"{API}/experiments/search", params={"max_results": 1}),
            stranger.post(f"{API}/experiments/create", json={"name": "mine"}),
            stranger.post(f"{API}/registered-models/create", json={"name": "mine"}),
            stranger.get(f"{API}-artifacts/artifacts"),
            stranger.put(f"{API}-artifacts/artifacts/1/mine.txt", content=b"swapped"),
            stranger.post(f"{API}/users/create", json={"username": "mine", "password": "password1234"}),
        ]
        health = stranger.get("/health")

    assert [answer.status_code for answer in answers] == [401] * len(answers)
    assert health.status_code == httpx.codes.OK


def test_the_platform_logs_in_with_its_settings(stack: Settings) -> None:
    """Its client reads with the login that the settings have, and is refused with another one."""
    assert tracking(stack).search_experiments(max_results=1) != []
    with pytest.raises(MlflowException, match="401"):
        tracking(stack.model_copy(update={"mlflow_password": SecretStr("guessed")})).search_experiments(max_results=1)
    assert tracking(stack).search_experiments(max_results=1) != []
