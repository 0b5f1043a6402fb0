"""`python -m memtrace_cli`."""

from memtrace_cli.app import main

main()
