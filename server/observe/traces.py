"""A span for each call, sent to an OpenTelemetry collector. Needs the extra `traces`.

OTEL_* variables are the SDK's: what is sampled (OTEL_TRACES_SAMPLER), how often spans are sent (OTEL_BSP_*), headers
and certificates for the collector (OTEL_EXPORTER_OTLP_*), names of this process (OTEL_RESOURCE_ATTRIBUTES).
"""

import time
from importlib.metadata import version
from threading import Thread

from grpc import StatusCode
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status
from opentelemetry.trace import StatusCode as SpanStatus
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.observe.call import Call, Observer

__all__ = ["Traces"]

# The time for one export with its retries, and for the last one, when the process ends.
EXPORT_SECONDS, LAST_SECONDS = 5.0, 2.0

# By the semantic conventions, other codes are no errors of a server.
ERRORS = {
    StatusCode.UNKNOWN,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.UNIMPLEMENTED,
    StatusCode.INTERNAL,
    StatusCode.UNAVAILABLE,
    StatusCode.DATA_LOSS,
}


class Traces(Observer):
    """Sends spans from a thread, for which they wait in a bounded queue: while the collector is away, they are lost.

    Args:
        url: http://HOST:PORT, or https://.
    """

    def __init__(self, url: str) -> None:
        self._exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_SECONDS)
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("charstream")
        self._parents = TraceContextTextMapPropagator()
        self._open: dict[int, tuple[Span, int]] = {}  # by id(call), each with its start in ns since 1970

    def on_begin(self, call: Call) -> None:
        now = time.time_ns()
        parent = self._parents.extract({"traceparent": call.headers.traceparent}, Context())
        system = "http" if call.rpc_type == "http" else "grpc"
        attributes = {"rpc.system.name": system, "rpc.method": call.method, "charstream.call_id": call.id}
        span = self._tracer.start_span(call.method, parent, SpanKind.SERVER, attributes, start_time=now)
        self._open[id(call)] = span, now

    def on_message(self, call: Call, chars: int, seconds: float | None) -> None:
        span, _ = self._open[id(call)]
        if span.is_recording():
            span.add_event("charstream.message", {"charstream.chars": chars})

    def on_end(self, call: Call) -> None:
        span, began = self._open.pop(id(call))
        if span.is_recording():
            _describe(span, call, began)
        # By the monotonic clock: the other one may have been set back.
        span.end(_after(began, call.seconds))

    def close(self) -> None:
        """Send the spans that are left, if that is quick."""
        closing = Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(LAST_SECONDS)
        if closing.is_alive():
            self._exporter.shutdown()


def _describe(span: Span, call: Call, began: int) -> None:
    span.set_attributes({"rpc.response.status_code": call.status.name, "charstream.model": call.model})
    if call.limit:
        span.set_attribute("charstream.limit", call.limit)
    if call.status in ERRORS:
        span.set_status(Status(SpanStatus.ERROR))
    if call.queue_seconds is not None:
        span.add_event("charstream.queue_end", timestamp=_after(began, call.queue_seconds))
    if call.first_char_seconds is not None:
        span.add_event("charstream.first_char", timestamp=_after(began, call.first_char_seconds))
    if call.reason:
        counts = {"charstream.generated_chars": call.generated_chars, "charstream.forced_chars": call.forced_chars}
        span.add_event("charstream.finish", {"charstream.reason": call.reason, **counts}, _after(began, call.seconds))


def _after(began: int, seconds: float) -> int:
    return began + int(seconds * 1e9)


def _resource() -> Resource:
    """Return the names of this process; those of the environment take precedence."""
    ours = Resource.create({"service.name": "charstream", "service.version": version("charstream")})
    return ours.merge(OTELResourceDetector().detect())
