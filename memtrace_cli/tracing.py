"""Where traces go, if the settings want any: to a collector that speaks OTLP over HTTP.

Which one, how many traces and under what name is told by OpenTelemetry's own variables, such as
OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER and OTEL_SERVICE_NAME.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtrace_cli.settings import Settings, SettingsError

if TYPE_CHECKING:
    from litestar.plugins import InitPlugin


def tracing_of(settings: Settings) -> list[InitPlugin]:
    """Return the app's plugins for tracing, none if it is turned off. What is left is sent when the process ends.

    Raises:
        SettingsError: the extra is not installed, or one of the variables cannot be used.
    """
    if not settings.tracing.enabled:
        return []
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from memtrace_http.tracing import Tracing
    except ImportError:
        raise SettingsError(
            "tracing.enabled needs OpenTelemetry, which is not installed",
            hint="install it with `pip install 'memtrace[otel]'`, or set tracing.enabled = false",
        ) from None
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "memtrace"}))
    provider = TracerProvider(resource=resource)
    try:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise SettingsError(f"a variable of OpenTelemetry (OTEL_…) cannot be used: {error}") from None
    return [Tracing(provider)]
