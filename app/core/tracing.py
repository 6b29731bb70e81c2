"""Traces: W3C `traceparent` from a request to its jobs, their log lines and their webhooks.

The library is OpenTelemetry's API, which does nothing but hand a trace on. Where the operator has installed and
configured OpenTelemetry's SDK, it exports the spans, too. No span has a text of an exception, a path or a sample id.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

HEADER = "traceparent"
_FORM = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("lethe")


@contextmanager
def continued(name: str, traceparent: str | None, kind: SpanKind, /, **attributes: str | int) -> Iterator[Span]:
    """A span of the trace that `traceparent` names; of one of its own where it is None or malformed."""
    parent = _FORM.extract({HEADER: traceparent}, Context()) if traceparent else Context()
    with _open(name, kind, parent, attributes) as span:
        yield span


@contextmanager
def part(name: str) -> Iterator[Span]:
    """A span within the current one."""
    with _open(name, SpanKind.INTERNAL, None, {}) as span:
        yield span


@contextmanager
def _open(name: str, kind: SpanKind, parent: Context | None, attributes: dict[str, str | int]) -> Iterator[Span]:
    # The SDK would keep an exception's text, which may repeat a value that was sent.
    with _tracer.start_as_current_span(
        name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_status(trace.StatusCode.ERROR)
            span.set_attribute("error.type", type(error).__name__)
            raise


def current() -> str | None:
    """The current span as a `traceparent`, to be stored or sent; None outside any trace."""
    carrier: dict[str, str] = {}
    _FORM.inject(carrier)
    return carrier.get(HEADER)


def fields(span: Span) -> dict[str, str]:
    """Its trace, as log lines say it; nothing outside any trace."""
    context = span.get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)} if context.is_valid else {}
