"""The three things that every endpoint needs of HTTP: JSON out, a statement in, a connection cut."""

import asyncio
import socket
import struct
from typing import Any

import msgspec
from aiohttp import web

from arc_double.rewriter import Refused


def json_body(body: dict[str, Any], status: int = 200) -> web.Response:
    """Return a JSON answer."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def statement(request: web.Request, body: bytes) -> str:
    """Return the SQL of a query's body.

    Raises:
        Refused: The body is not declared as JSON, or not of the expected form.
    """
    if request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
        raise Refused("Invalid request body: Content-Type must be application/json")
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"Invalid request body: {error}") from error
    if not isinstance(asked, dict) or not isinstance(asked.get("sql"), str):
        raise Refused("SQL query is required")
    return asked["sql"]


def reset(transport: asyncio.Transport | None) -> None:
    """End a connection as a killed process does: at once, with a RST."""
    if transport is None:
        return
    if not transport.is_closing() and (raw := transport.get_extra_info("socket")) is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
