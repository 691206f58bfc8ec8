"""API keys: what is kept of one, and which texts are one."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline_assets.serving.realtime.access.callers import Role, roles_of
from pipeline_assets.serving.realtime.access.keys import KEY_FORM, find_key, is_live, make_key, revoked, with_new_secret

NOW = datetime(2026, 11, 30, tzinfo=UTC)
DAY = timedelta(days=1)
KEY, TEXT = make_key("a job", [Role.PREDICT], now=NOW, lives=DAY)
KEYS = {KEY.id: KEY}


def test_a_key_is_found_by_its_text_until_its_end() -> None:
    """Up to the last moment before it; at its end it is none."""
    assert find_key(KEYS, TEXT, NOW) == KEY
    assert find_key(KEYS, TEXT, NOW + DAY - timedelta(microseconds=1)) == KEY
    assert find_key(KEYS, TEXT, NOW + DAY) is None


def test_of_a_key_only_a_digest_is_kept() -> None:
    """Neither what is kept nor how it is printed has the secret, and the digest is not printed either."""
    secret = TEXT.rpartition("_")[2] if TEXT.count("_") == 2 else TEXT.split("_", 2)[2]

    assert secret not in str(vars(KEY))
    assert len(KEY.secrets[0].sha256) == 64
    assert KEY.secrets[0].sha256 not in repr(KEY)


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="utf-8"))
def test_a_key_with_one_other_character_is_none(place: int, character: str) -> None:
    """Whichever part of it differs."""
    changed = TEXT[:place] + character + TEXT[place + 1 :]

    assert (find_key(KEYS, changed, NOW) is None) == (changed != TEXT)


@given(st.text())
def test_any_other_text_is_no_key(text: str) -> None:
    """It is refused without an error, however it looks."""
    assert find_key(KEYS, text, NOW) is None


def test_after_a_rotation_both_secrets_work_until_their_own_ends() -> None:
    """The old one does not live longer, and is dropped with the next rotation after its end."""
    rotated, newer = with_new_secret(KEY, now=NOW + DAY / 2, lives=DAY)
    keys = {rotated.id: rotated}
    again, _ = with_new_secret(rotated, now=NOW + DAY, lives=DAY)

    assert [find_key(keys, one, NOW + DAY / 2) for one in (TEXT, newer)] == [rotated, rotated]
    assert [find_key(keys, one, NOW + DAY) for one in (TEXT, newer)] == [None, rotated]
    assert rotated.expires_at == NOW + DAY * 1.5
    assert again.secrets[0] == rotated.secrets[1]
    assert KEY_FORM.fullmatch(newer) is not None
    assert newer.split("_")[1] == KEY.id


def test_a_revoked_key_has_no_secret_that_works() -> None:
    """Its id stays known, for those who read logs."""
    ended = revoked(KEY, now=NOW)

    assert find_key({KEY.id: ended}, TEXT, NOW) is None
    assert (ended.revoked_at, ended.name, is_live(ended, NOW), is_live(KEY, NOW)) == (NOW, "a job", False, True)


def test_an_admin_may_all_and_others_what_they_are_named_for() -> None:
    """No role but `admin` has another one in it."""
    caller = KEY.caller()
    admin = make_key("me", [Role.ADMIN], now=NOW, lives=DAY)[0].caller()

    assert [role for role in Role if caller.may(role)] == [Role.PREDICT]
    assert [role for role in Role if admin.may(role)] == list(Role)
    assert roles_of(["read", "owner", 7, "admin"]) == {Role.READ, Role.ADMIN}
