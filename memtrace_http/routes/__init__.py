"""The routes: each parses, calls one service, and returns."""

from memtrace_http.routes import agents, forgetting, health, memories, metrics, openapi, sessions

HANDLERS = [
    *memories.HANDLERS,
    *agents.HANDLERS,
    *sessions.HANDLERS,
    *forgetting.HANDLERS,
    *health.HANDLERS,
    *openapi.HANDLERS,
]

METRICS = metrics.HANDLERS
"""Only for an app that has figures."""

__all__ = ["HANDLERS", "METRICS"]
