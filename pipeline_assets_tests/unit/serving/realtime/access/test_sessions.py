"""Sessions: what a cookie is worth, for how long, and from where."""

from datetime import timedelta
from pathlib import Path

import pytest
from itsdangerous import URLSafeTimedSerializer

from pipeline_assets.serving.realtime.access import keyring
from pipeline_assets.serving.realtime.access import sessions as sessions_module
from pipeline_assets.serving.realtime.access.callers import Role
from pipeline_assets.serving.realtime.access.errors import KeyFileRefused
from pipeline_assets.serving.realtime.access.key_file import change_keys, read_keys
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.keys import revoked, utc_now
from pipeline_assets.serving.realtime.access.sessions import (
    COOKIE,
    SALT,
    SECRET_FILE,
    SESSION_SECONDS,
    Sessions,
    is_same_origin,
    session_secret,
)
from pipeline_assets_tests.guarded_apps import add_key, ask, guarded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of keys is."""
    return tmp_path / "serve-keys.json"


def begun(path: Path, *roles: Role) -> tuple[Keyring, Sessions, str]:
    """A session of a new key: what knows it, and the cookie as a browser sends it."""
    text = add_key(path, "me", *roles)
    keys = Keyring(path)
    sessions, caller = Sessions(keys, session_secret(path.parent)), keys.caller(text)
    assert caller is not None
    return keys, sessions, sessions.cookie(caller, is_secure=False).partition(";")[0]


def test_a_session_is_its_key_with_its_roles(path: Path) -> None:
    """And is marked as one in the audit log."""
    keys, sessions, cookie = begun(path, Role.READ)
    caller = sessions.caller({b"cookie": cookie.encode()})

    assert caller is not None
    assert (caller.name, caller.roles, caller.by) == ("me", frozenset({Role.READ}), "session")
    assert ask(guarded(keys, sessions=sessions), "GET", "/v1/models", headers={"cookie": f"other=1; {cookie}"}).json()["caller"] == "me"
    assert ask(guarded(keys), "GET", "/v1/models", headers={"cookie": cookie}).status_code == 401


def test_a_cookie_is_not_for_scripts_other_sites_or_plain_http(path: Path) -> None:
    """HttpOnly, SameSite=Strict, an end, and Secure under TLS."""
    text = add_key(path, "me", Role.READ)
    keys = Keyring(path)
    caller = keys.caller(text)
    assert caller is not None
    sessions = Sessions(keys, session_secret(path.parent))
    plain, secure = (sessions.cookie(caller, is_secure=one).split("; ")[1:] for one in (False, True))

    assert plain == ["Path=/", f"Max-Age={SESSION_SECONDS}", "HttpOnly", "SameSite=Strict"]
    assert secure == [*plain, "Secure"]
    assert text.split("_", 2)[2] not in sessions.cookie(caller, is_secure=True)


def test_the_session_of_one_page_is_none_of_another(path: Path) -> None:
    """Regression: who had logged in to one page of a host was logged out of the other one, or not let in there."""
    keys, sessions, cookie = begun(path, Role.READ)
    other = Sessions(keys, session_secret(path.parent), "other_session")
    renamed = cookie.replace(COOKIE, "other_session")

    assert sessions.caller({b"cookie": f"{cookie}; other_session=1".encode()}) is not None
    assert [other.caller({b"cookie": one.encode()}) for one in (cookie, renamed)] == [None, None]
    assert other.ended_cookie(is_secure=False).startswith("other_session=; ")


def test_a_session_ends_with_its_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is revoked, at once, though the cookie is still good."""
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 0.0)
    _, sessions, cookie = begun(path, Role.READ)
    before = sessions.caller({b"cookie": cookie.encode()})
    change_keys(path, lambda keys: ({one: revoked(key, now=utc_now()) for one, key in keys.items()}, None))

    assert before is not None
    assert sessions.caller({b"cookie": cookie.encode()}) is None


def test_a_session_ends_after_some_hours(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its browser does with the cookie's own end."""
    _, sessions, cookie = begun(path, Role.READ)
    present = utc_now()
    monkeypatch.setattr(sessions_module, "utc_now", lambda: present + timedelta(seconds=SESSION_SECONDS - 60))
    before = sessions.caller({b"cookie": cookie.encode()})
    monkeypatch.setattr(sessions_module, "utc_now", lambda: present + timedelta(seconds=SESSION_SECONDS + 60))

    assert before is not None
    assert sessions.caller({b"cookie": cookie.encode()}) is None


def test_a_session_goes_on_when_the_clock_is_set_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: one that had begun later than it is now was ended, so all who were logged in were logged out."""
    _, sessions, cookie = begun(path, Role.READ)
    monkeypatch.setattr(sessions_module, "utc_now", lambda: utc_now() - timedelta(hours=1))

    assert sessions.caller({b"cookie": cookie.encode()}) is not None


def test_a_cookie_that_somebody_made_is_none(path: Path) -> None:
    """Neither with a guessed secret, nor with what stands in the file of keys, nor with a part changed."""
    _, sessions, cookie = begun(path, Role.READ)
    [key] = read_keys(path).values()
    guessed = [str(URLSafeTimedSerializer(one, salt=f"{SALT}/{COOKIE}").dumps(key.id)) for one in ("", "secret", key.secrets[0].sha256)]
    # Not its last sign, some bits of which say nothing.
    signed, _, signature = cookie.rpartition(".")
    changed = [f"{signed}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}", cookie + "x", f"{COOKIE}=", f"{COOKIE}={key.id}"]

    assert [sessions.caller({b"cookie": one.encode()}) for one in [*(f"{COOKIE}={one}" for one in guessed), *changed]] == [None] * 7


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://service.test"}, 200),
        ({"origin": "http://service.test", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://service.test:8080"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://service.test.evil.example"}, 403),
        ({"origin": "http://service.test", "sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://service.test", "sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
    ],
)
def test_a_session_changes_things_from_the_page_alone(path: Path, headers: dict[str, str], status: int) -> None:
    """A page of another origin, another port of the same host included, cannot use the cookie of its visitor."""
    keys, sessions, cookie = begun(path, Role.PREDICT)
    answer = ask(guarded(keys, sessions=sessions), "POST", "/v1/models/late:predict", headers={**headers, "cookie": cookie})

    assert answer.status_code == status


def test_under_tls_the_origin_has_tls() -> None:
    """A page that somebody on the way has put in plain HTTP is not this one."""
    headers = {b"host": b"service.test", b"origin": b"http://service.test"}

    assert is_same_origin({"scheme": "http"}, headers)
    assert not is_same_origin({"scheme": "https"}, headers)
    assert not is_same_origin({"scheme": "http"}, {b"origin": b"http://"})


def test_a_key_in_a_header_goes_before_the_cookie(path: Path) -> None:
    """Who sends one means it: a wrong one is refused, and a good one needs no origin."""
    keys, sessions, cookie = begun(path, Role.PREDICT)
    app = guarded(keys, sessions=sessions)
    headers = {"cookie": cookie, "origin": "http://service.test"}
    other = add_key(path, "a job", Role.PREDICT)

    assert ask(app, "POST", "/v1/models/late:predict", headers={**headers, "x-api-key": "guess"}).status_code == 401
    found = ask(
        guarded(Keyring(path), sessions=sessions), "POST", "/v1/models/late:predict", headers={"cookie": cookie, "x-api-key": other}
    )
    assert found.json()["caller"] == "a job"


def test_the_secret_of_sessions_is_made_once(path: Path) -> None:
    """For its user alone; a worker that starts later has the same; one that others may read is refused."""
    first, second = session_secret(path.parent), session_secret(path.parent)
    file = path.parent / SECRET_FILE

    assert first == second
    assert (len(first), file.stat().st_mode & 0o777) == (64, 0o600)
    assert [one.name for one in path.parent.iterdir()] == [SECRET_FILE]
    file.chmod(0o644)
    with pytest.raises(KeyFileRefused):
        session_secret(path.parent)
    file.chmod(0o600)
    file.write_text("")
    with pytest.raises(KeyFileRefused, match="no secret"):
        session_secret(path.parent)


@pytest.mark.parametrize("to", ["nowhere", SECRET_FILE])
def test_a_link_that_leads_to_no_secret_is_refused(tmp_path: Path, to: str) -> None:
    """One that dangles, and one that leads to itself; each by its name, with what to do."""
    (tmp_path / SECRET_FILE).symlink_to(tmp_path / to)
    with pytest.raises(KeyFileRefused, match=r"cannot be read: .*Delete it; the service makes a new one"):
        session_secret(tmp_path)


def test_a_secret_of_sessions_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Regression: it ended in a trace."""
    session_secret(tmp_path)
    (tmp_path / SECRET_FILE).write_bytes(b"\xff" * 64)
    with pytest.raises(KeyFileRefused, match="has no secret of sessions"):
        session_secret(tmp_path)


def test_an_expired_key_has_no_session(path: Path) -> None:
    """Its end is the session's, where that is earlier."""
    keys, sessions, cookie = begun(path, Role.READ)
    later = Keyring(path, now=lambda: utc_now() + timedelta(days=2))

    assert sessions.caller({b"cookie": cookie.encode()}) is not None
    assert Sessions(later, session_secret(path.parent)).caller({b"cookie": cookie.encode()}) is None
    assert keys.problem == ""
