"""The client over real connections: to a service behind the guard, and to one that breaks."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.client import Client
from pipeline_assets.serving.realtime.client_errors import NotAllowed, RequestRefused, ServiceAway
from pipeline_assets_tests.guarded_apps import add_key
from pipeline_assets_tests.prediction_pages import CONTRIBUTIONS, Stand, page_app, served

OK = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n{"models": ["delay"]}'


@contextmanager
def connections(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each connection in turn with bytes and then closes it, or (None) never; its URL, and what it was sent."""
    sent: list[bytes] = []
    done = Event()

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                sent.append(connection.recv(65_536))
                if answer is None:
                    done.wait(60)
                else:
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", sent
        finally:
            done.set()
            thread.join()


def test_a_key_predicts_and_explains_through_the_guard(tmp_path: Path) -> None:
    """And one that may not, or is unknown, is an error that says so."""
    path = tmp_path / "serve-keys.json"
    key, reader = add_key(path, "a job", Role.PREDICT), add_key(path, "reader", Role.READ)
    stand = Stand()
    with served(page_app(stand, path)) as url, Client(url, key) as client, Client(url, reader) as other, Client(url, "guess") as nobody:
        [prediction] = client.predict("delay", [{"origin": "EWR"}])
        [explanation] = client.explain("delay", [{"origin": "EWR"}])
        with pytest.raises(NotAllowed, match="none of the roles predict"):
            other.predict("delay", [{"origin": "EWR"}])
        with pytest.raises(NotAllowed, match="401"):
            nobody.predict("delay", [{"origin": "EWR"}])
        with pytest.raises(RequestRefused, match="'origin'"):
            client.predict("delay", [{"origin": None}])

    assert (prediction.score, prediction.feature_status) == (0.4377, {"departures": "fresh", "weather": "stale"})
    assert explanation.contributions is not None
    assert explanation.contributions.values == CONTRIBUTIONS
    assert stand.asked == [{"origin": "EWR"}, {"origin": None}]


def test_a_connection_that_breaks_before_its_answer_is_not_seen() -> None:
    """A worker that is killed: no answer, and half of one."""
    with connections(b"", OK[:60], OK) as (url, sent), Client(url, "key") as client:
        assert client.models() == ["delay"]
    assert len(sent) == 3


def test_an_answer_that_does_not_come_ends_in_time() -> None:
    """And is not asked for again."""
    never = connections(None)
    with never as (url, sent), Client(url, "key", timeout_seconds=0.3) as client, pytest.raises(ServiceAway, match="ReadTimeout"):
        client.models()
    assert len(sent) == 1
