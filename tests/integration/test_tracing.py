"""What OpenTelemetry is told of requests."""

from __future__ import annotations

import sys

import pytest
from integration.asgi import ORG, with_client
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from memtrace_cli import tracing
from memtrace_cli.settings import Settings, SettingsError, Tracing
from memtrace_http import HttpOptions
from memtrace_http.tracing import Tracing as TracingPlugin

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Traced:
    """Options of an app that is traced, its spans, and what its request log heard."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.heard = []
        self.arguments = {
            "options": HttpOptions(plugins=(TracingPlugin(provider),)),
            "log": lambda *said: self.heard.append(said),
        }

    @property
    def spans(self):
        """The spans that have ended, as the exporter gets them."""
        found = self._exporter.get_finished_spans()
        for span in found:
            span.to_json().encode()
        return found


def test_a_request_is_a_span_named_by_its_route():
    """There is one span a request, with method, route and status; a reference in the path is not in its name."""
    traced = Traced()

    @with_client(**traced.arguments)
    async def _(client):
        await client.post("/api/v1/memories", {"agent_id": "ada", "content": "x"})
        await client.get("/api/v1/memories/a%2Fb?x=secret")
        await client.get("/nowhere")

    assert [span.name for span in traced.spans] == [
        "POST /api/v1/memories",
        "GET /api/v1/memories/{reference}",
        "GET",
    ]
    assert [span.attributes["http.status_code"] for span in traced.spans] == [201, 400, 404]
    assert "/api/v1/memories/a/b" in traced.spans[1].attributes["http.url"]
    assert "secret" not in str([dict(span.attributes) for span in traced.spans])


def test_a_request_goes_on_with_its_callers_trace():
    """A valid traceparent is the span's parent, and the log names the trace; without one it names a new trace."""
    traced = Traced()

    @with_client(**traced.arguments)
    async def _(client):
        await client.get("/health", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        await client.get("/health")

    first, second = traced.spans
    assert (f"{first.context.trace_id:032x}", f"{first.parent.span_id:016x}") == (TRACE, PARENT)
    assert second.parent is None
    assert [said[7] for said in traced.heard] == [TRACE, f"{second.context.trace_id:032x}"]


def test_no_key_is_in_a_trace():
    """Headers are no part of a span."""
    traced = Traced()

    @with_client(**traced.arguments)
    async def scenario(client):
        await client.get("/api/v1/memories")
        assert client.key not in str([span.to_json() for span in traced.spans])


@pytest.mark.parametrize(
    "headers",
    [
        {"user-agent": "\xff\xfe"},
        {"host": "\xff"},
        {"content-length": "x"},
        {"traceparent": "\xff"},
        {"tracestate": "\xff"},
    ],
)
def test_tracing_answers_odd_requests_as_they_are_answered_without(headers):
    """What is no text in a request is no reason for another answer."""
    answers = []

    async def ask(client):
        answers.append((await client.get("/health", headers=headers)).status)
        answers.append((await client.get("/api/v1/memories?agent_id=%ff", headers=headers)).status)
        answers.append((await client.get("/api/v1/memories?agent_id=\xff", headers=headers)).status)

    with_client(**Traced().arguments)(ask)
    with_client()(ask)
    assert answers[:3] == answers[3:]
    assert max(answers) < 500


def test_an_org_is_who_the_log_says():
    """The app sees its own scope, so what it notes there reaches the log."""
    traced = Traced()

    @with_client(**traced.arguments)
    async def _(client):
        await client.get("/api/v1/memories")

    assert traced.heard[0][4] == ORG


def test_tracing_needs_its_extra(monkeypatch):
    """Where OpenTelemetry is missing, the setting is refused, and it is said how to get it."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert tracing.tracing_of(Settings()) == []
    with pytest.raises(SettingsError) as caught:
        tracing.tracing_of(Settings(tracing=Tracing(enabled=True)))
    assert "memtrace[otel]" in str(caught.value.hint)


def test_a_variable_of_opentelemetry_that_cannot_be_used_is_told(monkeypatch):
    """What the library refuses is one line, and no traceback."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(SettingsError, match=r"OTEL_.*max_queue_size"):
        tracing.tracing_of(Settings(tracing=Tracing(enabled=True)))
