"""What every command needs: the file that `--config` names, and the settings in it."""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path

from memtrace_cli.settings import Loaded, examine_settings, load_settings

config_file: ContextVar[Path | None] = ContextVar("config_file", default=None)
"""What `--config` names, for the command that runs."""


def settings() -> Loaded:
    """Read the settings of this command."""
    return load_settings(config_file.get(), os.environ)


def examine() -> Loaded:
    """Read the settings of this command as far as they can be read; what cannot be used is in `problems`."""
    return examine_settings(config_file.get(), os.environ)
