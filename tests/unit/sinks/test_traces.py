"""OpenTelemetry: one trace for each run, whoever carries it and whoever exports it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from stageflow_durable import Pipeline, TransientError
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.testing import engine_for_tests

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace  # where it is installed
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # as above
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult  # as above
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # as above

from stageflow_durable.sinks import Traces  # as above


class Refuses(InMemorySpanExporter):
    """Takes nothing the first ``times``."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.times -= 1
        return SpanExportResult.FAILURE if self.times >= 0 else super().export(spans)


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def bodies() -> InMemorySpanExporter:
    """What the application's own tracer exports."""
    return InMemorySpanExporter()


@pytest.fixture
def tracer(bodies: InMemorySpanExporter) -> trace.Tracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(bodies))
    return provider.get_tracer("app")


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def id_of(span: Any) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


def test_bodies_are_below_their_attempts_and_a_run_is_linked_to_its_caller(
    exported: InMemorySpanExporter, bodies: InMemorySpanExporter, tracer: trace.Tracer
) -> None:
    calls: list[str] = []

    def charge(_ctx: Any) -> int:
        with tracer.start_as_current_span("http"):
            calls.append("charge")
        if len(calls) == 1:
            raise TransientError("busy")
        return 1

    async def mail(_ctx: Any) -> int:
        with tracer.start_as_current_span("smtp"):
            return 2

    line = Pipeline("line").stage("charge", charge).stage("mail", mail)
    with engine_for_tests([line], sinks=[Traces(exported)]) as engine:
        with tracer.start_as_current_span("request"):
            engine.enqueue(line, {}, metadata={"tenant": "a"})
        engine.drain()
        engine.deliver()
    (whole,), (first, second), (sent,) = named(exported, "run line"), named(exported, "charge"), named(exported, "mail")
    assert {span.context.trace_id for span in (first, second, sent)} == {whole.context.trace_id}
    assert {span.parent.span_id for span in (first, second, sent) if span.parent} == {whole.context.span_id}
    assert [span.status.status_code.name for span in (first, second, whole)] == ["ERROR", "OK", "OK"]
    below = [(span.context.trace_id, span.parent.span_id) for span in named(bodies, "http") if span.parent]
    assert below == [id_of(first), id_of(second)]
    (smtp,) = named(bodies, "smtp")
    assert smtp.parent is not None
    assert (smtp.context.trace_id, smtp.parent.span_id) == id_of(sent)
    (link,) = whole.links
    assert (link.context.trace_id, link.context.span_id) == id_of(named(bodies, "request")[0])
    assert whole.resource.attributes["service.name"] == "stageflow"


def test_what_the_exporter_did_not_take_is_exported_again_with_the_same_ids_by_whoever_goes_on() -> None:
    refuses, line = Refuses(2), Pipeline("line").stage("a", lambda _ctx: 1)
    with engine_for_tests([line], sinks=[Traces(refuses)]) as engine:
        run_id = engine.enqueue(line, {}).run_id
        engine.drain()
        engine.deliver()
        (view,) = engine.sink_views()
        assert view.error == "Refuses did not take 1 spans"
        engine.sinks[0]._trails.clear()  # type: ignore[attr-defined]  # another process goes on
        for _try in range(3):
            engine.advance(10)
            engine.deliver()
        assert [span.name for span in refuses.get_finished_spans()] == ["a", "run line"]
        again = InMemorySpanExporter()
        traces = Traces(again)
        traces.bind(engine.store)
        for event in engine.store.news(0, 100, ("",), 100).events:
            traces.deliver(event[1])
    assert [id_of(span) for span in again.get_finished_spans()] == [
        id_of(span) for span in refuses.get_finished_spans()
    ]
    assert run_id


def test_a_run_is_sampled_whole_or_not_at_all(
    exported: InMemorySpanExporter, bodies: InMemorySpanExporter, tracer: trace.Tracer
) -> None:
    def body(_ctx: Any) -> None:
        with tracer.start_as_current_span("inside"):
            pass

    line = Pipeline("line").stage("a", body)
    with engine_for_tests([line], sinks=[Traces(exported, sample=0.5)], store="memory") as engine:
        for _n in range(40):
            engine.enqueue(line, {})
        engine.drain()
        engine.deliver()
    runs = {span.context.trace_id for span in named(exported, "run line")}
    assert 0 < len(runs) < 40
    assert {span.context.trace_id for span in named(exported, "a")} == runs
    assert {span.context.trace_id for span in named(bodies, "inside") if span.parent} == runs


@pytest.mark.parametrize("wrong", [{"exporter": "otlp"}, {"sample": 1.5}, {"sample": True}])
def test_mistakes_are_found_when_they_are_made(wrong: dict[str, Any], exported: InMemorySpanExporter) -> None:
    with pytest.raises(ConfigurationError):
        Traces(**{"exporter": exported, **wrong})


def test_it_is_not_imported_where_nobody_traces() -> None:
    # What others import where it is installed, redis for example, is theirs.
    look = "import stageflow_durable.application, stageflow_durable.sinks, sys"
    look += "; print('stageflow_durable.sinks.traces' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
