"""Nobody passes the guard whom the policy does not name; what it answers and what it writes down."""

import asyncio
import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Message

from pipeline_assets.serving.realtime.access.audit import AUDIT, end_audit, log_audit
from pipeline_assets.serving.realtime.access.buckets import FAILURES_AT_ONCE
from pipeline_assets.serving.realtime.access.callers import Caller, Limits, Role
from pipeline_assets.serving.realtime.access.guard import MOST_KEPT, PUBLIC, Guard, unguarded
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.problems import too_many_rows
from pipeline_assets.serving.realtime.access.sessions import Sessions, session_secret
from pipeline_assets_tests.guarded_apps import POLICY, add_key, ask, guarded, kept_audit_log, routes, who
from pipeline_assets_tests.stream_records import until

# A way in for each role, and which route needs it.
ASKED = {
    Role.PREDICT: ("POST", "/v1/models/late:predict"),
    Role.FEEDBACK: ("POST", "/v1/models/late:feedback"),
    Role.READ: ("GET", "/v1/models/late"),
    Role.EVENTS: ("POST", "/v1/events/departures"),
    Role.ADMIN: ("GET", "/v1/admin"),
}


FUZZED = [b"authorization", b"x-api-key", b"cookie", b"accept", b"traceparent", b"origin", b"host", b"content-length", b"sec-fetch-site"]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """A guard with a key and sessions, of which nothing is public."""
    folder = tmp_path_factory.mktemp("fuzzed")
    add_key(folder / "serve-keys.json", "me", Role.ADMIN)
    keys = Keyring(folder / "serve-keys.json")
    return guarded(keys, sessions=Sessions(keys, session_secret(folder)), policy={**POLICY, "health": Role.READ})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of keys is."""
    return tmp_path / "serve-keys.json"


def bearer(key: str) -> dict[str, str]:
    """The header of a key."""
    return {"authorization": f"Bearer {key}"}


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of the audit log."""
    return [json.loads(record.message) for record in caplog.records if record.name == AUDIT]


@pytest.mark.parametrize("role", list(Role))
def test_a_role_opens_its_routes_and_no_other(path: Path, role: Role) -> None:
    """Each of the roles asked at each of the routes; an admin may ask all."""
    key = add_key(path, "a job", role)
    app = guarded(Keyring(path))

    found = {needed: ask(app, *way, headers=bearer(key)).status_code for needed, way in ASKED.items()}
    assert found == {needed: 200 if needed is role or role is Role.ADMIN else 403 for needed in ASKED}


def test_a_route_without_a_policy_is_refused_to_everybody(path: Path) -> None:
    """An admin, too; also below a mount, and where the policy has another route of it."""
    key = add_key(path, "me", Role.ADMIN)
    app = guarded(Keyring(path))

    assert [ask(app, "GET", one, headers=bearer(key)).status_code for one in ("/v1/forgotten", "/inner/open", "/inner/features")] == [
        403, 403, 200,
    ]  # fmt: skip
    assert unguarded(routes(), POLICY) == ["forgotten (/v1/forgotten)", "open (/open)"]


def test_a_mounted_app_whose_routes_are_not_known_is_refused(path: Path) -> None:
    """It has no names that a policy could have."""
    key = add_key(path, "me", Role.ADMIN)
    listed: list[BaseRoute] = [Mount("/raw", app=who, name="raw")]  # type: ignore[arg-type]
    credentials = guarded(Keyring(path))._credentials  # noqa: SLF001 - the same callers
    app = Guard(Starlette(routes=listed), routes=listed, policy=POLICY, credentials=credentials)

    assert ask(app, "GET", "/raw/x", headers=bearer(key)).status_code == 403
    assert unguarded(listed, POLICY) == ["raw (/raw)"]


@pytest.mark.parametrize(("role", "status"), [(Role.PREDICT, 200), (Role.READ, 200), (Role.ADMIN, 200), (Role.EVENTS, 403)])
def test_a_route_may_be_open_to_several_roles(path: Path, role: Role, status: int) -> None:
    """Each of them by itself is enough, and the refusal names them all."""
    key = add_key(path, "a job", role)
    app = guarded(Keyring(path), policy={"models": frozenset({Role.READ, Role.PREDICT})})
    answer = ask(app, "GET", "/v1/models", headers=bearer(key))

    assert answer.status_code == status
    assert status == 200 or "none of the roles predict, read" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer pipe_0000000000000000_" + "A" * 43},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"authorization": "Bearer \x00\xff"},
        {"x-api-key": "guess"},
        {"cookie": "pipeline_session=guess"},
    ],
)
def test_who_is_not_known_gets_401(path: Path, headers: dict[str, str]) -> None:
    """A problem document that says what to send, with the challenge that RFC 6750 asks for."""
    add_key(path, "a job", Role.PREDICT)
    answer = ask(
        guarded(Keyring(path)), "POST", "/v1/models/late:predict", headers=[(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    )

    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json().keys() == {"type", "title", "status", "detail"}


def test_a_key_may_come_in_either_header_but_not_in_both(path: Path) -> None:
    """Two credentials could be of two callers."""
    key = add_key(path, "a job", Role.READ)
    app = guarded(Keyring(path))

    assert ask(app, "GET", "/v1/models", headers={"x-api-key": key}).json()["caller"] == "a job"
    assert ask(app, "GET", "/v1/models", headers={"authorization": f"bEaReR  {key}"}).status_code == 200
    assert ask(app, "GET", "/v1/models", headers={"x-api-key": key, **bearer(key)}).status_code == 401


def test_expired_keys_are_refused(path: Path) -> None:
    """As unknown ones are."""
    key = add_key(path, "a job", Role.READ, lives=timedelta(microseconds=1))

    assert ask(guarded(Keyring(path)), "GET", "/v1/models", headers=bearer(key)).status_code == 401


def test_public_routes_need_nothing_and_paths_to_nowhere_a_credential(path: Path) -> None:
    """Health is for anybody; which paths there are is for callers."""
    key = add_key(path, "a job", Role.PREDICT)
    app = guarded(Keyring(path))

    assert ask(app, "GET", "/v2/health/live").json() == {"live": True}
    assert ask(app, "GET", "/nowhere").status_code == 401
    assert ask(app, "GET", "/nowhere", headers=bearer(key)).status_code == 404


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"x-api-key": "PREDICT"}, 403)])
def test_nothing_of_the_body_is_read_before_the_caller_is_known(path: Path, headers: dict[str, str], status: int) -> None:
    """Neither of one who is not known, nor of one who may not."""
    key = add_key(path, "a job", Role.READ)
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        sent.append(message)

    listed = [(name.encode(), (key if value == "PREDICT" else value).encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/models/late:predict", "headers": listed, "query_string": b"", "client": None}
    asyncio.run(guarded(Keyring(path))(scope, receive, send))

    assert sent[0]["status"] == status


def test_a_key_has_its_own_rate(path: Path) -> None:
    """Two at once; the third is answered 429 with the seconds to wait, and another key is not held up."""
    key = add_key(path, "busy", Role.READ, limits=Limits(requests_per_second=0.5, burst=2))
    other = add_key(path, "calm", Role.READ)
    app = guarded(Keyring(path))
    answers = [ask(app, "GET", "/v1/models", headers=bearer(key)) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["retry-after"] == "2"
    assert "0.5 per second, 2 at once" in answers[2].json()["detail"]
    assert ask(app, "GET", "/v1/models", headers=bearer(other)).status_code == 200


def test_a_key_has_its_own_number_of_rows() -> None:
    """The route, which has counted them, refuses more by 413."""
    caller = Caller(id="1", name="a job", roles=frozenset(), by="key", limits=Limits(rows_per_request=10))
    refusal = too_many_rows(caller, 11)

    assert too_many_rows(caller, 10) is None
    assert refusal is not None
    assert (refusal.status, "11 rows" in refusal.detail) == (413, True)


def test_failed_attempts_are_bounded_per_address(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the bound 429, and no line each in the log; a valid key from there passes, and another address is not held up."""
    key = add_key(path, "a job", Role.READ)
    app = guarded(Keyring(path))
    with caplog.at_level(logging.INFO, AUDIT):
        found = [ask(app, "GET", "/v1/models", headers=bearer("guess")).status_code for _ in range(FAILURES_AT_ONCE + 5)]
    refused = ask(app, "GET", "/v1/models", headers=bearer("guess"))

    assert found == [401] * FAILURES_AT_ONCE + [429] * 5
    assert int(refused.headers["retry-after"]) >= 1
    assert len(audited(caplog)) == FAILURES_AT_ONCE
    assert ask(app, "GET", "/v1/models", headers=bearer(key)).status_code == 200
    assert ask(app, "GET", "/v1/models", headers=bearer("guess"), address="192.0.2.2").status_code == 401


def test_a_browser_without_a_session_is_sent_to_log_in(path: Path) -> None:
    """However often, as that is no failed attempt; one that brings a wrong key is, whatever it accepts."""
    app, html = guarded(Keyring(path)), {"accept": "text/html,*/*;q=0.8"}
    visits = [ask(app, "GET", "/v1/models", headers=html) for _ in range(FAILURES_AT_ONCE + 2)]
    guesses = [ask(app, "GET", "/v1/models", headers={**html, "x-api-key": "guess"}).status_code for _ in range(FAILURES_AT_ONCE + 1)]

    assert {(visit.status_code, visit.headers["location"]) for visit in visits} == {(303, "/login")}
    assert guesses == [401] * FAILURES_AT_ONCE + [429]
    assert ask(app, "POST", "/v1/models/late:predict", headers=html).status_code == 429


def test_the_audit_log_says_who_what_when_and_what_came_of_it(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line per request of a caller, with the trace that the request belongs to."""
    key = add_key(path, "a job", Role.PREDICT)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    app = guarded(Keyring(path))
    with caplog.at_level(logging.INFO, AUDIT):
        ask(
            app, "POST", "/v1/models/late:predict", headers={**bearer(key), "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}, content=b"{}"
        )
        ask(app, "GET", "/v1/models", headers=bearer(key))
        ask(app, "GET", "/v2/health/live")
    first, second = audited(caplog)

    assert {name: first[name] for name in ("caller", "by", "method", "route", "model", "status", "address", "trace_id")} == {
        "caller": "a job", "by": "key", "method": "POST", "route": "predict", "model": "late", "status": 200, "address": "192.0.2.1",
        "trace_id": trace,
    }  # fmt: skip
    assert first["caller_id"] == key.split("_")[1]
    assert first["at"].endswith("+00:00")
    assert (second["status"], second["route"], len(second["trace_id"])) == (403, "models", 32)
    assert "none of the roles read" in second["reason"]


def test_an_error_of_the_app_is_written_as_500(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also what fails was asked for by somebody."""
    key = add_key(path, "a job", Role.READ)
    with caplog.at_level(logging.INFO, AUDIT):
        answer = ask(guarded(Keyring(path)), "GET", "/v1/fails", headers=bearer(key))

    assert answer.status_code == 500
    assert [line["status"] for line in audited(caplog)] == [500]


def test_no_log_has_a_secret(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever way it comes in: headers, path, query, body or cookie; of a good key, a wrong one and one that may not."""
    good, wrong = add_key(path, "a job", Role.PREDICT), "pipe_0123456789abcdef_" + "s3cr3t" * 7 + "x"
    app = guarded(Keyring(path))
    with caplog.at_level(logging.DEBUG):
        for key in (good, wrong):
            ask(app, "POST", "/v1/models/late:predict", headers=bearer(key), content=key.encode())
            ask(app, "POST", f"/v1/models/{key}:predict?key={key}", headers={"x-api-key": key, "cookie": f"pipeline_session={key}"})
            ask(app, "GET", f"/v1/models/{key}", headers={"authorization": f"Basic {key}", "traceparent": key})
            ask(app, "GET", f"/{key}", headers=bearer(key))
    # What the client of this test logs is its own.
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name != "httpx")

    assert len(audited(caplog)) >= 6
    assert [key for key in (good, wrong) if key.split("_", 2)[2] in logged] == []


def test_every_answer_has_the_headers_of_security(path: Path) -> None:
    """Refusals and public routes, too; nothing of CORS, whatever origin asks."""
    key = add_key(path, "a job", Role.READ)
    app = guarded(Keyring(path))
    foreign = {"origin": "https://evil.example", "access-control-request-method": "GET"}
    answers = [
        ask(app, "GET", "/v1/models", headers={**bearer(key), **foreign}),
        ask(app, "GET", "/v1/models", headers=foreign),
        ask(app, "OPTIONS", "/v1/models", headers=foreign),
        ask(app, "GET", "/v2/health/live", headers=foreign),
        ask(app, "GET", "/nowhere", headers=bearer(key)),
    ]

    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert [name for name in answer.headers if name.startswith("access-control")] == []


def test_web_sockets_are_closed(path: Path) -> None:
    """No route has one, so nobody may open one."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guarded(Keyring(path))({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_an_audit_file_is_for_its_user_and_is_opened_anew_where_it_was_moved(tmp_path: Path, path: Path) -> None:
    """As logrotate moves it; the lines go nowhere else."""
    file = tmp_path / "audit" / "serve.jsonl"
    key = add_key(path, "a job", Role.READ)
    app = guarded(Keyring(path))
    with kept_audit_log():
        log_audit(tmp_path / "replaced.jsonl")
        log_audit(file)
        ask(app, "GET", "/v1/models", headers=bearer(key))
        until(file.read_text, bool)
        moved = file.rename(file.with_suffix(".1"))
        ask(app, "GET", "/v1/models/late", headers=bearer(key))
        end_audit()

    assert [json.loads(one.read_text())["model"] for one in (moved, file)] == [None, "late"]
    assert moved.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "replaced.jsonl").read_text() == ""


def test_lines_that_cannot_be_written_are_counted_and_said(tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder stands where the file was."""
    file = tmp_path / "serve.jsonl"
    key = add_key(path, "a job", Role.READ)
    app = guarded(Keyring(path))
    with kept_audit_log():
        log_audit(file)
        file.unlink()
        file.mkdir()
        answers = [ask(app, "GET", "/v1/models", headers=bearer(key)).status_code for _ in range(2)]
        end_audit()

    said = [one.getMessage() for one in caplog.records if "ALARM" in one.getMessage()]
    assert set(answers) == {200}
    assert len(said) == 1
    assert "lines of the audit log are lost: [Errno 21] Is a directory" in said[0]


def test_the_policy_of_a_route_is_found_as_the_router_finds_it(path: Path) -> None:
    """With routes that overlap the first one that fits counts; one of another method only where no other fits."""
    listed = [
        Route("/a/{x}", who, methods=["POST"], name="admin"),
        Route("/a/open", who, name="health"),
        Route("/a/{x}", who, name="models"),
    ]
    key = bearer(add_key(path, "a job", Role.READ))
    credentials = guarded(Keyring(path))._credentials  # noqa: SLF001 - the same callers
    app = Guard(
        Starlette(routes=listed),
        routes=listed,
        policy={"health": PUBLIC, "admin": Role.ADMIN, "models": Role.READ},
        credentials=credentials,
    )

    # The public route has no caller to answer with: it was reached.
    assert ask(app, "GET", "/a/open").status_code == 500
    assert ask(app, "POST", "/a/open").status_code == 401
    assert ask(app, "GET", "/a/x").status_code == 401
    assert ask(app, "PUT", "/a/x", headers=key).status_code == 403


@given(
    headers=st.lists(st.tuples(st.sampled_from(FUZZED), st.binary(max_size=80)), max_size=6),
    method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "DELETE", "TRACE"]),
    path=st.one_of(st.sampled_from(["/v1/models", "/v1/models/late:predict", "/inner/features", "/v1/admin", "/"]), st.text(max_size=40)),
    client=st.one_of(st.none(), st.tuples(st.text(max_size=20), st.just(1))),
)
def test_no_request_without_a_credential_passes_or_breaks_the_guard(
    fuzzed: Guard, headers: list[tuple[bytes, bytes]], method: str, path: str, client: tuple[str, int] | None
) -> None:
    """Whatever its headers hold: the app is not reached, nothing of the body is read, and the answer is a refusal."""
    statuses: list[int] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    scope = {"type": "http", "method": method, "path": f"/{path.lstrip('/')}", "headers": headers, "query_string": b"", "client": client}
    asyncio.run(fuzzed(scope, receive, send))
    assert len(statuses) == 1
    assert statuses[0] in {303, 401, 429}


def test_what_a_path_leads_to_is_kept_for_a_bounded_number_of_paths(path: Path) -> None:
    """With the parameters of each path; callers who ask ever new ones, or very long ones, take no more memory, and are answered alike."""
    key = bearer(add_key(path, "a job", Role.PREDICT))
    app = guarded(Keyring(path))
    for place in range(MOST_KEPT + 5):
        scope = {"type": "http", "method": "POST", "path": f"/v1/models/m{place}:predict", "headers": []}
        assert [app._matched(scope) for _ in range(2)] == [("predict", {"model": f"m{place}"})] * 2  # noqa: SLF001 - what it has kept

    assert len(app._known) == MOST_KEPT  # noqa: SLF001 - likewise
    assert ask(app, "POST", "/v1/models/late:predict", headers=key).status_code == 200
    assert ask(app, "POST", f"/v1/models/{'m' * 10_000}:predict", headers=key).status_code == 200
    assert ask(app, "GET", "/v1/models/m1:predict", headers=key).status_code == 403
