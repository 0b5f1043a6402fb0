"""`/_double/…`: the double's own endpoints, by which another process sets faults and reads records."""

from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web

from arc_double.history import fill
from arc_double.pruner import micros
from arc_double.server import ArcServer
from arc_double.wire import json_body


def add_control(app: web.Application, server: ArcServer) -> None:
    """Give an application the control endpoints of a server."""

    async def asked(request: web.Request) -> dict[str, Any]:
        body = await request.read()
        return msgspec.json.decode(body, type=dict[str, Any]) if body else {}

    async def get_faults(request: web.Request) -> web.Response:
        return json_body(server.faults.current())

    async def set_faults(request: web.Request) -> web.Response:
        try:
            await server.run(server.faults.update, await asked(request))
        except (AttributeError, TypeError, ValueError) as error:
            return json_body({"error": str(error)}, 400)
        return json_body(server.faults.current())

    async def flush(request: web.Request) -> web.Response:
        await server.run(server.storage.flush)
        return json_body({})

    async def advance(request: web.Request) -> web.Response:
        await server.run(server.advance, (await asked(request))["seconds"])
        return json_body({"now": server.now()})

    async def fill_hours(request: web.Request) -> web.Response:
        wanted = await asked(request)
        wanted["until"] = server.moment()
        await server.run(lambda: fill(server.storage, **wanted))
        return json_body({})

    async def records(request: web.Request) -> web.Response:
        return json_body(
            {
                "queries": [asdict(record) for record in server.queries],
                "writes": [asdict(record) for record in server.writes],
                "requests": server.requests,
                "concurrent": server.concurrent,
                "max_concurrent": server.max_concurrent,
            }
        )

    async def rows(request: web.Request) -> web.Response:
        found = await server.run(server.storage.rows, request.query["database"], request.query["measurement"])
        return web.Response(
            body=msgspec.json.encode([{**row, "time": micros(row["time"])} for row in found]),
            content_type="application/json",
        )

    app.add_routes(
        [
            web.get("/_double/faults", get_faults),
            web.post("/_double/faults", set_faults),
            web.post("/_double/flush", flush),
            web.post("/_double/advance", advance),
            web.post("/_double/fill", fill_hours),
            web.get("/_double/records", records),
            web.get("/_double/rows", rows),
        ]
    )
