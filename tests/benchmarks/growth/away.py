"""An Arc that can be read, is empty, and takes no memory: what is stored for it waits in the journal for good.

`python -m benchmarks.growth.away --port N`. It answers in next to no time, so that a read is the journal's.
"""

from __future__ import annotations

import argparse
import asyncio
import re

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


def _answer(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return head + body


_NO_ROWS = _answer(b"200 OK", b'{"success":true,"columns":[],"data":[],"row_count":0}')
_AWAY = _answer(b"503 Service Unavailable", b"{}")


class _Answering(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as it is for TCP
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            writes = self._received.startswith(b"POST /api/v1/write")
            self._transport.write(_AWAY if writes else _NO_ROWS)
            self._received = self._received[whole:]


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))
