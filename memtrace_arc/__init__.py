"""Arc over HTTP behind Memtrace's gateway port."""

from memtrace_arc.gateway import ArcGateway

__all__ = ["ArcGateway"]
