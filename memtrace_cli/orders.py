"""What the parent of several server processes tells each of them, as a line on its standard input."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from memtrace_cli.secrets import VARIABLES
from memtrace_cli.settings import Settings


class Orders(msgspec.Struct, frozen=True):
    """The settings, and the variables of the environment that the master keys come from, as bytes."""

    settings: Settings
    secrets: dict[str, bytes]

    @property
    def variables(self) -> dict[str, str]:
        """The same variables as `os.environ` would hold them."""
        return {name: os.fsdecode(value) for name, value in self.secrets.items()}


def orders_of(settings: Settings, environ: Mapping[str, str]) -> bytes:
    """Return the line for settings and an environment."""
    # A file's name may be no UTF-8.
    secrets = {name: os.fsencode(environ[name]) for name in VARIABLES if name in environ}
    return msgspec.json.encode(Orders(settings, secrets), enc_hook=str) + b"\n"


def read_orders(line: bytes) -> Orders:
    """Return what a line tells."""
    return msgspec.json.decode(line, type=Orders, dec_hook=lambda kind, found: kind(found))
