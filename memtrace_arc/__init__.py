"""Arc over HTTP. The wire is not spoken yet: memories for such an instance are accepted and wait in the journal."""

from memtrace_arc.gateway import UnsupportedArcGateway

__all__ = ["UnsupportedArcGateway"]
