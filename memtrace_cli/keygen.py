"""`memtrace keygen`: fresh secrets."""

from __future__ import annotations

import sys

from cyclopts import App

from memtrace_cli import output
from memtrace_sqlite import MasterKey

app = App(name="keygen")


@app.command
def master() -> None:
    """Print a fresh master key, and nothing else.

    Example: export MEMTRACE_MASTER_KEY=$(memtrace keygen master)
    """
    output.say(MasterKey.generate())
    if sys.stdout.isatty():  # else a script takes it
        output.note("keep it safe: without it no Arc key that it has sealed can be opened again")
        output.suggest("export MEMTRACE_MASTER_KEY=… with this key, then memtrace serve")
