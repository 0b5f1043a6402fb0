"""Figures for Prometheus: a closed list of names, how they come about, and who may see them."""

from memtrace_http.metrics.exposition import Everybody, Metrics

__all__ = ["Everybody", "Metrics"]
