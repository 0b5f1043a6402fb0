"""`ArcProcess`: the double as a process of its own, for tests that kill it."""

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from arc_double.records import ADMIN_TOKEN, READ_TOKEN, WRITE_TOKEN

TESTS = Path(__file__).parents[1]
READY = re.compile(r"listening on (http://\S+:(\d+)), control on (http://\S+:(\d+))")


class ArcProcess:
    """A context manager that runs `python -m arc_double` with a control port.

    Args:
        data: Folder of the Parquet files.
        port: 0 for a free one, which is kept from then on.
        options: Options of the command line, with underscores.
    """

    read_token, write_token, admin_token = READ_TOKEN, WRITE_TOKEN, ADMIN_TOKEN

    def __init__(self, *, data: Path | str, port: int = 0, control_port: int = 0, **options: Any):
        self.data, self.port, self.control_port, self.options = Path(data), port, control_port, options
        self.process: subprocess.Popen[str] | None = None
        self.url = self.control_url = ""

    def __enter__(self) -> "ArcProcess":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.terminate()

    def start(self) -> "ArcProcess":
        """Start and wait until it answers."""
        command = [sys.executable, "-m", "arc_double", "--data", str(self.data), "--port", str(self.port)]
        command += ["--control-port", str(self.control_port)]
        for name, value in self.options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        ready = READY.search(self.process.stdout.readline())
        if not ready:
            self.process.stdout.close()
            raise RuntimeError(f"arc_double did not start: exit code {self.process.wait()}")
        self.url, self.control_url = ready[1], ready[3]
        self.port, self.control_port = int(ready[2]), int(ready[4])
        return self

    def kill(self) -> int:
        """End it as kill -9 does."""
        return self._end(lambda: self.process.kill())

    def terminate(self) -> int:
        """End it as an orderly shutdown does; returns the exit code."""
        return self._end(lambda: self.process.terminate())

    def wait(self) -> int:
        """Wait until it ends by itself (a crash) and return the exit code."""
        return self._end(lambda: None)

    def _end(self, signal):
        if self.process is None:
            return 0
        signal()
        code = self.process.wait(30)
        self.process.stdout.close()
        self.process = None
        return code

    def control(self, name: str, body: dict[str, Any] | None = None, query: str = "") -> Any:
        """Call a control endpoint: POST with a body, GET without."""
        request = urllib.request.Request(
            f"{self.control_url}/_double/{name}{query}",
            data=None if body is None else msgspec.json.encode(body),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return msgspec.json.decode(response.read())

    def set_faults(self, **values: Any) -> dict[str, Any]:
        """Set faults; returns the values of all."""
        return self.control("faults", values)

    def records(self) -> dict[str, Any]:
        """Return the records of queries and writes, and the counters."""
        return self.control("records")

    def rows(self, database: str, measurement: str) -> list[dict[str, Any]]:
        """Return stored and buffered rows, `time` in µs."""
        return self.control("rows", query=f"?database={database}&measurement={measurement}")
