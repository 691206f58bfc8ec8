"""MLflow asks who is there: nobody without the login of the stack or a key of the web pages reads or writes anything of it."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import pytest
from mlflow.exceptions import MlflowException
from pydantic import SecretStr

from pipeline_assets.core.connections import tracking
from pipeline_assets.core.settings import AccessSettings, Settings, read_part
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.key_file import change_keys
from pipeline_assets.serving.realtime.access.keys import revoked, utc_now
from pipeline_assets_tests.guarded_apps import add_key
from pipeline_assets_tests.stream_records import until

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


@pytest.fixture
def path(stack: Settings) -> Iterator[Path]:
    """The file of keys of the stack, which afterwards is what it was."""
    file = read_part(AccessSettings, stack.home).keys_file
    before = file.read_bytes() if file.exists() else None
    yield file
    if before is None:
        file.unlink(missing_ok=True)
    else:
        file.write_bytes(before)


def known(stack: Settings, path: Path, role: Role) -> str:
    """A new key, once the server has seen it in the file."""
    text = add_key(path, token_hex(4), role)
    until(lambda: httpx.get(stack.mlflow_url, auth=("ann", text)).status_code, lambda status: status == httpx.codes.OK)
    return text


def asked_of(stack: Settings, key: str) -> dict[str, int]:
    """The status of what somebody asks MLflow for with a key as their password, by its name."""
    experiment, name = tracking(stack).create_experiment(token_hex(4)), token_hex(4)
    tracking(stack).create_registered_model(name)
    with httpx.Client(base_url=stack.mlflow_url, auth=("ann", key)) as client:
        answers = {
            "see the page": client.get("/"),
            "find experiments": client.post(f"{API}/experiments/search", json={"max_results": 1}),
            "read an experiment": client.get(f"{API}/experiments/get", params={"experiment_id": experiment}),
            "find its runs": client.post(f"{API}/runs/search", json={"experiment_ids": [experiment]}),
            "read a model": client.get(f"{API}/registered-models/get", params={"name": name}),
            "make an experiment": client.post(f"{API}/experiments/create", json={"name": token_hex(4)}),
            "make a run": client.post(f"{API}/runs/create", json={"experiment_id": experiment}),
            "make a model": client.post(f"{API}/registered-models/create", json={"name": token_hex(4)}),
            "describe a model": client.patch(f"{API}/registered-models/update", json={"name": name, "description": "mine"}),
            "make a user": client.post(f"{API}/users/create", json={"username": token_hex(4), "password": "password1234"}),
        }
    return {what: answer.status_code for what, answer in answers.items()}


def test_a_viewer_reads_mlflow_and_changes_nothing(stack: Settings, path: Path) -> None:
    """By a key of the web pages; what is read by POST is read, and what MLflow lets each of its own users make is refused."""
    found = asked_of(stack, known(stack, path, Role.VIEWER))
    refused = [what for what in found if what.split()[0] in {"make", "describe"}]

    assert found == dict.fromkeys(found, 200) | dict.fromkeys(refused, 403)
    assert len(refused) == 5


def test_an_operator_does_in_mlflow_what_the_platform_may(stack: Settings, path: Path) -> None:
    """Until the key is revoked."""
    text = known(stack, path, Role.OPERATOR)
    before = set(asked_of(stack, text).values())
    own = text.split("_")[1]
    change_keys(path, lambda keys: ({**keys, own: revoked(keys[own], now=utc_now())}, None))
    with httpx.Client(base_url=stack.mlflow_url, auth=("ann", text)) as client:
        until(lambda: client.get("/").status_code, lambda status: status == httpx.codes.UNAUTHORIZED)

    assert before == {200}


def audited(stack: Settings, about: str) -> list[dict[str, Any]]:
    """The lines of the audit log that have a text."""
    text = (stack.home / "logs" / "mlflow.log").read_text(errors="replace").splitlines()
    return [json.loads(line[line.index("{") :]) for line in text if about in line and '"route"' in line]


def test_what_people_change_in_mlflow_is_in_the_audit_log(stack: Settings, path: Path) -> None:
    """Who, what and with which answer, once a request; not what is read, no value, and no password. What the platform does is not there."""
    viewer, operator = known(stack, path, Role.VIEWER), known(stack, path, Role.OPERATOR)
    name, secret = f"audited_{token_hex(4)}", token_hex(8)
    tracking(stack).create_registered_model(name)
    for key in (viewer, operator):
        with httpx.Client(base_url=stack.mlflow_url, auth=("ann", key)) as client:
            client.get(f"{API}/registered-models/get", params={"name": name})
            client.patch(f"{API}/registered-models/update", json={"name": name, "description": secret})
    lines = until(partial(audited, stack, name), lambda found: len(found) >= 2)
    log = (stack.home / "logs" / "mlflow.log").read_text(errors="replace")

    assert [(line["method"], line["route"], line["status"], line["changes"]) for line in lines] == [
        ("PATCH", "/api/2.0/mlflow/registered-models/update", 403, f"name {name}"),
        ("PATCH", "/api/2.0/mlflow/registered-models/update", 200, f"name {name}"),
    ]
    assert [line["caller_id"] for line in lines] == [viewer.split("_")[1], operator.split("_")[1]]
    assert not any(text in log for text in (secret, viewer, operator))


def test_a_file_of_json_that_an_operator_uploads_is_stored_whole(stack: Settings, path: Path) -> None:
    """Also where it has a member that the audit log would name; who uploads it is there, and whom that is refused."""
    text, viewer = known(stack, path, Role.OPERATOR), known(stack, path, Role.VIEWER)
    run = tracking(stack).create_run(tracking(stack).create_experiment(token_hex(4)))
    content = json.dumps({"name": "mine", "rows": list(range(1000))}).encode()
    place = f"{API}-artifacts/artifacts/{run.info.experiment_id}/{run.info.run_id}/artifacts/mine.json"
    with httpx.Client(base_url=stack.mlflow_url, auth=("ann", text), headers={"Content-Type": "application/json"}) as client:
        stored, refused = client.put(place, content=content), client.put(place, content=b"{}", auth=("ann", viewer))
        found = client.get(place)
    of_keys = {text.split("_")[1]: None, viewer.split("_")[1]: 403}
    lines = until(partial(audited, stack, "mlflow-artifacts"), lambda found: of_keys.keys() <= {line["caller_id"] for line in found})

    assert (stored.status_code, refused.status_code, found.content) == (200, 403, content)
    assert {line["caller_id"]: line["status"] for line in lines if line["caller_id"] in of_keys} == of_keys


@pytest.mark.parametrize("role", [Role.READ, Role.PREDICT])
def test_a_key_without_a_role_of_the_pages_does_not_open_mlflow(stack: Settings, path: Path, role: Role) -> None:
    """Nothing is answered but that a login is needed."""
    assert set(asked_of(stack, add_key(path, token_hex(4), role)).values()) == {401}
