"""Secrets that bear a mark, and the search for marks in all that the processes of the tests print and leave behind.

So every test looks for leaks, whatever it is about. Marks are short and the same for all secrets of a kind, so this
costs little; `secret_hunt` looks for every secret as a whole, in one long scenario.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from e2e.secret_hunt import children, forms

MASTER_MARK = b"memtrace-e2e-key"
ARC_MARK = b"arc-secret-key-0"
POSTGRES_MARK = b"postgres-secret-0"
API_KEY = re.compile(rb"mtk_[A-Za-z0-9_-]{43}")

# The sixteenth byte shares a group of base64 with those that follow the mark.
_MASTER_TEXT = base64.b64encode(MASTER_MARK[:15])
_MARKS = {
    "the master key": forms(MASTER_MARK) | forms(_MASTER_TEXT),
    "an Arc key": forms(ARC_MARK),
    "a database's password": forms(POSTGRES_MARK),
}

# The commands whose promise it is to print an API key, once, on standard output; `serve` does so on its first run
# and with `--dev`. (`keygen` prints a master key that is nobody's yet, and bears no mark.)
PRINT_AN_API_KEY = (("key", "create"), ("key", "rotate"), ("serve",))
# The variables of a process can be read by its user and by root: here is where the operator puts the master key. So
# the process that is given one is not looked at, only what it starts.

# Files below a deployment's folder into which a test has put a secret itself, and those that take the output of a
# server, which is looked at as such.
GIVEN = {"memtrace.toml", "arc.key", "master.key", "together", "server.stdout", "server.stderr"}


def new_master_key() -> str:
    """Return a marked master key."""
    return base64.b64encode(MASTER_MARK + os.urandom(32 - len(MASTER_MARK))).decode()


def shown(content: bytes) -> Iterator[str]:
    """Tell which kinds of secrets can be seen in a content, in any form that keeps the mark."""
    for name, ways in _MARKS.items():
        if any(way in content for way in ways):
            yield name
    if API_KEY.search(content):
        yield "an API key"


def in_output(arguments: tuple[str, ...], out: bytes, err: bytes) -> set[str]:
    """Return what a command shows of secrets without being there for it."""
    command = " ".join(arguments[:2])
    may_print = any(arguments[: len(known)] == known for known in PRINT_AN_API_KEY)
    found = {
        f"{name} in the output of {command}" for name in shown(out) if not (may_print and name == "an API key")
    }
    return found | {f"{name} on the standard error of {command}" for name in shown(err)}


def in_files(folder: Path) -> set[str]:
    """Return what the files below a folder show of secrets."""
    return {
        f"{name} in {file.relative_to(folder)}"
        for file in folder.rglob("*")
        if file.is_file() and file.name not in GIVEN
        for name in shown(file.read_bytes())
    }


def in_process(process_id: int) -> set[str]:
    """Return what the machine shows of secrets in a process's command line, and in anything of those it started."""
    found: set[str] = set()
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended, or there is no /proc here
        looked_at = [(process_id, "cmdline")]
        looked_at += [(child, part) for child in children(process_id) for part in ("cmdline", "environ")]
        for one, part in looked_at:
            content = Path(f"/proc/{one}/{part}").read_bytes()
            found |= {f"{name} in the {part} of a process" for name in shown(content)}
    return found
