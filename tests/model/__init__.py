"""A model of what Memtrace promises, an Arc that makes it hard, and a machine that compares the two."""
