"""The program: `memtrace`, and `python -m memtrace_cli`."""

from __future__ import annotations

import gc
import io
import os
import sys


def main() -> None:
    """Run the command line, and leave with its exit code."""
    # Imports leave no garbage. To search what they leave, time and again, would take a tenth of a short command's
    # time, and so would a last search when it is over: the end frees it all.
    gc.disable()
    from memtrace_cli.app import run

    gc.freeze()
    gc.enable()
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Or a terminal that lacks a character would end a command that has made a key, and not shown it yet.
            stream.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    gc.freeze()
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Put something in the place of standard streams that are closed: the next file that is opened would be there.

    Nothing comes from such a stdin, and what goes to such a stderr is lost. Such a stdout takes nothing, as a new
    API key must not be lost.
    """
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


if __name__ == "__main__":
    main()
