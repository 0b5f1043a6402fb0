"""The routes: each parses, calls one service, and returns."""

from memtrace_http.routes import agents, health, memories, openapi, sessions

HANDLERS = [*memories.HANDLERS, *agents.HANDLERS, *sessions.HANDLERS, *health.HANDLERS, *openapi.HANDLERS]

__all__ = ["HANDLERS"]
