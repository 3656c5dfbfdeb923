"""Spans on their way to an OpenTelemetry receiver: OTLP over HTTP, by the official SDK.

Everything about the receiver that the SDK reads from its environment it reads here too:
`OTEL_EXPORTER_OTLP_ENDPOINT`, `…_HEADERS`, `…_CERTIFICATE`, `…_TIMEOUT` and their like
(https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from agentcom import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analysis.tracing import Span

_PATH: Final = "/v1/traces"
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_KINDS: Final = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "consumer": SpanKind.CONSUMER,
}


class Receiver:
    """Where traces go. Without an address the SDK's environment says it."""

    def __init__(self, url: str | None, instance: str) -> None:
        if url and urlsplit(url).path in ("", "/"):
            url = url.rstrip("/") + _PATH
        self._exporter = OTLPSpanExporter(endpoint=url or None)
        self._resource = Resource.create(
            {
                "service.name": "agentcom",
                "service.version": __version__,
                "service.instance.id": instance,
            }
        )
        self._scope = InstrumentationScope("agentcom", __version__)

    def send(self, spans: Sequence[Span]) -> bool:
        """Send spans, and wait until they are taken; False where they are not.

        The SDK tries again by itself for a while, and logs why it gives up.
        """
        readable = [self._readable(span) for span in spans]
        return self._exporter.export(readable) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Let go of connections."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, span: Span) -> ReadableSpan:
        parent = _context(span.trace_id, span.parent_id) if span.parent_id else None
        status = Status(StatusCode.ERROR, span.error) if span.error else Status()
        attributes = {**span.attributes}
        if span.error:
            attributes["error.type"] = span.error
        return ReadableSpan(
            name=span.name,
            context=_context(span.trace_id, span.span_id),
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            events=[
                Event(mark.name, mark.attributes, timestamp=nanoseconds(mark.at))
                for mark in span.marks
            ],
            links=[
                Link(
                    _context(link.trace_id, link.span_id),
                    {"agentcom.link": link.relation},
                )
                for link in span.links
            ],
            kind=_KINDS[span.kind],
            instrumentation_scope=self._scope,
            status=status,
            start_time=nanoseconds(span.start),
            end_time=nanoseconds(span.end),
        )


def nanoseconds(at: str) -> int:
    """Return an RFC 3339 instant as nanoseconds since 1970, to the microsecond."""
    then = datetime.fromisoformat(at)
    return (int(then.timestamp()) * 1_000_000 + then.microsecond) * 1_000


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_SAMPLED
    )
