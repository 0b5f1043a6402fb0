"""PostgreSQL behind Memtrace's metadata port, so that several nodes share orgs, keys, agents and sessions."""

from memtrace_postgres.inspection import Inspection, inspect
from memtrace_postgres.metadata import PostgresMetadataRepo

__all__ = ["Inspection", "PostgresMetadataRepo", "inspect"]
