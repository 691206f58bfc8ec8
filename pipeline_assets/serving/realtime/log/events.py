"""A door for events over HTTP: `POST /v1/events/{stream}`, for producers that have no client of Kafka.

Which streams have it: those of use cases whose records are JSON objects without a frame, or CloudEvents; all else is written by a program
that knows its schema. The streams of the platform have none, as nobody but the service says what it answered, and neither have the changes
of tables. A caller needs the role for events, so nothing is open by default.

A request brings a JSON object, a list of them, lines of them (`application/x-ndjson`), or CloudEvents: structured, as a batch, or binary.
Each row is held against the contract of the stream by the code that types its records: what would go to quarantine is refused, with row and
field. What is accepted is in the topic, acknowledged by all in-sync replicas, before it is answered, with the partition and offset. Its key
is the contract's primary key (`checks`), its partition that of Kafka's own producer in Java, so that the order of a key is kept beside
producers that do the same.

With an `Idempotency-Key` a repeat gets the same answer and makes no second record; rows that Kafka had not acknowledged are sent by it, and
no others. The same key with another body is refused (422), and while the first request runs (409). Remembered is a key of a caller for an
hour, at most 10,000 of them, by the process that answered: after a restart, and by another worker process, the rows are sent again. Then,
as without a key, a row is in the topic twice: the lake has one row of two that are equal in all fields, `known_at` included. Where that is
the record's time in the topic, they are two versions of one key.
"""

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline_assets.core.errors import UnknownName
from pipeline_assets.core.project import Project
from pipeline_assets.model_lifecycle.feature_store.online.app import PROBLEM
from pipeline_assets.serving.realtime.access.callers import Caller
from pipeline_assets.serving.realtime.access.problems import too_many_rows
from pipeline_assets.serving.realtime.log.acked import Acked, AckedProducer, Outgoing, Unacked
from pipeline_assets.serving.realtime.log.bodies import Row, rows_of
from pipeline_assets.serving.realtime.log.checks import Checker, Fault, Incoming
from pipeline_assets.serving.realtime.log.repeats import Outcome, Remembered, Repeats
from pipeline_assets.serving.realtime.log.sender import TRACEPARENT
from pipeline_assets.serving.realtime.service.bodies import idempotency_key, read_body
from pipeline_assets.serving.realtime.service.problems import Problem
from pipeline_assets.serving.realtime.service.spans import passed_on
from pipeline_assets.spec.sources import CloudEvent, EventStream, JsonObject


def streams_with_door(project: Project) -> tuple[EventStream, ...]:
    """The streams that events may be sent to over HTTP."""
    own = () if project.platform is None else project.platform.streams
    return tuple(stream for stream in project.streams if stream not in own and _is_open(stream))


def _is_open(stream: EventStream) -> bool:
    written = stream.format
    return isinstance(written, CloudEvent) or (isinstance(written, JsonObject) and not written.is_framed)


def event_routes(project: Project, producer: AckedProducer) -> list[Route]:
    """The route of the door, by the name `events`; the producer is closed by its maker."""
    door = Door(project, producer)
    return [Route("/v1/events/{stream}", door.take, methods=["POST"], name="events")]


class Door:
    """The door of one process."""

    def __init__(self, project: Project, producer: AckedProducer) -> None:
        self._checkers = {stream.contract.name: Checker(stream, project.streams) for stream in streams_with_door(project)}
        self._producer, self._repeats = producer, Repeats()
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, request: Request) -> Response:
        """The answer to a request; raises Problem, or UnknownName for a stream that has no door."""
        name = request.path_params["stream"]
        if name not in self._checkers:
            raise UnknownName("stream that takes events over HTTP", name, sorted(self._checkers))
        checker, caller = self._checkers[name], request.scope.get("state", {}).get("caller")
        body, header = await read_body(request, _kind_of(request)), passed_on(request.scope)
        rows = rows_of(checker.stream.format, request.headers, body)
        _check_limit(caller, len(rows))
        known = self._known(request, caller, name, body, len(rows))
        # Also where the caller goes away: it will ask again.
        task = asyncio.create_task(self._complete(checker, rows, known, {} if header is None else {TRACEPARENT: header}))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)
        return answer_of(name, [one or Unacked(problem="") for one in known.outcomes])

    def _known(self, request: Request, caller: Caller | None, stream: str, body: bytes, rows: int) -> Remembered:
        """What was done for the key of a request; marked as being done."""
        key, digest = idempotency_key(request), _digest(request, body)
        if key is None:
            return Remembered(digest=digest, outcomes=[None] * rows)
        known = self._repeats.of((caller.id if caller is not None else "", stream, key), digest, rows)
        if known.digest != digest:
            raise Problem(422, "KeyReused", "This `Idempotency-Key` was sent with another body. Use a new key for other events.")
        if known.is_running:
            raise Problem(409, "Running", "A request with this `Idempotency-Key` is being answered. Ask again.", retry_after=1)
        known.is_running = True
        return known

    async def _complete(self, checker: Checker, rows: Sequence[Row], known: Remembered, passed: Mapping[str, bytes]) -> None:
        """Checks and sends the rows that have no outcome that stays, with the headers that are passed on."""
        try:
            left = [place for place, one in enumerate(known.outcomes) if one is None or _may_change(one)]
            incoming = {place: row for place in left if isinstance(row := rows[place], Incoming)}
            known.outcomes = [row if isinstance(row, Fault) else one for row, one in zip(rows, known.outcomes, strict=True)]
            checked = await run_in_threadpool(checker.check, list(incoming.values()))
            sent = dict[int, Outgoing]()
            for (place, row), key in zip(incoming.items(), checked, strict=True):
                if isinstance(key, Fault):
                    known.outcomes[place] = key
                else:
                    sent[place] = Outgoing(topic=checker.stream.topic, key=key, value=row.value, headers={**passed, **row.headers})
            for place, outcome in zip(sent, await self._producer.send(list(sent.values())), strict=True):
                known.outcomes[place] = outcome
        finally:
            known.is_running = False


def _kind_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_limit(caller: Caller | None, rows: int) -> None:
    refusal = None if caller is None else too_many_rows(caller, rows)
    if refusal is not None:
        raise Problem(int(refusal.status), "TooManyRows", refusal.detail)


def _digest(request: Request, body: bytes) -> bytes:
    """What makes two requests the same: type, attributes and body."""
    about = sorted((name, value) for name, value in request.headers.items() if name == "content-type" or name.startswith("ce-"))
    return sha256(msgspec.json.encode(about) + body).digest()


def _may_change(outcome: Outcome) -> bool:
    return isinstance(outcome, Unacked) and not outcome.is_final


def answer_of(stream: str, outcomes: Sequence[Outcome]) -> Response:
    """All accepted (200), some (207), none (422), or some of which nobody knows (503)."""
    refused = [place for place, one in enumerate(outcomes) if isinstance(one, Fault) or (isinstance(one, Unacked) and one.is_final)]
    unknown = [place for place, one in enumerate(outcomes) if _may_change(one)]
    accepted = len(outcomes) - len(refused) - len(unknown)
    rows = [_row(place, one) for place, one in enumerate(outcomes)]
    found: dict[str, Any] = {"stream": stream, "accepted": accepted, "refused": len(refused), "unknown": len(unknown), "rows": rows}
    if unknown:
        detail = f"Kafka has not acknowledged {len(unknown)} of {len(rows)} rows. Send the same again, with the same `Idempotency-Key`."
        return _document(HTTPStatus.SERVICE_UNAVAILABLE, "NotAcknowledged", detail, found, {"Retry-After": "1"})
    if refused and not accepted:
        first = rows[refused[0]]
        return _document(HTTPStatus.UNPROCESSABLE_ENTITY, "RowsRefused", f"Row {first['row']}: {first['problem']}", {**first, **found})
    status = HTTPStatus.MULTI_STATUS if refused else HTTPStatus.OK
    return Response(msgspec.json.encode(found), status, media_type="application/json")


def _row(place: int, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Acked):
        return {"row": place, "status": "accepted", "partition": outcome.partition, "offset": outcome.offset}
    if isinstance(outcome, Fault):
        field = {} if outcome.field is None else {"field": outcome.field}
        return {"row": place, "status": "refused", **field, "problem": outcome.detail}
    return {"row": place, "status": "refused" if outcome.is_final else "unknown", "problem": f"The row {outcome.problem}."}


def _document(status: int, title: str, detail: str, found: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    content = {**found, "type": "about:blank", "title": title, "status": status, "detail": detail}
    return Response(msgspec.json.encode(content), status, headers, media_type=PROBLEM)
