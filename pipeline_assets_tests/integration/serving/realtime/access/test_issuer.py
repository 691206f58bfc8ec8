"""Bearer tokens of an identity provider, from one that answers on loopback."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from pipeline_assets.core.errors import SettingsMissing
from pipeline_assets.core.settings import AccessSettings
from pipeline_assets.serving.realtime.access import issuer as issuers
from pipeline_assets.serving.realtime.access.callers import Caller, Role
from pipeline_assets.serving.realtime.access.credentials import Credentials
from pipeline_assets.serving.realtime.access.errors import IssuerAway, IssuerRefused, TokenRefused
from pipeline_assets.serving.realtime.access.issuer import Issuer, Oidc
from pipeline_assets.serving.realtime.access.keyring import Keyring
from pipeline_assets.serving.realtime.access.opened import open_access
from pipeline_assets.serving.realtime.access.problems import Refusal
from pipeline_assets_tests.guarded_apps import add_key, ask, guarded, kept_audit_log
from pipeline_assets_tests.identity_providers import AUDIENCE, DISCOVERY, KEYS, IdentityProvider, identity_provider, rsa_key


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        """The time that it was set to."""
        return self.at


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    """A provider with a key of each kind."""
    with identity_provider() as started:
        started.add_rsa("rsa")
        started.add_ec("ec")
        yield started


def issuer(provider: IdentityProvider, clock: Clock | None = None, **given: Any) -> Issuer:
    """What checks the tokens of a provider."""
    return Issuer(Oidc(issuer=provider.issuer, audience=AUDIENCE, **given), clock=clock if clock is not None else time.monotonic)


def checked(one: Issuer, token: str) -> Caller:
    """The caller of a token."""
    return asyncio.run(one.caller(token))


@pytest.mark.parametrize("kid", ["rsa", "ec"])
def test_a_good_token_is_a_caller_with_its_roles(provider: IdentityProvider, kid: str) -> None:
    """Signed either way; roles of other services are passed over; the keys are asked for once."""
    one = issuer(provider)
    token = provider.token(kid, roles=["predict", "read", "payroll"], preferred_username="ada")

    async def twice() -> list[Caller]:
        return [await one.caller(token) for _ in range(2)]

    first, second = asyncio.run(twice())
    assert first == second
    assert first == Caller(id=f"{provider.issuer}#somebody", name="ada", roles=frozenset({Role.PREDICT, Role.READ}), by="token")
    assert provider.asked == {DISCOVERY: 1, KEYS: 1}


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("roles", ["predict"]),
        ("scope", "openid predict"),
        ("realm_access.roles", {"roles": ["predict"]}),
        ("https://example.com/roles", ["predict"]),
    ],
)
def test_roles_are_found_where_providers_put_them(provider: IdentityProvider, claim: str, value: object) -> None:
    """A list, a text of words, a list within an object, and a name that has dots itself."""
    given: dict[str, Any] = {"realm_access": value} if claim.startswith("realm") else {claim: value}
    token = provider.token("ec", **{"roles": None, **given})

    assert checked(issuer(provider, role_claim=claim), token).roles == {Role.PREDICT}


@pytest.mark.parametrize("value", [None, 7, {"a": "predict"}, [{"a": 1}], "predicting"])
def test_without_roles_a_token_may_do_nothing(provider: IdentityProvider, value: object) -> None:
    """Whatever stands in their place."""
    assert checked(issuer(provider), provider.token("ec", roles=value)).roles == frozenset()


def _later(seconds: int) -> int:
    return int(time.time()) + seconds


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": _later(-3600)}, "it has expired"),
        ({"exp": None}, "it lacks one of exp"),
        ({"nbf": _later(36_000)}, "it is not valid yet"),
        ({"iat": _later(36_000)}, "it is not valid yet"),
        ({"aud": "payroll"}, "it is for another audience"),
        ({"aud": None}, "it lacks one of"),
        ({"iss": "http://127.0.0.1:1"}, "it is of another issuer"),
        ({"iss": None}, "it lacks one of"),
        ({"sub": None}, "it lacks one of"),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(provider: IdentityProvider, claims: dict[str, Any], reason: str) -> None:
    """Each claim counts by itself, and the sentence says which."""
    with pytest.raises(TokenRefused, match=reason):
        checked(issuer(provider), provider.token("rsa", **claims))


def test_clocks_may_differ_by_half_a_minute(provider: IdentityProvider) -> None:
    """A token that has just expired passes."""
    assert checked(issuer(provider), provider.token("rsa", exp=_later(-20))).name == "somebody"


def test_a_signature_of_another_key_is_refused(provider: IdentityProvider) -> None:
    """Though it says the id of a key that is published."""
    with pytest.raises(TokenRefused, match="its signature is wrong"):
        checked(issuer(provider), provider.token("rsa", key=rsa_key("of somebody else")))


def test_a_token_whose_claims_were_changed_is_refused(provider: IdentityProvider) -> None:
    """The signature is of what was signed."""
    header, body, signature = provider.token("ec").split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = base64.urlsafe_b64encode(json.dumps({**claims, "roles": ["admin"]}).encode()).rstrip(b"=").decode()

    with pytest.raises(TokenRefused, match="its signature is wrong"):
        checked(issuer(provider), f"{header}.{changed}.{signature}")


def _encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def test_algorithms_cannot_be_confused(provider: IdentityProvider) -> None:
    """Not none, not the public key as a shared secret, not another size, and not a key for the other kind of signature."""
    one = issuer(provider)
    private = provider.keys["rsa"]
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = json.loads(base64.urlsafe_b64decode(provider.token("rsa").split(".")[1] + "=="))
    signed = f"{_encoded({'alg': 'HS256', 'kid': 'rsa', 'typ': 'JWT'})}.{_encoded(claims)}"
    digest = base64.urlsafe_b64encode(hmac.digest(pem, signed.encode(), hashlib.sha256)).rstrip(b"=").decode()
    shared = f"{signed}.{digest}"
    unsigned = f"{_encoded({'alg': 'none', 'kid': 'rsa'})}.{_encoded(claims)}."
    other_size = provider.token("rsa", algorithm="RS512")
    other_kind = provider.token("rsa", key=provider.keys["ec"])
    for token, reason in (
        (shared, "not signed with RS256"),
        (unsigned, "not signed with"),
        (other_size, "not signed with"),
        (other_kind, "otherwise"),
    ):
        with pytest.raises(TokenRefused, match=reason):
            checked(one, token)


def test_a_key_that_is_not_for_signatures_is_not_used(provider: IdentityProvider) -> None:
    """One for encryption, a shared secret, and one that cannot be read: the others of the set count."""
    kept = json.loads(provider.answer(KEYS) or b"")["keys"]
    odd = [
        {**kept[0], "kid": "enc", "use": "enc"},
        {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
        {"kty": "RSA", "kid": "half"},
        7,
        {"kid": 1},
    ]
    provider.instead[KEYS] = json.dumps({"keys": [*odd, *kept]}).encode()
    one = issuer(provider)
    provider.keys["enc"] = provider.keys["rsa"]

    assert checked(one, provider.token("rsa")).name == "somebody"
    with pytest.raises(TokenRefused, match="does not publish"):
        checked(one, provider.token("enc"))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "." * 20, "ey" * 5000, "é.é.é"])
def test_what_is_no_token_is_refused(provider: IdentityProvider, token: str) -> None:
    """Without a question to the provider."""
    with pytest.raises(TokenRefused):
        checked(issuer(provider), token)
    assert provider.asked == {}


def test_a_rotated_key_is_found_and_forged_ids_cause_no_traffic(provider: IdentityProvider) -> None:
    """An unknown id asks the provider at most twice a minute, however many there are."""
    clock = Clock()
    one = issuer(provider, clock)
    before = checked(one, provider.token("rsa"))
    provider.add_rsa("new")
    del provider.keys["ec"]

    async def forged(number: int) -> int:
        token = provider.token("rsa", header={"kid": "forged"})
        refused = 0
        for _ in range(number):
            try:
                await one.caller(token)
            except TokenRefused:
                refused += 1
        return refused

    assert asyncio.run(forged(50)) == 50
    assert provider.asked[KEYS] == 1
    clock.at += 31
    assert checked(one, provider.token("new")).name == before.name
    assert asyncio.run(forged(50)) == 50
    assert provider.asked[KEYS] == 2


def test_requests_at_once_ask_the_provider_once(provider: IdentityProvider) -> None:
    """They wait for the same answer."""
    one, token = issuer(provider), provider.token("rsa")

    async def many() -> list[Caller]:
        return await asyncio.gather(*(one.caller(token) for _ in range(20)))

    assert {caller.name for caller in asyncio.run(many())} == {"somebody"}
    assert provider.asked == {DISCOVERY: 1, KEYS: 1}


def test_known_keys_go_on_while_the_provider_is_down(provider: IdentityProvider, caplog: pytest.LogCaptureFixture) -> None:
    """For a day, asked for again in the background each hour; `problem` says that it is down; then nobody is known."""
    clock = Clock()
    one, token = issuer(provider, clock), provider.token("rsa")
    checked(one, token)
    provider.is_down = True
    clock.at += 3601

    async def behind() -> Caller:
        caller = await one.caller(token)
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))
        return caller

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(behind()).name == "somebody"
    problem = one.problem
    clock.at += 86_400
    with pytest.raises(IssuerAway):
        checked(one, token)
    provider.is_down = False
    clock.at += 31

    assert "answered 503" in problem
    assert "answered 503" in caplog.text
    assert checked(one, token).name == "somebody"
    assert one.problem == ""


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        (DISCOVERY, b"[]", "is no JSON object"),
        (DISCOVERY, b"{", "is no JSON"),
        (DISCOVERY, b'{"issuer": "http://127.0.0.1:1"}', "names itself otherwise"),
        (DISCOVERY, None, "no https URL of its keys"),
        (KEYS, b'{"keys": []}', "publishes no key"),
        (KEYS, b'{"keys": 7}', "publishes no key"),
        (KEYS, b" " * 300_000, "more than 262,144 bytes"),
    ],
)
def test_a_provider_that_answers_otherwise_gives_no_keys(provider: IdentityProvider, path: str, body: bytes | None, problem: str) -> None:
    """The alarm says what it answered; the caller is asked to come again."""
    plain = json.dumps({"issuer": provider.issuer, "jwks_uri": "http://keys.example/keys"}).encode()
    provider.instead[path] = body if body is not None else plain
    one = issuer(provider)

    with pytest.raises(IssuerAway):
        checked(one, provider.token("rsa"))
    assert problem in one.problem


@pytest.mark.parametrize("address", ["https://[", "http://127.0.0.1:port/", "http://127.0.0.1:99999/", f"https://{'k' * 70_000}", "\x00"])
def test_a_provider_whose_address_of_keys_is_no_url_gives_none(provider: IdentityProvider, address: str) -> None:
    """Regression: the library's error about the URL was none of those that make an alarm, and each question with a token ended with 500."""
    provider.instead[DISCOVERY] = json.dumps({"issuer": provider.issuer, "jwks_uri": address}).encode()
    one = issuer(provider)

    with pytest.raises(IssuerAway):
        checked(one, provider.token("rsa"))
    assert one.problem != ""


def test_an_odd_key_takes_no_other_with_it(provider: IdentityProvider) -> None:
    """Regression: an algorithm that is a list was an error of its own, by which all keys of the provider were lost."""
    published = json.loads(provider.answer(KEYS) or b"")["keys"]
    odd = [{**published[0], "kid": f"odd {name}", name: ["AQAB"]} for name in ("alg", "kty", "n", "use", "kid")]
    provider.instead[KEYS] = json.dumps({"keys": [*odd, None, 7, "key", [], *published]}).encode()

    assert checked(issuer(provider), provider.token("rsa")).name == "somebody"


def test_a_provider_that_never_ends_its_answer_is_given_up(provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it has one limit of time."""
    monkeypatch.setattr(issuers, "FETCH_SECONDS", 0.2)
    answer, given_up = provider.answer, Event()

    def hanging(path: str) -> bytes | None:
        assert given_up.wait(60)
        return answer(path)

    monkeypatch.setattr(provider, "answer", hanging)
    one = issuer(provider)
    with pytest.raises(IssuerAway):
        checked(one, provider.token("rsa"))
    given_up.set()
    assert "Timeout" in one.problem


@pytest.mark.parametrize("url", ["http://issuer.example", "ftp://127.0.0.1", "https://", "issuer"])
def test_an_issuer_without_tls_is_refused_at_the_start(url: str) -> None:
    """Keys that anybody on the way can change prove nothing."""
    with pytest.raises(IssuerRefused, match="https"):
        Issuer(Oidc(issuer=url, audience=AUDIENCE))


def bearer(token: str) -> dict[str, str]:
    """The header of a token or a key."""
    return {"authorization": f"Bearer {token}"}


def test_tokens_and_keys_pass_the_same_guard(provider: IdentityProvider, tmp_path: Path) -> None:
    """Roles count alike; a token that is not valid gets 401 with the reason, one that cannot be checked 503."""
    path = tmp_path / "serve-keys.json"
    key = add_key(path, "a job", Role.PREDICT)
    app, ways = guarded(Keyring(path), issuer=issuer(provider)), ("POST", "/v1/models/late:predict")
    expired = ask(app, *ways, headers=bearer(provider.token("rsa", exp=_later(-3600))))
    away = guarded(Keyring(path), issuer=Issuer(Oidc(issuer="http://127.0.0.1:1", audience=AUDIENCE)))

    assert ask(app, *ways, headers=bearer(provider.token("rsa"))).json()["caller"] == "somebody"
    assert ask(app, *ways, headers=bearer(key)).json()["caller"] == "a job"
    assert ask(app, *ways, headers=bearer(provider.token("ec", roles=["read"]))).status_code == 403
    assert (expired.status_code, "it has expired" in expired.json()["detail"]) == (401, True)
    answer = ask(away, *ways, headers=bearer(provider.token("rsa")))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert ask(away, *ways, headers=bearer(key)).status_code == 200


def test_the_settings_name_the_provider(provider: IdentityProvider, tmp_path: Path) -> None:
    """An audience has to be named, too: a token for another service of the same provider would do."""
    named = AccessSettings(home=tmp_path, serve_oidc_issuer=provider.issuer, serve_audit_file=tmp_path / "audit.jsonl")
    with kept_audit_log(), pytest.raises(SettingsMissing, match="PIPELINE_SERVE_OIDC_AUDIENCE"):
        open_access(named)
    with kept_audit_log():
        access = open_access(named.model_copy(update={"serve_oidc_audience": AUDIENCE}))
    scope = {"method": "GET", "type": "http"}
    found: Awaitable[Caller | Refusal] = Credentials(keys=access.keys, issuer=access.issuer).caller(
        scope, {b"authorization": f"Bearer {provider.token('rsa')}".encode()}
    )

    assert asyncio.run(_awaited(found)).name == "somebody"
    assert access.problems == []


async def _awaited(found: Awaitable[Caller | Refusal]) -> Caller:
    caller = await found
    assert isinstance(caller, Caller)
    return caller


def test_no_log_has_a_token(provider: IdentityProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a good one, nor one that is refused, nor a part of one."""
    app = guarded(Keyring(tmp_path / "serve-keys.json"), issuer=issuer(provider))
    tokens = [
        provider.token("rsa"),
        provider.token("rsa", exp=_later(-3600)),
        provider.token("ec", aud="x"),
        provider.token("ec", roles=[]),
    ]
    with caplog.at_level(logging.DEBUG):
        answers = [ask(app, "POST", "/v1/models/late:predict", headers=bearer(token)) for token in tokens]
    logged = caplog.text + "".join(answer.text for answer in answers)

    assert [answer.status_code for answer in answers] == [200, 401, 401, 403]
    assert [part for token in tokens for part in token.split(".")[1:] if part in logged] == []
