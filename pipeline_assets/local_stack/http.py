"""Whether a service answers over HTTP, and what it says."""

from collections.abc import Mapping
from typing import Any

ANSWER_SECONDS = 2.0


def answers(url: str, _since: float = 0, *, login: tuple[str, str] | None = None) -> bool:
    """A GET of the URL ends with status 200; for `Service.is_ready`, whichever process listens there. login: name and password."""
    import httpx

    try:
        return httpx.get(url, timeout=ANSWER_SECONDS, trust_env=False, auth=login).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def ask_graphql(
    url: str, query: str, variables: Mapping[str, object] | None = None, *, seconds: float = ANSWER_SECONDS, key: str | None = None
) -> dict[str, Any] | None:
    """The data that a GraphQL endpoint returns to a caller with the key, if it wants one; None where it does not answer or finds errors."""
    import httpx

    try:
        asked = {"query": query, "variables": variables or {}}
        answer = httpx.post(url, json=asked, headers=key_header(key), timeout=seconds, trust_env=False)
    except httpx.HTTPError:
        return None
    data: dict[str, Any] | None = answer.json().get("data") if answer.status_code == httpx.codes.OK else None
    return data


def key_header(key: str | None) -> dict[str, str]:
    """The header of a key; none where there is none."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}
