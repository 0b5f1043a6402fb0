"""Traces of the server as it is run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from e2e.processes import NOT_INSTALLED, Deployment
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Run a collector, and give its URL and what it was sent."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_cannot_trace_writes_nothing(deployment: Deployment) -> None:
    """The missing extra is told in a line before there is a database or a first key."""
    variables = {"MEMTRACE_TRACING_ENABLED": "true", "PYTHONPATH": str(NOT_INSTALLED)}
    ended = deployment.memtrace("serve", variables=variables)
    assert ended.returncode == 1
    assert "pip install 'memtrace[otel]'" in ended.stderr
    assert ended.stdout == ""
    assert not deployment.data.exists()


@pytest.mark.slow
def test_a_server_sends_its_spans_before_it_ends(deployment: Deployment) -> None:
    """With tracing on, the collector of OpenTelemetry's own variables has every span when it has stopped."""
    tenant = deployment.tenant()
    with collector() as (url, received):
        deployment.environment |= {"MEMTRACE_TRACING_ENABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        with deployment.serve(variables={"PYTHONPATH": None}) as server, server.client(tenant) as api:
            api.get("/api/v1/memories", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
            assert server.stop() == 0
            (event,) = server.events("request")
    assert event["trace_id"] == TRACE
    sent = [ExportTraceServiceRequest.FromString(one) for one in received]
    (resource,) = [resource for one in sent for resource in one.resource_spans]
    (span,) = [span for scope in resource.scope_spans for span in scope.spans]
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("GET /api/v1/memories", TRACE, PARENT)
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "memtrace"
