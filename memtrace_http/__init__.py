"""The HTTP API: a Litestar app over the core's services."""

from memtrace_http.app import HttpOptions, create_app
from memtrace_http.edge import RequestLog

__all__ = ["HttpOptions", "RequestLog", "create_app"]
