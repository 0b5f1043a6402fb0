"""What `memtrace doctor` says of a database of the Go service: how it would be taken over, tried on a copy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from memtrace_cli.findings import Finding, Verdict, fault, finding
from memtrace_cli.moving_in import wrong_key
from memtrace_core.errors import MemtraceError, WrongMasterKey
from memtrace_sqlite import EnvelopeVault
from memtrace_sqlite.database import reporting
from memtrace_sqlite.go_database import is_go_database
from memtrace_sqlite.go_takeover import rehearse

FILE = "metadata database"


def awaits_takeover(path: Path) -> bool:
    """Tell whether there is a database of the Go service; False also where nothing can be read."""
    try:
        with reporting(path):
            return is_go_database(path)
    except MemtraceError:
        return False


def rehearsed(path: Path, vault: EnvelopeVault, now: datetime) -> Iterator[Finding]:
    """Take a copy over, and yield what comes of it."""
    try:
        with tempfile.TemporaryDirectory(prefix="memtrace-rehearsal-") as folder:
            would = rehearse(path, vault, now, Path(folder))
    except WrongMasterKey:
        yield fault("master key", wrong_key(path))
        return
    except MemtraceError as error:
        yield fault(FILE, error)
        return
    counts = ", ".join(f"{count} {table.replace('_', ' ')}" for table, count in would.counts.items())
    yield finding(
        FILE,
        Verdict.WARNING,
        f"{path} is a database of the Go service, and can be taken over: {counts}",
        hint="stop the Go service; `memtrace serve` takes its database over when it starts",
    )
    for remark in would.remarks:
        yield finding(FILE, Verdict.WARNING, f"when it is taken over: {remark}")
    sealed = bool(would.counts["arc_instances"])
    yield finding("master key", Verdict.OK, "opens its Arc keys" if sealed else "there is nothing to try it on")
