"""Schemas of a schema registry that speaks Confluent's REST interface, asked for by the id that a framed record begins with.

An id never gets another schema, so what a registry said of one is kept for as long as the process lives. Schemas that refer to others are
not put together: a record of such a schema counts as one of no schema that is known here.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline_assets.core.errors import SettingsMissing, SourceRefused
from pipeline_assets.core.http_errors import http_errors, is_transient, json_fields
from pipeline_assets.core.settings import PREFIX, SchemaRegistry, Settings
from pipeline_assets.spec.sources import Avro, Format

if TYPE_CHECKING:
    import httpx

ACCEPTED = "application/vnd.schemaregistry.v1+json, application/json"
ATTEMPTS, LONGEST_SECONDS, ANSWER_SECONDS = 8, 30.0, 10.0
# What a registry answers beside 404 for an id that it does not have; a 404 without it comes from a wrong address.
NO_SUCH_SCHEMA = 40403
AVRO = "AVRO"

# The schema of an id as JSON has it; None where the registry knows none, or one that is no Avro schema of its own.
SchemaOf = Callable[[int], Any | None]
_known: dict[tuple[SchemaRegistry, int], Any] = {}


def schemas_of(settings: Settings, written: Format) -> SchemaOf:
    """How the registry that a format names is asked; raises SettingsMissing where no URL is given for it."""
    name = written.registry if isinstance(written, Avro) else None
    if name is None:
        return nobody
    if name not in settings.registries:
        raise SettingsMissing([f"{PREFIX}REGISTRIES__{name.upper()}__URL"])
    return partial(schema_of, name, settings.registries[name])


def nobody(_number: int) -> None:
    """There is no registry: no id has a schema."""


def schema_of(name: str, registry: SchemaRegistry, number: int) -> Any | None:
    """The Avro schema that a registry has under an id.

    Raises SourceUnavailable where it does not answer in time, SourceRefused for an answer that asking again would not change.
    """
    if (registry, number) not in _known:
        found = _ask(name, registry, number)
        if found is None:
            return None
        _known[registry, number] = found
    return _known[registry, number]


def _ask(name: str, registry: SchemaRegistry, number: int) -> Any | None:
    import httpx
    import stamina

    source, path = f"schema registry {name}", f"/schemas/ids/{number}"
    retrying = stamina.retry(on=is_transient, attempts=ATTEMPTS, timeout=LONGEST_SECONDS, wait_initial=0.2, wait_max=5.0)
    with http_errors(source):
        try:
            answer = retrying(_send)(registry, path)
        except httpx.HTTPStatusError as error:
            if json_fields(error.response).get("error_code") == NO_SUCH_SCHEMA:
                return None
            raise
    return _schema_in(source, path, json_fields(answer))


def _schema_in(source: str, path: str, found: dict[str, Any]) -> Any | None:
    text = found.get("schema")
    if not isinstance(text, str):
        raise SourceRefused(source, f"GET {path} answered without a schema")
    if found.get("schemaType", AVRO) != AVRO or found.get("references"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceRefused(source, f"GET {path} answered a schema that is no JSON") from error


def _send(registry: SchemaRegistry, path: str) -> "httpx.Response":
    import httpx

    auth = None if registry.user is None else httpx.BasicAuth(registry.user, registry.password.get_secret_value())
    with httpx.Client(base_url=registry.url, auth=auth, headers={"Accept": ACCEPTED}, timeout=ANSWER_SECONDS) as client:
        return client.get(path).raise_for_status()
