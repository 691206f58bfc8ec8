"""Problem documents (RFC 9457): what is wrong with a request, where, what was expected, and what to do."""

from http import HTTPStatus
from typing import Any

import msgspec
import psycopg
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pipeline_assets.core.errors import PipelineError, UserInputError
from pipeline_assets.model_lifecycle.feature_store.online.app import PROBLEM, status_of

UNAVAILABLE = 503
# How long a word of a request may be in an answer.
LONGEST_WORD = 200


class Problem(UserInputError):
    """A request that is not answered, with the status of HTTP that says why.

    retry_after: in so many seconds it may be answered. `members` name what it is about: `model`, `row` (from 0), `field`.
    """

    def __init__(self, status: int, title: str, detail: str, *, retry_after: int | None = None, **members: str | int | None) -> None:
        self.status, self.title, self.detail, self.retry_after = status, title, detail, retry_after
        self.members = {name: value for name, value in members.items() if value is not None}
        super().__init__(detail)

    def response(self) -> Response:
        """The document."""
        found: dict[str, Any] = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail, **self.members}
        # Where clients of KServe and Triton look.
        found["error"] = self.detail
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return Response(msgspec.json.encode(found), self.status, headers, media_type=PROBLEM)


def problem_of(error: Exception) -> Problem:
    """The problem that an error is for its caller; of one that nobody expects no more than that there is one."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, HTTPStatus(error.status_code).phrase, "Nothing is here that is asked so. See /openapi.json.")
    if isinstance(error, psycopg.Error):
        return Problem(503, "StoreUnavailable", "The online store does not answer. Ask again later.", retry_after=1)
    if isinstance(error, PipelineError):
        status = status_of(error)
        return Problem(status, type(error).__name__, str(error), retry_after=1 if status == UNAVAILABLE else None)
    return Problem(500, "Unexpected", "The service failed to answer this; its log has the reason.")


def shown(text: str) -> str:
    """A foreign text as it may stand in an answer: not longer than some words."""
    return text if len(text) <= LONGEST_WORD else f"{text[:LONGEST_WORD]}…"
