"""The least that any server can do: answer whatever arrives, unread, with the same bytes.

`python -m benchmarks.ceiling --port N`. What the load generator reaches against it is its own ceiling.
"""

from __future__ import annotations

import argparse
import asyncio

import uvloop

_BODY = b'{"memory_id":"mem_"}'
_ANSWER = (
    b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_BODY) + _BODY
)


class _Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as it is for TCP
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        # The generator sends a small request in one piece, and waits for its answer.
        self._transport.write(_ANSWER)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))
