"""The rules of contracts, sources and streams."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from string import Formatter
from typing import get_args

from pipeline_assets.core.names import landed
from pipeline_assets.core.project import sources_of
from pipeline_assets.core.rules.problems import TOPIC, Place, Problem, listed
from pipeline_assets.core.rules.protobuf import protobuf_problems
from pipeline_assets.spec.contracts import FIELD_TYPES, MOST_DIGITS, Contract, Field
from pipeline_assets.spec.sources import (
    Avro,
    CloudEvent,
    CsvFile,
    CsvLine,
    Cursor,
    DebeziumChange,
    EventStream,
    Files,
    JsonObject,
    Load,
    PostgresTable,
    Protobuf,
    RestEndpoint,
    Source,
)
from pipeline_assets.spec.use_case import UseCase

# What a template of a REST endpoint may take.
TIMES = {"since", "until"}
# What CloudEvents allows as the name of an attribute.
ATTRIBUTE = re.compile(r"[a-z0-9]+")
# The parts of a day that the path of a file may have, and which of them make a whole one.
CODE = re.compile(r"%.?")
DAY_CODES = {"%Y", "%y", "%m", "%d", "%j"}
# Beside texts, which values of fields may come as.
SENTINELS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (str, int, float),
    "number": (str, int, float),
    "decimal": (str, int, float, Decimal),
    "boolean": (str,),
    "timestamp": (str, float, datetime),
}
WHOLE_DAYS = [{year, *rest} for year in ("%Y", "%y") for rest in (("%m", "%d"), ("%j",))]


def problems(use_case: UseCase, streams: Collection[EventStream]) -> Iterator[Problem]:
    """What is wrong with the sources and streams of a use case; `streams` are those of all use cases, its own among them.

    A stream that several use cases share is among them several times, and is one.
    """
    declared = list(dict.fromkeys(streams))
    for source in sources_of(use_case):
        yield from _contract(source, source.contract)
        yield from _source(source)
    for stream in use_case.streams:
        yield from _contract(stream, stream.contract)
        yield from _stream(stream, [one for one in declared if one != stream])


def _source(source: Source) -> Iterator[Problem]:
    place = Place(declared=source, subject=f"Source '{source.contract.name}'")
    yield from place.one_of("load", source.load, get_args(Load))
    if source.load == "changes" and not isinstance(source.origin, PostgresTable):
        yield place.problem("load", "is 'changes'", "a Postgres table as origin")
    if source.known_at_commit and source.load != "changes":
        yield place.problem("known_at_commit", "is set", f"load='changes': loaded as '{source.load}', rows come without their commits")
    if source.load == "incremental" and isinstance(source.origin, RestEndpoint) and source.cursor is None:
        yield place.problem("cursor", "is not set", "for load='incremental' of an endpoint the field by which its records are found")
    if source.cursor is not None:
        yield from _cursor(place, source, source.cursor)
    if isinstance(source.origin, RestEndpoint):
        yield from _endpoint(place, source)
    if isinstance(source.origin, Files):
        yield from _files(place, source, source.origin)


def _endpoint(place: Place, source: Source) -> Iterator[Problem]:
    origin = source.origin
    if not isinstance(origin, RestEndpoint):
        return
    yield from place.at_least("origin.page_size", origin.page_size, 1)
    yield from place.at_least("origin.max_pages", origin.max_pages, 1)
    yield from place.at_least("origin.max_page_bytes", origin.max_page_bytes, 1)
    if not 0 < origin.page_seconds < float("inf"):
        yield place.problem("origin.page_seconds", f"is {origin.page_seconds}", "more than 0")
    if origin.requests_per_second is not None and not 0 < origin.requests_per_second < float("inf"):
        yield place.problem("origin.requests_per_second", f"is {origin.requests_per_second}", "more than 0")
    if not origin.path.startswith("/"):
        yield place.problem("origin.path", "does not begin with /", "the path below the URL of the service")
    yield from _templates(place, source, origin)
    if source.load != "daily" and "{" in origin.path:
        yield place.problem("origin.path", "takes a time", "a path without one: the load is not 'daily'")


def _templates(place: Place, source: Source, origin: RestEndpoint) -> Iterator[Problem]:
    """What is wrong with the templates of an endpoint, and with what they take together."""
    named = [(f"origin.{part} '{name}'", value) for part in ("query", "body") for name, value in getattr(origin, part) or ()]
    for repeated in sorted({field for field, _ in named if [name for name, _ in named].count(field) > 1}):
        yield place.problem(repeated, "stands twice", "each parameter once")
    texts = [("origin.path", origin.path), *((field, value) for field, value in named if isinstance(value, str))]
    known, taken = {"since"} if source.load == "incremental" else TIMES, set[str]()
    is_number = source.cursor is not None and not isinstance(source.cursor.lateness, timedelta)
    for field, template in texts:
        try:
            parts = [(name, written) for _, name, written, _ in Formatter().parse(template) if name is not None]
        except ValueError:
            yield place.problem(field, "is no template", "closed braces, such as {since:%Y-%m-%d}")
            continue
        names = {name for name, _ in parts}
        taken |= names
        if names - known:
            yield place.problem(field, f"takes {listed(names - known)}", " and ".join(f"{{{name}}}" for name in sorted(known)))
        elif source.load == "incremental" and is_number and any(written for _, written in parts):
            yield place.problem(field, "writes a number as a time", "{since} alone, as the cursor is a whole number")
    if source.load == "incremental" and not taken & known:
        yield place.problem("origin.query", "takes no {since}", "a parameter with the cursor, for load='incremental'")


def _files(place: Place, source: Source, origin: Files) -> Iterator[Problem]:
    yield from place.names(f"{place.subject}: folder", [origin.folder])
    parts, codes = origin.pattern.split("/"), set(CODE.findall(origin.pattern)) - {"%%"}
    if not all(parts) or {".", ".."} & {*parts} or "\\" in origin.pattern or "**" in origin.pattern:
        yield place.problem("origin.pattern", f"is {origin.pattern!r}", "a path below the folder such as 'orders/%Y-%m-%d/*.csv'")
    for code in sorted(codes - DAY_CODES):
        yield place.problem("origin.pattern", f"has {code!r}", "%Y, %m, %d, %j or %y for the parts of a day, %% for a percent sign")
    has_day = any(codes >= wanted for wanted in WHOLE_DAYS)
    if source.load == "daily" and not has_day:
        yield place.problem("origin.pattern", "names no day", "year and day (%Y, %m and %d) for load='daily', or load='snapshot'")
    if isinstance(origin.format, CsvFile):
        yield from _csv_file(place, source, origin.format)


def _csv_file(place: Place, source: Source, written: CsvFile) -> Iterator[Problem]:
    if len(written.delimiter) != 1 or written.delimiter in {'"', "\n", "\r"}:
        yield place.problem("origin.format.delimiter", f"is {written.delimiter!r}", "one character")
    if written.columns is not None:
        for field in source.contract.fields:
            yield from place.one_of("origin.format.columns lacks a field, which", field.name, written.columns)


def _cursor(place: Place, source: Source, cursor: Cursor) -> Iterator[Problem]:
    if source.load != "incremental":
        yield place.problem("cursor", "is set", f"load='incremental': loaded as '{source.load}', rows are not found by a column")
    elif isinstance(source.origin, Files):
        yield place.problem("cursor", "is set", "a table or an endpoint as origin: new files are found by their content")
    types = {field.name: field.type for field in source.contract.fields if field.type in {"timestamp", "integer"}}
    yield from place.one_of("cursor.column", cursor.column, types)
    if types.get(cursor.column) == "timestamp" and not isinstance(cursor.lateness, timedelta):
        yield place.problem("cursor.lateness", f"is {cursor.lateness!r}", "a timedelta, as the column is a time")
    elif types.get(cursor.column) == "integer" and not isinstance(cursor.lateness, int):
        yield place.problem("cursor.lateness", f"is {cursor.lateness!r}", "a whole number, as the column is one")
    elif isinstance(cursor.lateness, timedelta):
        yield from place.not_negative("cursor.lateness", cursor.lateness)
    else:
        yield from place.at_least("cursor.lateness", cursor.lateness, 0)


def _contract(declared: Source | EventStream, contract: Contract) -> Iterator[Problem]:
    place = Place(declared=declared, subject=f"Contract '{contract.name}'")
    fields = {field.name: field for field in contract.fields}
    yield from place.names("Contract", [contract.name])
    yield from place.names(f"{place.subject}: field", [field.name for field in contract.fields])
    for field in contract.fields:
        yield from _field(place.part(f"field '{field.name}'"), field)
    if not contract.primary_key:
        yield place.problem("primary_key", "is empty", "at least one field")
    for key in contract.primary_key:
        yield from place.one_of("primary_key", key, fields)
    instants = [name for name, field in fields.items() if field.type == "timestamp" and field.required]
    yield from place.one_of("event_at", contract.event_at, instants)
    yield from place.one_of("known_at", contract.known_at, instants)
    yield from place.owner(contract.owner)
    yield from place.between("broken_share", contract.broken_share, 0, 1)
    yield from place.positive("freshness", contract.freshness)
    yield from place.not_negative("lateness", contract.lateness)
    yield from place.not_negative("earliness", contract.earliness)


def _field(place: Place, field: Field) -> Iterator[Problem]:
    yield from place.one_of("type", field.type, FIELD_TYPES)
    has_range = field.minimum is not None or field.maximum is not None
    if has_range and field.type not in {"integer", "number", "decimal"}:
        yield place.problem("minimum", "is set", "a range on an integer, a number or a decimal")
    for name, bound in (("minimum", field.minimum), ("maximum", field.maximum)):
        yield from place.finite(name, 0 if bound is None else bound)
    if field.max_length is not None:
        yield from place.at_least("max_length", field.max_length, 1)
    if field.minimum is not None and field.maximum is not None and field.minimum > field.maximum:
        yield place.problem("minimum", "exceeds maximum", "minimum <= maximum")
    if (field.allowed or field.max_length is not None) and field.type != "string":
        yield place.problem("allowed", "is set", "a list of values on a string")
    yield from _decimal(place, field)
    yield from _sentinels(place, field)


def _decimal(place: Place, field: Field) -> Iterator[Problem]:
    if field.type != "decimal":
        if field.precision is not None or field.scale is not None:
            yield place.problem("precision", "is set", "digits of a decimal")
        return
    precision = field.precision if field.precision is not None else 0
    if not 1 <= precision <= MOST_DIGITS:
        yield place.problem("precision", f"is {field.precision}", f"the digits of the decimal, 1 to {MOST_DIGITS}")
    if field.scale is None or not 0 <= field.scale <= precision:
        yield place.problem("scale", f"is {field.scale}", "the digits after the point, of the digits that there are")


def _sentinels(place: Place, field: Field) -> Iterator[Problem]:
    kinds = SENTINELS.get(field.type, ())
    for sentinel in field.sentinels:
        if not isinstance(sentinel, kinds) or isinstance(sentinel, bool):
            yield place.problem("sentinels", f"have {sentinel!r}", f"values of type {field.type}, or texts that stand for none")
        elif isinstance(sentinel, datetime) and sentinel.utcoffset() is None:
            yield place.problem("sentinels", f"have {sentinel!r}", "times with a zone, such as UTC")


def _stream(stream: EventStream, others: Collection[EventStream]) -> Iterator[Problem]:
    place = Place(declared=stream, subject=f"Stream '{stream.contract.name}'")
    if not TOPIC.fullmatch(stream.topic):
        yield place.problem("topic", f"is {stream.topic!r}", "the name of a topic: letters, digits, '.', '_' and '-', at most 249")
    yield from _history(place, stream)
    yield from _format(place, stream)
    yield from _route(place, stream, others)


def _history(place: Place, stream: EventStream) -> Iterator[Problem]:
    history = stream.history
    if history is None:
        return
    have = {field.name: field.type for field in history.source.contract.fields}
    if (history.field is None) != (history.value is None):
        yield place.problem("history", "has a field without a value, or a value without a field", "both, or none")
    if history.source.load != "daily":
        yield place.problem("history", f"is loaded as '{history.source.load}'", "a source that is loaded daily")
    yield from place.one_of("history.field", history.field, {*have, None})
    for field in stream.contract.fields:
        yield from place.one_of(f"field '{field.name}'", field.name, have)


def _format(place: Place, stream: EventStream) -> Iterator[Problem]:
    fields, written = {field.name for field in stream.contract.fields}, stream.format
    if isinstance(written, CsvLine):
        yield from _csv(place, stream, written)
    if isinstance(written, Avro) and not _is_record_schema(written.schema):
        yield place.problem("format.schema", "is no Avro record", "a schema as JSON")
    if isinstance(written, Protobuf):
        yield from protobuf_problems(place, stream, written)
    if isinstance(written, Avro | Protobuf | JsonObject) and written.registry is not None and not written.is_framed:
        yield place.problem("format.registry", "is set", "framed records (is_framed=True)")
    if isinstance(written, CloudEvent):
        yield from _cloud_event(place, stream, written)
    if isinstance(written, DebeziumChange):
        for named in (written.operation, written.lsn, written.committed_at):
            yield from place.one_of("format", named, {*fields, None})


def _csv(place: Place, stream: EventStream, written: CsvLine) -> Iterator[Problem]:
    yield from place.names(f"{place.subject}: column", written.columns)
    absent = {stream.contract.known_at} if stream.known_at_record_time else set()
    for name in sorted({field.name for field in stream.contract.fields} - absent):
        yield from place.one_of(f"format.columns lacks field '{name}', which", name, written.columns)
    if len(written.delimiter) != 1:
        yield place.problem("delimiter", f"is {written.delimiter!r}", "one character")


def _cloud_event(place: Place, stream: EventStream, written: CloudEvent) -> Iterator[Problem]:
    for _, name in written.attributes:
        yield from place.one_of("format.attributes", name, [field.name for field in stream.contract.fields])
    routed = () if stream.route is None else (stream.route.field,)
    for attribute in (*(attribute for attribute, _ in written.attributes), *routed):
        if written.is_binary and not ATTRIBUTE.fullmatch(attribute):
            yield place.problem("format.attributes", f"has '{attribute}'", "lower-case letters and digits, as CloudEvents names attributes")


def _route(place: Place, stream: EventStream, others: Collection[EventStream]) -> Iterator[Problem]:
    beside = [one for one in others if one.topic == stream.topic]
    table = landed(stream.topic)
    if any(landed(one.topic) == table and one.topic != stream.topic for one in others):
        yield place.problem("topic", "lands in the table of another topic", "topics that differ in more than case and signs")
    routes = {(None if one.route is None else one.route.field, repr(one.format)) for one in (stream, *beside)}
    values = [one.route.value for one in (stream, *beside) if one.route is not None]
    if beside and (len(routes) > 1 or len(set(values)) < len(beside) + 1):
        expected = "streams of one topic with the same format, routed by the same field, each with a value of its own"
        yield place.problem("route", f"shares topic '{stream.topic}'", expected)


def _is_record_schema(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("type") == "record"
