"""What a request brings as events: plain JSON, lines of it, or CloudEvents 1.0 in their three modes over HTTP, as records of a stream."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from pipeline_assets.ingestion.streaming.decoding.formats import ATTRIBUTE, CONTENT_TYPE, DATA_CONTENT_TYPE, REQUIRED
from pipeline_assets.serving.realtime.log.checks import Fault, Incoming
from pipeline_assets.serving.realtime.service.problems import Problem, shown
from pipeline_assets.spec.sources import CloudEvent, Format

JSON, CLOUD_EVENT, CLOUD_EVENTS = "application/json", "application/cloudevents+json", "application/cloudevents-batch+json"
LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-lines"})
KINDS = (JSON, "application/x-ndjson", CLOUD_EVENT, CLOUD_EVENTS)
HTTP_ATTRIBUTE = "ce-"
VERSION = "specversion"
MOST_ROWS = 1_000
NOT_CLOUD_EVENT = Fault(field=None, detail=f"The row is no CloudEvent 1.0: it needs {', '.join(REQUIRED)} as texts, and JSON as data.")

Row = Incoming | Fault
Raws = dict[str, msgspec.Raw]


def rows_of(written: Format, headers: Mapping[str, str], body: bytes) -> list[Row]:
    """The rows of a request as records of a stream of this format, or what is wrong with one as a CloudEvent.

    headers: of the request, with lower-case names. Raises Problem for a body of another type (415), that is no JSON (400), with more rows
    than are taken at once (413), or none (422).
    """
    rows = _rows(written, headers, body)
    if len(rows) > MOST_ROWS:
        raise Problem(413, "TooManyRows", f"The body has {len(rows):,} rows; no more than {MOST_ROWS:,} are taken at once.")
    if not rows:
        raise Problem(422, "NoRows", "The body has no row.")
    return rows


def _rows(written: Format, headers: Mapping[str, str], body: bytes) -> list[Row]:
    kind = headers.get(CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if kind == CLOUD_EVENT:
        return [_structured(written, body)]
    if kind == CLOUD_EVENTS:
        return [_structured(written, one) for one in _listed(body)]
    if f"{HTTP_ATTRIBUTE}{VERSION}" in headers:
        return [_binary(written, headers, body)]
    if kind not in {JSON, *LINES}:
        raise Problem(415, "UnknownType", f"The body has the type '{shown(kind)}', expected one of {', '.join(KINDS)}.")
    if isinstance(written, CloudEvent):
        raise Problem(415, "UnknownType", f"This stream takes CloudEvents: the type {CLOUD_EVENT}, or headers such as ce-id.")
    if kind in LINES:
        return [Incoming(value=line) for line in body.split(b"\n") if line.strip()]
    return [Incoming(value=one) for one in (_listed(body) if body.lstrip()[:1] == b"[" else [body])]


def _listed(body: bytes) -> list[bytes]:
    """The values of a list as they stand in the body. What each is, the contract says."""
    try:
        return [bytes(one) for one in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "NoJson", f"The body is no JSON list: {shown(str(error))}.") from None


def _structured(written: Format, event: bytes) -> Row:
    """An event in one piece: as it is for a stream of events, its data for another."""
    try:
        found = msgspec.json.decode(event, type=Raws)
        about = {name: msgspec.json.decode(value) for name, value in found.items() if name not in {"data", "data_base64"}}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOT_CLOUD_EVENT
    if not _is_event(about) or "data" not in found:
        return NOT_CLOUD_EVENT
    if isinstance(written, CloudEvent):
        return Incoming(value=event, headers={CONTENT_TYPE: CLOUD_EVENT.encode()})
    return Incoming(value=bytes(found["data"]), headers=_kafka_headers(about))


def _binary(written: Format, headers: Mapping[str, str], body: bytes) -> Row:
    """An event whose attributes are headers."""
    about = {name.removeprefix(HTTP_ATTRIBUTE): unquote(value) for name, value in headers.items() if name.startswith(HTTP_ATTRIBUTE)} | {
        DATA_CONTENT_TYPE: headers.get(CONTENT_TYPE, JSON)
    }
    if not _is_event(about):
        return NOT_CLOUD_EVENT
    if isinstance(written, CloudEvent) and not written.is_binary:
        try:
            msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return NOT_CLOUD_EVENT
        return Incoming(value=msgspec.json.encode({**about, "data": msgspec.Raw(body)}), headers={CONTENT_TYPE: CLOUD_EVENT.encode()})
    return Incoming(value=body, headers=_kafka_headers(about))


def _is_event(about: Mapping[str, Any]) -> bool:
    kind = about.get(DATA_CONTENT_TYPE, JSON)
    is_json = isinstance(kind, str) and kind.partition(";")[0].strip().lower().endswith(("/json", "+json"))
    return is_json and about.get(VERSION) == "1.0" and all(isinstance(about.get(name), str) and about[name] for name in REQUIRED)


def _kafka_headers(about: Mapping[str, Any]) -> dict[str, bytes]:
    """The attributes of an event as headers of a record, as CloudEvents' binding of Kafka has them."""
    texts = {name: value if isinstance(value, str) else msgspec.json.encode(value).decode() for name, value in about.items()}
    return {
        CONTENT_TYPE if name == DATA_CONTENT_TYPE else f"{ATTRIBUTE}{name}": value.encode(errors="replace") for name, value in texts.items()
    }
