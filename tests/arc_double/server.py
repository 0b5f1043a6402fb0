"""Arc's HTTP surface: routes, tokens, records and faults, over one storage."""

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from aiohttp import web

from arc_double import engine
from arc_double.deletion import DeleteRefused, delete
from arc_double.encoding import answer, encode_rows, failure, rfc3339
from arc_double.faults import Faults
from arc_double.pruner import time_range
from arc_double.records import OLDEST, Options, QueryRecord, WriteRecord
from arc_double.rewriter import Failed, Missing, Refused, check, rewrite
from arc_double.storage import Storage
from arc_double.wire import json_body, reset, statement
from arc_double.writes import DATABASE, Crash, WriteRefused, decompress, parse, unstorable

SHOW = re.compile(r"\s*SHOW\s+(TABLES|MEASUREMENTS|DATABASES)\s*;?\s*", re.I)
LOOK_EVERY = 0.005


class ArcServer:
    """One Arc, without the loop and the listening socket that `Listener` gives it."""

    def __init__(self, options: Options, data: Path):
        self.options, self.faults = options, Faults(options.seed)
        self.offset, self.started = 0.0, time.time()
        self.data = data
        self.crashed = asyncio.Event()
        self.closing = False
        self.queries: list[QueryRecord] = []
        self.writes: list[WriteRecord] = []
        self.requests = self.concurrent = self.max_concurrent = 0
        self.pool = ThreadPoolExecutor(32, thread_name_prefix="arc-double")
        self.storage = Storage(
            data,
            self.now,
            folder_cache_seconds=options.folder_cache_seconds,
            empty_range=options.empty_range,
            seed=options.seed,
            lag=lambda: self.faults.visibility_lag,
        )

    def now(self) -> float:
        """Return the double's time in seconds since 1970."""
        return time.time() + self.offset

    def moment(self) -> datetime:
        """Return the double's time."""
        return datetime.fromtimestamp(self.now(), UTC)

    def advance(self, seconds: float) -> None:
        """Move the double's clock, and flush what has come of age by that."""
        self.offset += seconds
        if self.options.max_buffer_age_ms is not None:
            self.storage.flush_older_than(self.options.max_buffer_age_ms / 1000)

    def clear_records(self) -> None:
        """Forget the requests so far."""
        self.queries.clear()
        self.writes.clear()
        self.requests, self.max_concurrent = 0, self.concurrent

    def application(self) -> web.Application:
        """Return the routes."""
        app = web.Application(client_max_size=0, middlewares=[self.count])
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/api/v1/auth/verify", self.verify),
                web.post("/api/v1/write/msgpack", self.write),
                web.post("/api/v1/write/line-protocol/flush", self.flush),
                web.post("/api/v1/query", self.query),
                web.post("/api/v1/delete", self.delete),
            ]
        )
        return app

    @web.middleware
    async def count(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        """Count the requests of the API, and how many there are at once."""
        if not request.path.startswith("/api/"):
            return await handler(request)
        self.requests += 1
        self.concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self.concurrent)
        try:
            return await handler(request)
        finally:
            self.concurrent -= 1

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run what blocks in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    def refusal(self, request: web.Request, permission: str) -> tuple[int, str] | None:
        """Return status and text of the answer to a token that may not do this, None if it may."""
        if self.faults.auth_status:
            denied = self.faults.auth_status == 403
            return self.faults.auth_status, (
                f"Permission denied: {permission} required" if denied else "Invalid or expired token"
            )
        header = request.headers.get("Authorization")
        token = header.removeprefix("Bearer ") if header else request.headers.get("x-api-key")
        if not token:
            return 401, "Authentication required"
        if token not in self.options.tokens:
            return 401, "Invalid or expired token"
        if permission not in self.options.tokens[token].split():
            return 403, f"Permission denied: {permission} required"
        return None

    def denied(self, request: web.Request, permission: str) -> web.Response | None:
        """Return the answer to a token that may not do this, None if it may."""
        refusal = self.refusal(request, permission)
        return refusal and json_body({"error": refusal[1], "success": False}, refusal[0])

    async def hung(self, request: web.Request, kind: str) -> bool:
        """Wait for the end of a hang; true if there was one, and the connection is gone."""
        database = request.headers.get("x-arc-database")

        def hangs():
            return (self.faults.hang or getattr(self.faults, kind)) and self.faults.hang_database in (
                None,
                database,
            )

        waited = await self._while_open(request, hangs)
        if waited:
            reset(request.transport)
        return waited

    async def _while_open(self, request, holds):
        """Wait while something holds and the client is there; both may change in another thread, so look."""
        waited = False
        while holds() and not (self.closing or request.transport is None or request.transport.is_closing()):
            waited = True
            await asyncio.sleep(LOOK_EVERY)
        return waited

    async def health(self, request: web.Request) -> web.Response:
        """Answer without a token."""
        await self.hung(request, "hang")
        uptime = time.time() - self.started
        return json_body({"status": "ok", "time": rfc3339(self.moment()), "uptime_sec": int(uptime)})

    async def verify(self, request: web.Request) -> web.Response:
        """Say whether a token is known."""
        await self.hung(request, "hang")
        if response := self.denied(request, "read"):
            return response
        return json_body({"success": True, "valid": True})

    async def flush(self, request: web.Request) -> web.Response:
        """Flush everything, for admins."""
        if response := self.denied(request, "admin"):
            return response
        await self.run(self.storage.flush)
        return json_body({"success": True, "message": "Buffers flushed"})

    async def delete(self, request: web.Request) -> web.Response:
        """Delete rows, for admins."""
        if response := self.denied(request, "admin"):
            return response
        try:
            asked = msgspec.json.decode(await request.read(), type=dict[str, Any])
            return json_body(await self.run(delete, self.storage, asked))
        except (msgspec.DecodeError, msgspec.ValidationError, DeleteRefused) as error:
            return json_body({"success": False, "error": str(error)}, 400)

    async def write(self, request: web.Request) -> web.Response:
        """Take a batch into the buffer, if nothing is wrong with it and no fault is set."""
        body = await request.read()
        database = request.headers.get("x-arc-database", "default")
        measurement, rows, stored, error, status = None, 0, False, None, 204
        outcome = "ok"
        try:
            if len(body) > self.options.max_body_bytes:
                raise WriteRefused(413, "Request Entity Too Large")
            if refusal := self.refusal(request, "write"):
                raise WriteRefused(*refusal)
            await asyncio.sleep(self.faults.write_latency)
            if await self.hung(request, "hang_writes"):
                raise WriteRefused(0, "hung")
            outcome = self.faults.write_outcome()
            if outcome == "error_before":
                raise WriteRefused(500, "Failed to write records")
            if not DATABASE.fullmatch(database):
                raise WriteRefused(400, "Invalid database name")
            body = await self.run(decompress, body)
            if len(body) > self.options.max_body_bytes:
                raise WriteRefused(413, "Request Entity Too Large")
            batch = await self.run(parse, body, self.options.version)
            measurement, rows = batch.measurement, len(batch)
            self._reject(body)
            if outcome != "drop":
                await self._store(database, batch)
                stored = True
            if outcome == "error_after":
                raise WriteRefused(500, "Failed to write records")
        except Crash:
            status, error = 0, "crashed"
            self.crashed.set()
            await self._while_open(request, lambda: True)
        except WriteRefused as refused:
            status, error = refused.status, refused.error
        if outcome in ("reset", "silence") and stored:
            status, error = 0, f"answer lost: {outcome}"
        self.writes.append(WriteRecord(database, measurement, rows, status, stored, len(body), error))
        if status == 0:
            await self._while_open(request, lambda: outcome == "silence")
            reset(request.transport)
        if error is None or status == 0:
            return web.Response(status=204)
        return json_body({"error": error, **({"success": False} if status in (401, 403) else {})}, status)

    def _reject(self, body):
        status = self.faults.rejection(body)
        if status == 500:
            raise unstorable("column 'content': marked by the test", self.options.version)
        if status:
            raise WriteRefused(status, "Request Entity Too Large" if status == 413 else "Rejected by the test")

    async def _store(self, database, batch):
        age = self.options.max_buffer_age_ms
        first = await self.run(self.storage.add, database, batch)
        if age == 0:
            await self.run(self.storage.flush)
        elif age is not None and first:
            asyncio.get_running_loop().call_later(age / 1000, self.flush_soon)

    def flush_soon(self) -> None:
        """Flush in a thread, unless the server is going down."""
        if not self.closing:
            self.pool.submit(self.storage.flush)

    async def query(self, request: web.Request) -> web.Response:
        """Answer one statement."""
        began = time.perf_counter()
        body = await request.read()
        if response := self.denied(request, "read"):
            return response
        await asyncio.sleep(self.faults.query_latency)
        if await self.hung(request, "hang_queries"):
            return web.Response(status=204)
        database, sql, files, error = request.headers.get("x-arc-database"), "", [0], None
        connection = None
        try:
            sql = statement(request, body)
            if database is not None and not DATABASE.fullmatch(database):
                raise Refused("Invalid x-arc-database header")
            if self.faults.query_fails():
                raise Failed("passing fault ordered by the test")
            connection = engine.cursor()
            running = self.run(self._execute, connection, sql, database, files)
            status, columns, data = await asyncio.wait_for(running, self.options.query_timeout_seconds)
        except Refused as refused:
            status, error = 400, str(refused)
        except (Failed, duckdb.Error) as failed:
            status, error = 500, f"arrow query failed: {failed}"
            if self.options.version == OLDEST:
                error = "Query execution failed"
        except TimeoutError:
            connection.interrupt()
            status, error = 504, "Query timed out"
        ms = (time.perf_counter() - began) * 1000
        self.queries.append(QueryRecord(sql, database or "default", status, files[0], ms, error))
        if error is None:
            payload = await self.run(answer, columns, data, ms, self.moment())
        else:
            payload = failure(error, ms, self.moment())
        return web.Response(body=payload, status=status, content_type="application/json")

    def _execute(self, connection, sql, database, files):
        with connection:
            version = self.options.version
            if shown := SHOW.fullmatch(sql):
                return 200, *self._show(shown[1].upper(), "default" if version == OLDEST else database or "default")
            check(sql, version, database is not None)
            if self.faults.take_io_error():
                raise Failed('IO Error: Cannot open file "compacted.parquet": No such file or directory')
            bounds = time_range(sql, self.moment())
            try:
                rewritten = rewrite(
                    sql, version, database or "default", lambda base, name: self.storage.paths(base, name, bounds)
                )
            except Missing as missing:
                if version == OLDEST:
                    raise Failed(f"no files found for {missing}") from missing
                return 200, [], []
            files[0] = rewritten.files
            columns, kinds, rows = engine.fetch(connection, rewritten.sql)
            return 200, columns, encode_rows(kinds, rows)

    def _show(self, what, database):
        if what == "DATABASES":
            return ["database"], [[name] for name in sorted({base for base, _ in self.storage.tables})]
        found = self.storage.measurements(database)
        return ["database", "table_name", "file_count"], [[database, name, files] for name, files in found]
