"""Ports: opens and closes those of a server, gracefully or as if it had been killed."""

import asyncio

from aiohttp import web

from arc_double.control import add_control
from arc_double.server import ArcServer
from arc_double.wire import reset

HOST = "127.0.0.1"
TURNS_TO_ACCEPT = 5  # of the loop, from the event that says that there is a connection to its protocol


class Listener:
    """A server on its port, and on a control port if one is wanted; belongs to the loop that opened it."""

    def __init__(self, server: ArcServer, port: int, control_port: int | None = None):
        self.server, self.port, self.control_port = server, port, control_port
        self._listening: asyncio.Server | None = None
        self._control: web.AppRunner | None = None

    async def open(self) -> None:
        """Begin to answer, unless the faults say that the server is down."""
        self._loop = asyncio.get_running_loop()
        app = self.server.application()
        add_control(app, self.server)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await self._listen()
        if self.server.faults.down:
            await self._down(True)
        if self.control_port is not None:
            control = web.Application()
            add_control(control, self.server)
            self._control = web.AppRunner(control, access_log=None, shutdown_timeout=1.0)
            await self._control.setup()
            await web.TCPSite(self._control, HOST, self.control_port).start()
            self.control_port = self._control.addresses[0][1]
        self.server.faults.on_down = self.set_down

    async def _listen(self):
        self._listening = await self._loop.create_server(
            self._runner.server, HOST, self.port, reuse_address=True, backlog=1024
        )
        self.port = self._listening.sockets[0].getsockname()[1]

    def set_down(self, down: bool) -> None:
        """Refuse connections, or take them again; called from any thread but the loop's."""
        asyncio.run_coroutine_threadsafe(self._down(down), self._loop).result(10)

    async def _down(self, down):
        if down and self._listening:
            await self._cut()
        elif not down and self._listening is None:
            await self._listen()

    async def _cut(self):
        """Refuse new connections and reset the open ones, those too that were being accepted meanwhile."""
        await self._refuse()
        for connection in list(self._runner.server.connections):
            reset(connection.transport)
        await asyncio.sleep(0)

    async def _refuse(self):
        """Close the port. A connection that is just being accepted would be lost, so accept no more before."""
        for listening in self._listening.sockets:
            self._loop.remove_reader(listening.fileno())
        for _ in range(TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        self._listening.close()
        self._listening = None

    async def close(self, gracefully: bool) -> None:
        """End: answer what is running and flush, or lose the buffer and reset every connection."""
        self.server.faults.on_down = None
        if not gracefully:
            self.server.storage.close(gracefully=False)
            if self._listening:
                await self._cut()
        elif self._listening:
            await self._refuse()
        self.server.closing = True
        await self._runner.cleanup()
        if self._control:
            await self._control.cleanup()
        if gracefully:
            await self.server.run(self.server.storage.close, True)
        self.server.pool.shutdown(wait=False)
