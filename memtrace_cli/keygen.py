"""`memtrace keygen`: fresh secrets."""

from __future__ import annotations

from cyclopts import App

from memtrace_cli import output
from memtrace_sqlite import MasterKey

app = App(name="keygen", help="Make fresh secrets.")


@app.command
def master() -> None:
    """Print a fresh master key, and nothing else.

    Example: export MEMTRACE_MASTER_KEY=$(memtrace keygen master)
    """
    output.say(MasterKey.generate())
