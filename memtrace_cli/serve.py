"""`memtrace serve`: the server, in one process or in several."""

from __future__ import annotations

import asyncio
import os

import uvloop
from loguru import logger

from memtrace_cli import output
from memtrace_cli.context import settings as load
from memtrace_cli.logs import configure_logs
from memtrace_cli.secrets import vault


def serve(*, new_journal: bool = False) -> int:
    """Run the server of the settings until it is told to stop, and return the exit code."""
    loaded = load()
    log = configure_logs(loaded.settings.log.level, loaded.settings.log.format)
    for warning in loaded.warnings:
        logger.warning(output.one_line(warning))
    key = vault(os.environ)
    if loaded.settings.server.workers > 1:
        from memtrace_cli.supervisor import supervise

        return asyncio.run(supervise(loaded.settings, key, new_journal=new_journal))
    # With workers this process serves nobody: what a server needs would cost it memory, and the start time.
    from memtrace_cli.alone import serve_alone

    return uvloop.run(serve_alone(loaded.settings, key, log, new_journal=new_journal))
