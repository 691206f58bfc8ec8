"""Asking MLflow once: a server that is away is known soon, and by a sentence; one that answers is asked as ever."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException

from pipeline_assets.core import connections
from pipeline_assets.core.connections import asked_once, tracking
from pipeline_assets.core.settings import Settings
from pipeline_assets.core.wait_errors import TrackingUnavailable

MODEL = "late_trains"
UNKNOWN = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}'


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


def limits() -> tuple[int, int]:
    """How often more, and how long in seconds, MLflow's clients try now."""
    return MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get()  # type: ignore[no-untyped-call]


def settings_of(port: int) -> Settings:
    """Those of a server on loopback without a login."""
    return Settings.model_construct(mlflow_url=f"http://127.0.0.1:{port}", mlflow_user=None, mlflow_password=None)


@pytest.mark.parametrize("status", [503, 500, 429, None])
def test_a_server_that_cannot_answer_is_asked_once(status: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: each tick of a sensor asked eight times in four minutes, and held one of the daemon's two workers for a minute.

    Not even where the server says when to come back.
    """
    monkeypatch.setattr(connections, "ASKED_ONCE_SECONDS", 1)
    with server(status) as (settings, asked), pytest.raises(TrackingUnavailable, match=settings.mlflow_url), asked_once(settings):
        tracking(settings).get_registered_model(MODEL)

    assert len(asked) == 1


def test_a_port_where_nobody_listens_is_a_sentence() -> None:
    """With the address and what to look at."""
    with server(200) as (settings, _):
        pass

    with pytest.raises(TrackingUnavailable, match="PIPELINE_MLFLOW_URL"), asked_once(settings):
        tracking(settings).get_registered_model(MODEL)


def test_an_answer_stays_an_answer() -> None:
    """That there is no such model is no failure of the server."""
    with server(404, UNKNOWN) as (settings, _), pytest.raises(MlflowException, match="no such model"), asked_once(settings):
        tracking(settings).get_registered_model(MODEL)


def test_the_limits_hold_only_within(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were set before count again, also after an error."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with asked_once(settings_of(1)):
        within = limits()
    with pytest.raises(ValueError, match="seven"), asked_once(settings_of(1)):
        int("seven")

    assert within == (0, 10)
    assert limits() == (3, 120)
