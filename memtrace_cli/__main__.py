"""The program: `memtrace`, and `python -m memtrace_cli`."""

from __future__ import annotations

import gc
import io
import sys


def main() -> None:
    """Run the command line, and leave with its exit code."""
    # Imports leave no garbage. To search what they leave, time and again, would take a tenth of a short command's
    # time, and so would a last search when it is over: the end frees it all.
    gc.disable()
    from memtrace_cli.app import run

    gc.freeze()
    gc.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Or a terminal that lacks a character would end a command that has made a key, and not shown it yet.
            stream.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    main()
