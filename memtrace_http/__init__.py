"""The HTTP API: a Litestar app over the core's services."""

from memtrace_http.app import HttpOptions, create_app
from memtrace_http.deadlines import with_deadlines
from memtrace_http.edge import Edge, RequestLog
from memtrace_http.metrics import Metrics

__all__ = ["Edge", "HttpOptions", "Metrics", "RequestLog", "create_app", "with_deadlines"]
