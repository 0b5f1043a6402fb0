"""What figures from elsewhere must not be compared without."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.footprint import file_system

_SYNCS = 50


def machine(folder: Path) -> dict[str, object]:
    """Return what this machine is, and how long the disk of a folder takes to sync."""
    took = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(_SYNCS):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - started)
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "disk": file_system(folder),
        "fdatasync": f"{statistics.median(took) * 1000:.2f} ms",
    }
