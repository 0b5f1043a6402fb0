"""Stands before pydantic, which the published client brings along and no installation of Memtrace has."""

raise ImportError("Memtrace is installed without pydantic")
