"""Services for an admin command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

from memtrace_cli import output
from memtrace_cli.composition import compose
from memtrace_cli.context import settings
from memtrace_cli.secrets import vault
from memtrace_core import Services
from memtrace_sqlite import EnvelopeVault, Mode

Result = TypeVar("Result")


def administer(work: Callable[[Services], Awaitable[Result]], kind: type[EnvelopeVault] = EnvelopeVault) -> Result:
    """Run an admin command's work on the database that the settings name, with a vault of that kind."""
    loaded = settings()
    for warning in loaded.warnings:
        output.note(f"memtrace: warning: {output.one_line(warning)}")
    key = vault(os.environ, kind)

    async def run() -> Result:
        services = compose(loaded.settings, key, Mode.AS_IT_IS)
        try:
            return await work(services)
        finally:
            await services.close()

    return asyncio.run(run())
