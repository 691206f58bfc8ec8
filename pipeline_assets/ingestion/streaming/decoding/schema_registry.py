"""Schemas of a schema registry that speaks Confluent's REST interface, asked for by the id that a framed record begins with.

An id never gets another schema, so what a registry said of one is kept for as long as the process lives.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline_assets.core.errors import SettingsMissing, SourceRefused
from pipeline_assets.core.http_errors import http_errors, is_transient, json_fields
from pipeline_assets.core.http_limits import ACCEPTED as UNPACKED
from pipeline_assets.core.http_limits import bind, fetched, until
from pipeline_assets.core.setting_values import SchemaRegistry
from pipeline_assets.core.settings import PREFIX, Settings
from pipeline_assets.spec.sources import Avro, Format, JsonObject, Protobuf

if TYPE_CHECKING:
    import httpx

ACCEPTED = "application/vnd.schemaregistry.v1+json, application/json"
ATTEMPTS, LONGEST_SECONDS, ANSWER_SECONDS = 8, 30.0, 10.0
MOST_BYTES = 4 << 20
# What a registry answers beside 404 for a subject, a version and an id that it does not have; a 404 without it comes from a wrong address.
NO_SUCH = {40401, 40402, 40403}
AVRO, PROTOBUF, JSON = "AVRO", "PROTOBUF", "JSON"
# A schema that refers to more, or over more steps, counts as one that cannot be put together.
MOST_REFERENCES, MOST_STEPS = 200, 20


@dataclass(frozen=True, kw_only=True)
class RegisteredSchema:
    """What a registry has under an id: `kind` (AVRO, PROTOBUF, JSON) and text.

    references: name and text of all that it refers to, each after those that it refers to itself; none of a JSON Schema, which nothing is
    held against.
    """

    kind: str
    text: str
    references: tuple[tuple[str, str], ...] = ()


# The schema of an id; None where the registry knows none, or one that cannot be put together from what it refers to.
SchemaOf = Callable[[int], RegisteredSchema | None]
Ask = Callable[[str], dict[str, Any] | None]
_known: dict[tuple[SchemaRegistry, int], RegisteredSchema] = {}


class _NotTogetherError(Exception):
    """References that lead in a circle, nowhere, to another kind of schema, or too far."""


def schemas_of(settings: Settings, written: Format) -> SchemaOf:
    """How the registry that a format names is asked; raises SettingsMissing where no URL is given for it."""
    name = written.registry if isinstance(written, Avro | Protobuf | JsonObject) else None
    if name is None:
        return nobody
    if name not in settings.registries:
        raise SettingsMissing([f"{PREFIX}REGISTRIES__{name.upper()}__URL"])
    return partial(schema_of, name, settings.registries[name])


def nobody(_number: int) -> None:
    """There is no registry: no id has a schema."""


def schema_of(name: str, registry: SchemaRegistry, number: int) -> RegisteredSchema | None:
    """The schema that a registry has under an id, with all that it refers to.

    Raises SourceUnavailable where it does not answer in time, SourceRefused for an answer that asking again would not change.
    """
    if (registry, number) not in _known:
        found = _put_together(partial(_answer, f"schema registry {name}", registry), number)
        if found is None:
            return None
        _known[registry, number] = found
    return _known[registry, number]


def _put_together(ask: Ask, number: int) -> RegisteredSchema | None:
    found = ask(f"/schemas/ids/{number}")
    if found is None:
        return None
    kind, texts = _kind(found), dict[str, str]()
    try:
        if kind != JSON:
            _collect(ask, found, texts, ())
    except _NotTogetherError:
        return None
    return RegisteredSchema(kind=kind, text=found["schema"], references=tuple(texts.items()))


def _collect(ask: Ask, found: dict[str, Any], texts: dict[str, str], above: tuple[str, ...]) -> None:
    """Add the texts that an answer refers to; of several with one name the first counts, as it does for Confluent's own clients."""
    for name, path in _references(found):
        if name in above or len(above) >= MOST_STEPS or len(texts) >= MOST_REFERENCES:
            raise _NotTogetherError
        if name in texts:
            continue
        referred = ask(path)
        if referred is None or _kind(referred) != _kind(found):
            raise _NotTogetherError
        _collect(ask, referred, texts, (*above, name))
        texts[name] = referred["schema"]


def _references(found: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """The name of each reference of an answer, and where its schema is, even where that was deleted since."""
    references = found.get("references") or []
    try:
        places = [(one["name"], quote(one["subject"], safe=""), int(one["version"])) for one in references]
    except (TypeError, ValueError, LookupError) as error:
        raise _NotTogetherError from error
    if not all(isinstance(name, str) for name, _, _ in places):
        raise _NotTogetherError
    for name, subject, version in places:
        yield name, f"/subjects/{subject}/versions/{version}?deleted=true"


def _kind(found: dict[str, Any]) -> str:
    return str(found.get("schemaType") or AVRO)


def _answer(source: str, registry: SchemaRegistry, path: str) -> dict[str, Any] | None:
    """The fields of an answer with a schema; None where the registry does not have it."""
    import httpx
    import stamina

    retrying = stamina.retry(on=is_transient, attempts=ATTEMPTS, timeout=LONGEST_SECONDS, wait_initial=0.2, wait_max=5.0)
    with http_errors(source):
        try:
            found = json_fields(retrying(_send)(registry, path))
        except httpx.HTTPStatusError as error:
            if json_fields(error.response).get("error_code") in NO_SUCH:
                return None
            raise
    _check(source, path, found)
    return found


def _check(source: str, path: str, found: dict[str, Any]) -> None:
    text = found.get("schema")
    if not isinstance(text, str):
        raise SourceRefused(source, f"GET {path} answered without a schema")
    if _kind(found) != AVRO:
        return
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceRefused(source, f"GET {path} answered a schema that is no JSON") from error


def _send(registry: SchemaRegistry, path: str) -> "httpx.Response":
    import httpx

    auth = None if registry.user is None else httpx.BasicAuth(registry.user, registry.password.get_secret_value())
    with httpx.Client(base_url=registry.url, auth=auth, headers={"Accept": ACCEPTED, **UNPACKED}, timeout=ANSWER_SECONDS) as client:
        bind(client)
        with until(monotonic() + LONGEST_SECONDS, f"a schema takes longer than {LONGEST_SECONDS:g} s"):
            return fetched(client, "GET", path, MOST_BYTES).raise_for_status()
