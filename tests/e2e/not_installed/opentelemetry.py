"""Stands before OpenTelemetry, which comes with the extra `otel`; litestar loads it where it is, traced or not."""

raise ImportError("a server is installed without the extra otel")
