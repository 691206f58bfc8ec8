"""The aliases of MLflow by its REST interface: a server that is away is known soon, and by a sentence."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest

from pipeline_assets.core.errors import SourceRefused
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.wait_errors import TrackingUnavailable
from pipeline_assets.model_lifecycle.registry import tracked_aliases

MODEL = "late_trains"
UNKNOWN = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}'
ONE = b'{"registered_model": {"name": "late_trains", "aliases": [{"alias": "champion", "version": "3"}]}}'

LOOK = """
import sys
from pipeline_assets.core.settings import Settings
from pipeline_assets.model_lifecycle.registry import versions
from pipeline_assets.use_cases.nyc_flights import use_case
settings = Settings.model_construct(mlflow_url=sys.argv[1], mlflow_user=None, mlflow_password=None)
print(versions.aliases(settings, use_case.models[0]))
print("mlflow" in sys.modules)
"""


@contextmanager
def server(status: int | None, body: bytes = b"{}") -> Iterator[tuple[Settings, list[str]]]:
    """One that answers with a status, and when to come back, or (None) not before the end; with the paths that it was asked for."""
    asked, over = list[str](), Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if status is None:
                over.wait(60)
                return
            self.send_response(status)
            self.send_header("Retry-After", "3600")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        Thread(target=served.serve_forever, daemon=True).start()
        try:
            yield settings_of(served.server_port), asked
        finally:
            over.set()
            served.shutdown()


def settings_of(port: int) -> Settings:
    """Those of a server on loopback without a login."""
    return Settings.model_construct(mlflow_url=f"http://127.0.0.1:{port}", mlflow_user=None, mlflow_password=None)


@pytest.mark.parametrize("status", [503, 500, 429, None])
def test_a_server_that_cannot_answer_is_asked_once(status: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: each tick of a sensor asked eight times in four minutes, and held one of the daemon's two workers for a minute.

    Not even where the server says when to come back.
    """
    monkeypatch.setattr(tracked_aliases, "ANSWER_SECONDS", 1.0)
    with server(status) as (settings, asked), pytest.raises(TrackingUnavailable, match=str(settings.mlflow_url)):
        tracked_aliases.read(settings, MODEL)

    assert len(asked) == 1


def test_a_port_where_nobody_listens_is_a_sentence() -> None:
    """With the address and what to look at."""
    with server(200) as (settings, _):
        pass

    with pytest.raises(TrackingUnavailable, match="PIPELINE_MLFLOW_URL"):
        tracked_aliases.read(settings, MODEL)


def test_a_model_that_was_never_registered_has_no_aliases() -> None:
    """That there is no such model is no failure of the server; another path that is not there is, and is not asked again."""
    with server(404, UNKNOWN) as (settings, asked):
        assert tracked_aliases.read(settings, MODEL) == {}
    with server(404) as (settings, _), pytest.raises(SourceRefused, match="answered 404"):
        tracked_aliases.read(settings, MODEL)

    assert asked == [f"/api/2.0/mlflow/registered-models/get?name={MODEL}"]


def test_who_looks_at_aliases_has_no_mlflow_in_memory() -> None:
    """Regression: the server of the code held all of MLflow after its first look."""
    with server(200, ONE) as (settings, _):
        done = subprocess.run([sys.executable, "-c", LOOK, str(settings.mlflow_url)], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["{'champion': 3}", "False"]
