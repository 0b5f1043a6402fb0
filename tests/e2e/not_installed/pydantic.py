"""Stands before pydantic, which tests and `memtrace mcp` bring along, and a server does without."""

raise ImportError("a server is installed without pydantic")
