"""Spans of requests by OpenTelemetry, sent to where the settings say (OTLP over HTTP); nothing of it is imported where they do not.

A request has a span, below that of its caller, where the caller's `traceparent` says that it is recorded, or it has none and chance says
so. Of predictions reading features, asking the model and logging are spans below it: the first two are those of all that were answered
together, so several requests have the same. What is passed on with a record is the span of the logging; without spans what the caller sent.
"""

import logging
import random
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline_assets.serving.realtime.access.traces import Trace, header_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Span

    from pipeline_assets.serving.realtime.service.predictor import Part

SERVICE = "pipeline-predictions"
# Spans that wait to be sent; more are dropped. For a receiver that is away the thread that sends waits alone, and the end briefly.
MOST_WAITING, AT_ONCE, PAUSE_MS, SEND_SECONDS, ENDING_MS = 4_096, 512, 1_000, 5, 1_000
FAILED = 500
NANOSECONDS_PER_MS = 1_000_000
SPAN = "span"


class Spans:
    """The spans of one process. url: where they are sent; share: of requests whose callers do not say, how many are recorded."""

    def __init__(self, url: str, share: float) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        # A receiver that is away is reported by the library at each attempt.
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)
        self._ids, self._share = _ids(), share
        self._exporter = OTLPSpanExporter(endpoint=url, timeout=SEND_SECONDS, headers={})
        self._sender = BatchSpanProcessor(
            self._exporter,
            max_queue_size=MOST_WAITING,
            schedule_delay_millis=PAUSE_MS,
            max_export_batch_size=AT_ONCE,
            export_timeout_millis=SEND_SECONDS * 1000,
        )
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({"service.name": SERVICE}),
            id_generator=self._ids,
            span_limits=SpanLimits(max_attributes=32, max_attribute_length=256),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._sender)
        self._tracer = provider.get_tracer("pipeline_assets.serving.realtime")

    def begin(self, trace: Trace, name: str) -> "Span | None":
        """The span of a request; None where it is not recorded."""
        from opentelemetry.trace import SpanKind

        is_sampled = random.random() < self._share if trace.is_sampled is None else trace.is_sampled  # noqa: S311 - chance, no secret
        if not is_sampled:
            return None
        self._ids.wanted = int(trace.trace_id, 16)
        return self._tracer.start_span(name, context=_context(trace), kind=SpanKind.SERVER)  # type: ignore[return-value]

    def predicted(self, request: "Span", part: "Part") -> bytes:
        """Adds what a prediction did to the span of its request; what is passed on with its record."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        of, context = part.of, set_span_in_context(request)
        request.set_attribute("pipeline.model", of.serving.loaded.model.name)
        request.set_attribute("pipeline.model_version", of.serving.loaded.version)
        request.set_attribute("pipeline.rows", part.rows)
        began = int(of.asked_at.timestamp() * 1e9)
        read = began + int(of.features_ms * NANOSECONDS_PER_MS)
        asked = read + int(of.model_ms * NANOSECONDS_PER_MS)
        features = self._tracer.start_span("features", context, start_time=began, attributes={"pipeline.features_from": part.tiers[0]})
        features.end(read)
        self._tracer.start_span("model", context, start_time=read).end(asked)
        log = self._tracer.start_span("log", context, kind=SpanKind.PRODUCER)
        log.end()
        own = log.get_span_context()
        return header_of(own.trace_id, own.span_id)

    def close(self) -> None:
        """Sends what is left, if that goes fast, and ends the thread that sends."""
        self._sender.force_flush(ENDING_MS)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
        self._sender.shutdown()  # type: ignore[no-untyped-call]


class Traced:
    """ASGI middleware behind the guard: begins and ends the span of each request that is recorded."""

    def __init__(self, app: ASGIApp, spans: Spans) -> None:
        self._app, self._spans = app, spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        span = self._spans.begin(scope["state"]["trace"], _name(scope)) if scope["type"] == "http" else None
        if span is None:
            await self._app(scope, receive, send)
            return
        scope["state"][SPAN] = span

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                _note(span, message["status"])
            await send(message)

        span.set_attribute("http.request.method", scope["method"])
        try:
            await self._app(scope, receive, noted)
        finally:
            span.end()


def passed_on(scope: Scope) -> bytes | None:
    """What is passed on of a request, as `traceparent`: its own span, else what its caller sent; None where there is neither."""
    state = scope.get("state", {})
    span = state.get(SPAN)
    if span is not None:
        own = span.get_span_context()
        return header_of(own.trace_id, own.span_id)
    trace: Trace | None = state.get("trace")
    return None if trace is None else trace.header


def _name(scope: Scope) -> str:
    """By OpenTelemetry's convention the method and the route, never the path as it was asked."""
    asked = scope["state"]["asked"]
    return f"{scope['method']} {asked.route}" if asked.route is not None else str(scope["method"])


def _note(span: "Span", status: int) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("http.response.status_code", status)
    if status >= FAILED:
        span.set_status(StatusCode.ERROR)


def _context(trace: Trace) -> Any:
    """The caller's span as what the span of the request is below; without one the span is the first of its trace."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if trace.parent_id is None:
        return Context()
    parent = SpanContext(int(trace.trace_id, 16), int(trace.parent_id, 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _ids() -> Any:
    """A generator of ids that gives a trace the id that it has in the logs. Spans begin on the event loop alone, one after the other."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        wanted = 0

        def generate_trace_id(self) -> int:
            return self.wanted

    return Ids()
