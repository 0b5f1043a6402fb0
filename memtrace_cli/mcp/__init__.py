"""`memtrace mcp`: a Model Context Protocol server that stands in front of a Memtrace server."""
