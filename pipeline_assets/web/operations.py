"""What a request to Dagster's web server would change: the names of GraphQL's mutations in it, read as Dagster itself reads them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import parse_qsl

from graphql import FieldNode, GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.types import Scope

from pipeline_assets.serving.realtime.access.problems import Refusal
from pipeline_assets.serving.realtime.access.sessions import SAFE_METHODS, Headers
from pipeline_assets.web.origins import media_type

GRAPHQL = "/graphql"
LONGEST_BODY, LONGEST_QUERY, MOST_TOKENS = 16_000_000, 1_000_000, 100_000
# Short documents, as the pages send them, are kept as they were read; long ones would fill the memory.
LONGEST_KEPT, MOST_KEPT = 20_000, 256
# What the audit log has of a request: so many names, so many characters of each; `…` stands for more, and for a fragment.
LONGEST_NAMED, LONGEST_NAME, MORE = 10, 64, "…"
JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a request asks of GraphQL: `changes` are the fields of its mutations, none where it only reads."""

    changes: tuple[str, ...] = ()


READS = Operation()


def by_get(scope: Scope) -> Operation | Refusal:
    """What a GET asks; 405 where it would change something."""
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    found = _operation([value for name, value in query if name == "query"])
    if isinstance(found, Refusal) or not found.changes:
        return found
    detail = f"Nothing is changed by GET ({', '.join(found.changes)}). Send the mutation by POST, as {JSON}."
    return Refusal(status=HTTPStatus.METHOD_NOT_ALLOWED, detail=detail, headers={"allow": "POST"})


def unfit_post(headers: Headers) -> Refusal | None:
    """415 for a POST that is no JSON: Dagster would take its query from the address."""
    if media_type(headers) == JSON:
        return None
    return Refusal(status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail=f"GraphQL is asked by POST with {JSON}.")


def by_post(body: bytes) -> Operation | Refusal:
    """What the body of a POST asks; 400 where it is no JSON object with a query."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return _unreadable("The body is no JSON.")
    if not isinstance(asked, dict) or not isinstance(asked.get("query"), str):
        return _unreadable("The body is no JSON object with a `query`.")
    return _operation([asked["query"]])


def too_long() -> Refusal:
    """413 for a body beyond what is read."""
    return _too_large(f"The body has more than {LONGEST_BODY:,} bytes.")


def change_of(scope: Scope) -> Operation:
    """What a request to any other path changes: only reports of assets are anything but reads."""
    return READS if scope["method"] in SAFE_METHODS else Operation(changes=(scope["path"].strip("/").partition("/")[0][:LONGEST_NAME],))


def _operation(queries: Sequence[str]) -> Operation | Refusal:
    if any(len(query) > LONGEST_QUERY for query in queries):
        return _too_large(f"The query has more than {LONGEST_QUERY:,} characters. Send values as `variables`.")
    try:
        changes = tuple(name for query in queries for name in (kept_mutations(query) if len(query) <= LONGEST_KEPT else mutations(query)))
    except (GraphQLError, RecursionError):
        return _unreadable("The query is no GraphQL, or too deep or long to be read.")
    return Operation(changes=(*changes[:LONGEST_NAMED], *((MORE,) if len(changes) > LONGEST_NAMED else ())))


def mutations(query: str) -> tuple[str, ...]:
    """The fields of all mutations of a document, also of those that are not the one to be executed; a fragment counts as `…`.

    Raises GraphQLError, RecursionError.
    """
    document = parse(query, no_location=True, max_tokens=MOST_TOKENS)
    found = [
        each for each in document.definitions if isinstance(each, OperationDefinitionNode) and each.operation is OperationType.MUTATION
    ]
    fields = (field for each in found for field in each.selection_set.selections)
    return tuple(field.name.value[:LONGEST_NAME] if isinstance(field, FieldNode) else MORE for field in fields)


@lru_cache(maxsize=MOST_KEPT)
def kept_mutations(query: str) -> tuple[str, ...]:
    """As `mutations`: the pages send the same few documents again and again."""
    return mutations(query)


def _too_large(detail: str) -> Refusal:
    return Refusal(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail=detail)


def _unreadable(detail: str) -> Refusal:
    return Refusal(status=HTTPStatus.BAD_REQUEST, detail=detail)
