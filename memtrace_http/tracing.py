"""Traces of requests, by Litestar's OpenTelemetry plugin; it needs the extra `memtrace[otel]`.

A request that comes with a valid `traceparent` goes on with the caller's trace.
"""

from __future__ import annotations

from typing import Any, cast

from litestar.config.app import AppConfig
from litestar.plugins import InitPlugin
from litestar.plugins.opentelemetry import OpenTelemetryConfig, OpenTelemetryInstrumentationMiddleware
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send
from opentelemetry import trace

from memtrace_http.edge import TRACE_ID, path_text

_ORIGINAL = "memtrace.original_scope"


class Tracing(InitPlugin):
    """Traces every request with the tracer of a provider. Spans are named by the route."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._config = OpenTelemetryConfig(
            tracer_provider=provider,
            # The route is not known yet when a span begins.
            scope_span_details_extractor=lambda scope: (str(scope.get("method", "")), {}),
            server_request_hook_handler=_note_trace,
            # What is sent and received in parts is no step that anybody looks for.
            exclude_spans=["receive", "send"],
            scopes={"http"},  # type: ignore[arg-type]  # its members are compared as text
            middleware_class=_ReadableScopes,
        )

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add the middlewares; Litestar takes the first one for its own OpenTelemetry plugin."""
        app_config.middleware += [self._config.middleware, _naming]
        return app_config


class _ReadableScopes(OpenTelemetryInstrumentationMiddleware):
    """Shows OpenTelemetry a path that is text, and no query; the app gets its scope as it came."""

    def __init__(self, app: ASGIApp, config: OpenTelemetryConfig) -> None:
        async def with_original(scope: Scope, receive: Receive, send: Send) -> None:
            await app(cast(dict[str, Any], scope)[_ORIGINAL], receive, send)

        super().__init__(with_original, config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shown = {**scope, "path": path_text(scope["path"]), "query_string": b"", _ORIGINAL: scope}
        await super().__call__(cast(HTTPScope, shown), receive, send)


def _naming(app: ASGIApp) -> ASGIApp:
    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        span, route = trace.get_current_span(), scope["path_template"]
        span.update_name(f"{scope.get('method')} {route}")
        span.set_attribute("http.route", route)
        await app(scope, receive, send)

    return named


def _note_trace(span: trace.Span, scope: dict[str, Any]) -> None:
    """Let the request's log line name the trace."""
    scope[_ORIGINAL][TRACE_ID] = trace.format_trace_id(span.get_span_context().trace_id)
