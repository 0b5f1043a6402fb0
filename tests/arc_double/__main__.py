"""`python -m arc_double`: the double as a process, which a test may kill."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from arc_double.listener import HOST, Listener
from arc_double.records import VERSIONS, Options
from arc_double.server import ArcServer


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="arc_double")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--version", choices=VERSIONS, default=Options.version)
    parser.add_argument("--max-buffer-age-ms", type=float, default=Options.max_buffer_age_ms)
    parser.add_argument("--max-body-bytes", type=int, default=Options.max_body_bytes)
    parser.add_argument("--folder-cache-seconds", type=float, default=0)
    parser.add_argument("--empty-range", choices=("all", "none"), default="all")
    parser.add_argument("--query-timeout-seconds", type=float, default=Options.query_timeout_seconds)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


async def serve(asked: argparse.Namespace) -> int:
    """Serve until SIGTERM (0) or until a batch crashes the server (2)."""
    values = vars(asked)
    data, port, control_port = (values.pop(name) for name in ("data", "port", "control_port"))
    data.mkdir(parents=True, exist_ok=True)
    server = ArcServer(Options(**values), data)
    listener = Listener(server, port, control_port)
    await listener.open()
    terminated = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, terminated.set)
    control = f", control on http://{HOST}:{listener.control_port}" if control_port is not None else ""
    print(f"arc_double listening on http://{HOST}:{listener.port}{control}", flush=True)
    ends = [asyncio.ensure_future(event.wait()) for event in (terminated, server.crashed)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()
    await listener.close(gracefully=not server.crashed.is_set())
    return 2 if server.crashed.is_set() else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(serve(arguments())))
