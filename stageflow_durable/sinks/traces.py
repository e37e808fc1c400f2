"""OpenTelemetry as a sink: spans of runs and attempts, made from the history. Needs the extra ``otel``."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from stageflow_durable.codec import decode
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.masking import masking
from stageflow_durable.model.sinks import RunEvent
from stageflow_durable.sinks.checked import check_name
from stageflow_durable.sinks.trail import Place, Span, Trail, trace_place

if TYPE_CHECKING:
    from stageflow_durable.store.protocol import Store

log = masking(logging.getLogger("stageflow.sinks"))

REMEMBERED = 1000
"""Runs of which it is remembered how far they are; of others the history is read again."""

_SCOPE = InstrumentationScope("stageflow_durable")


class NotExported(Exception):
    """The exporter did not take the spans; its own log says why."""


class Traces:
    """Exports one trace for each run: a span for the run, one for each attempt of a stage and of an undo.

    Spans follow from the history: a process that is killed loses none, what is exported twice has the same ids.
    ``exporter``: any of the SDK, as ``OTLPSpanExporter()``. ``sample``: which part of the runs, from 0 to 1;
    a run is exported whole or not at all. ``service``: the name of the service.

    While a body runs, the span of its attempt is the current one, so that what the body's libraries record belongs
    below it.
    """

    kinds: tuple[str, ...] = ("",)

    def __init__(
        self, exporter: SpanExporter, *, sample: float = 1.0, service: str = "stageflow", name: str = "otel"
    ) -> None:
        given: Any = (exporter, sample)
        if not callable(getattr(given[0], "export", None)):
            raise ConfigurationError(f"Traces(exporter={exporter!r}): an exporter of spans has export(spans)")
        if isinstance(given[1], bool) or not isinstance(given[1], int | float) or not 0 <= sample <= 1:
            raise ConfigurationError(f"sample={sample!r}: a number from 0 to 1, which part of the runs is exported")
        self.name = check_name(name)
        self.interceptor = AttemptContext(self)
        self._exporter, self._bound = exporter, round(sample * 2**64)
        self._resource = Resource.create({"service.name": service})
        self._trails: OrderedDict[str, Trail] = OrderedDict()
        self._of_bodies: OrderedDict[str, Trail] = OrderedDict()
        self._looking = threading.Lock()
        self._store: Store | None = None

    def bind(self, store: Store) -> None:
        """Called by the engine: where histories are."""
        self._store = store

    def deliver(self, event: RunEvent) -> None:
        """Export what ends with the event. Raises NotExported."""
        if event.item or not self.samples(trace_place(event.run_id, 0)):
            return
        trail = self._before(event)
        if trail.seq >= event.seq:
            return  # told again
        spans = trail.add(event)
        if not spans:
            _remember(self._trails, trail)
            return
        made = [self._span(span) for span in spans]
        if self._exporter.export(made) is not SpanExportResult.SUCCESS:
            raise NotExported(f"{type(self._exporter).__name__} did not take {len(made)} spans")
        _remember(self._trails, trail)

    def samples(self, place: Place) -> bool:
        """Whether a run is exported, by the id of its first trace: whoever asks finds the same."""
        return place.trace % 2**64 < self._bound

    def _before(self, event: RunEvent) -> Trail:
        """What is known of the run up to the event. Out of memory until it is exported: whatever fails begins anew."""
        known = self._trails.pop(event.run_id, None)
        if known is not None and known.seq == event.seq - 1:
            return known
        trail = Trail(event.run_id, event.pipeline)
        for earlier in self._history(event.run_id):
            if earlier.seq < event.seq:
                trail.add(earlier)
        return trail

    def _history(self, run_id: str) -> Any:
        return () if self._store is None else self._store.history(run_id)

    def _span(self, span: Span) -> ReadableSpan:
        links = [] if span.link is None else [Link(_context(span.link))]
        if span.parent is None and span.link is None:
            links += self._caller(str(span.attributes["stageflow.run.id"]))
        wrong = Status(StatusCode.ERROR, span.error[:1000]) if span.error is not None else Status(StatusCode.OK)
        return ReadableSpan(
            name=span.name,
            context=_context(span.place),
            parent=None if span.parent is None else _context(span.parent),
            resource=self._resource,
            attributes=dict(span.attributes),
            events=[Event(name, timestamp=_nanoseconds(at)) for name, at in span.noted],
            links=links,
            kind=SpanKind.CONSUMER if span.parent is None else SpanKind.INTERNAL,
            status=wrong,
            start_time=_nanoseconds(span.start),
            end_time=_nanoseconds(span.end),
            instrumentation_scope=_SCOPE,
        )

    def _caller(self, run_id: str) -> list[Link]:
        """A link to the span in which the run was enqueued, if it was in one."""
        facts = None if self._store is None else self._store.facts(run_id)
        try:
            metadata = {} if facts is None else decode(facts.metadata)
        except Exception:  # noqa: BLE001  # whatever somebody else wrote there
            metadata = {}
        said = metadata.get("traceparent") if isinstance(metadata, Mapping) else None
        carried = TraceContextTextMapPropagator().extract({"traceparent": said} if isinstance(said, str) else {})
        found = trace.get_current_span(carried).get_span_context()
        return [Link(found)] if found.is_valid else []

    def current(self, run_id: str, pipeline: str, stage: str, attempt: int) -> SpanContext | None:
        """Of the attempt that this process runs; None: its run is not exported."""
        if not self.samples(trace_place(run_id, 0)):
            return None
        if self._store is None:
            return None
        with self._looking:  # strands of one run may be at work in several threads
            trail = self._of_bodies.pop(run_id, None) or Trail(run_id, pipeline)
            for event in self._store.history(run_id, trail.seq):
                trail.add(event)
            _remember(self._of_bodies, trail)
            return _context(trail.place("stage", stage, attempt))

    def close(self) -> None:
        """Nothing is held: what was not exported is told again."""


def _remember(trails: OrderedDict[str, Trail], trail: Trail) -> None:
    trails[trail.run] = trail
    while len(trails) > REMEMBERED:
        trails.popitem(last=False)


def _context(place: Place) -> SpanContext:
    return SpanContext(place.trace, place.span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000) * 1000


class AttemptContext:
    """An interceptor: while a body runs, the span of its attempt is the current one. The engine adds it by itself."""

    name = "otel"
    priority = 0

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    def around(self, ctx: Any, call_next: Any) -> Any:
        """Call the body. Where the span cannot be found out, it is called without."""
        try:
            found = self._traces.current(ctx.run_id, ctx.pipeline, ctx.stage, ctx.attempt)
        except Exception as error:  # noqa: BLE001  # a body is worth more than its trace
            log.debug("no trace for stage %s of run %s: %s", ctx.stage, ctx.run_id, error)
            found = None
        if found is None:
            return call_next(ctx)
        token = context.attach(trace.set_span_in_context(NonRecordingSpan(found)))
        try:
            return call_next(ctx)
        finally:
            context.detach(token)
