"""`python -m torture`."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from torture.run import run


def main() -> int:
    """Torture, and tell how it went."""
    parser = argparse.ArgumentParser(prog="torture", description="Kill Memtrace and Arc again and again.")
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds-per-cycle", type=float, default=0.6, help="the most that traffic lasts")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server; single ones die, too")
    parser.add_argument(
        "--forgetting",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="clients forget memories; without, most cycles confirm what they deliver at once",
    )
    parser.add_argument("--keep", type=Path, help="a folder for all files, which are kept")
    asked = parser.parse_args()
    # Whoever is told to end takes all processes along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    with ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        result = run(
            folder,
            cycles=asked.cycles,
            seed=asked.seed,
            seconds_per_cycle=asked.seconds_per_cycle,
            workers=asked.workers,
            forgetting=asked.forgetting,
        )
    for violation in result.violations:
        print(violation)
    print(f"{result} ({time.monotonic() - began:.0f} s, {result.set_aside} set aside)")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
