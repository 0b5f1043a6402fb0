"""A file system of its own, so small that a test can fill it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """Mount an empty file system in memory, and take it away again; skip the test where that is not allowed."""
    with tempfile.TemporaryDirectory(prefix="memtrace-small-disk-") as folder:
        options = f"size={megabytes}m,mode=0700"
        try:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a file system cannot be mounted here, which takes root and CAP_SYS_ADMIN: {error}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)


def free_bytes(folder: Path) -> int:
    """Return how much room there is."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def fill(folder: Path, leaving: int = 0) -> Path:
    """Fill the file system but for so many bytes with a file, and return it."""
    ballast = folder / "ballast"
    with ballast.open("ab") as file:
        while (size := min(free_bytes(folder) - leaving, 1 << 20)) > 0:
            file.write(bytes(size))
            file.flush()
    return ballast


def make_read_only(folder: Path) -> None:
    """Let nothing on the file system be written any more; no file on it may be open for writing."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True, capture_output=True)
