"""A bar on the terminal that shows how far something long is; nothing where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[float | None, int], None]
"""Show which share is done, from 0 to 1 or None if nobody knows, and how many memories that is."""


@contextmanager
def progress(title: str, *, shown: bool = True) -> Iterator[Show]:
    """Draw a bar on standard error while work is done."""
    if not (shown and sys.stderr.isatty()):
        yield lambda share, count: None
        return
    from rich.console import Console  # only for a terminal: its import would cost every script
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]:,} memories"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, count=0)
        yield lambda share, count: bar.update(
            task, total=None if share is None else 1.0, completed=share or 0.0, count=count
        )
