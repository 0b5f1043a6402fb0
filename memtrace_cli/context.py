"""What every command needs: the file that `--config` names, and services for an admin command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from memtrace_cli import output
from memtrace_cli.composition import compose
from memtrace_cli.secrets import vault
from memtrace_cli.settings import Loaded, examine_settings, load_settings
from memtrace_core import Services
from memtrace_sqlite import Mode

Result = TypeVar("Result")

config_file: ContextVar[Path | None] = ContextVar("config_file", default=None)
"""What `--config` names, for the command that runs."""


def settings() -> Loaded:
    """Read the settings of this command."""
    return load_settings(config_file.get(), os.environ)


def examine() -> Loaded:
    """Read the settings of this command as far as they can be read; what cannot be used is in `problems`."""
    return examine_settings(config_file.get(), os.environ)


def administer(work: Callable[[Services], Awaitable[Result]]) -> Result:
    """Run an admin command's work on the database that the settings name."""
    loaded = settings()
    for warning in loaded.warnings:
        output.note(f"memtrace: warning: {output.one_line(warning)}")
    key = vault(os.environ)

    async def run() -> Result:
        services = compose(loaded.settings, key, Mode.AS_IT_IS)
        try:
            return await work(services)
        finally:
            await services.close()

    return asyncio.run(run())
