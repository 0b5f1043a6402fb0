"""HTTP to one Arc instance."""

from __future__ import annotations

import re
from io import BytesIO
from typing import TypeVar

import aiohttp
import msgspec

from memtrace_arc.wire import Deletion, Failure, ServerHealth
from memtrace_core.errors import (
    REFUSES_DELETION,
    REFUSES_KEY,
    ArcFailed,
    ArcRejected,
    ArcTimeout,
    ArcUnreachable,
    ErasureRefused,
    MemtraceError,
)

MOST_CONNECTIONS = 16
KEEP_ALIVE_SECONDS = 30
MOST_ERROR_CHARACTERS = 300
DELETE_TIMEOUT = 300.0  # files are read, and written anew
HIDDEN = "***"

Answer = TypeVar("Answer")

# Said of data that can never be stored. 26.02.1 says only "Failed to write records", which may pass.
_BLAMES_DATA = "failed to convert columns"
_SAYS_NOTHING = "Failed to write records"
_MISSING_COLUMN = re.compile(r"Binder Error|Query execution failed")
_PASSING_FAULT = "Cannot open file"

_failure = msgspec.json.Decoder(Failure)
_health = msgspec.json.Decoder(ServerHealth)
_deletion = msgspec.json.Decoder(Deletion)


class MissingColumn(MemtraceError):
    """A statement names a column (or, on the oldest Arc, perhaps a table) that there is not."""

    code = "arc_missing_column"


class Endpoint(msgspec.Struct, frozen=True):
    """Where and as whom to talk to an Arc."""

    url: str
    database: str
    api_key: str

    def headers(self, content_type: str) -> dict[str, str]:
        """Return the headers of a request with a body."""
        return {
            "Authorization": f"Bearer {self.api_key}",
            "x-arc-database": self.database,
            "Content-Type": content_type,
        }


class ArcClient:
    """Sends writes and queries. Times out a connection after `connect_timeout`, an answer after `query_timeout`,
    both in seconds. Opens at most `MOST_CONNECTIONS` at once, and none before it is used; a request that finds none
    free waits, at most for `query_timeout`. Redirects are never followed: they would carry the API key along.
    """

    def __init__(self, connect_timeout: float, query_timeout: float) -> None:
        self._timeout = aiohttp.ClientTimeout(total=query_timeout, sock_connect=connect_timeout)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def write(self, endpoint: Endpoint, body: bytes) -> None:
        """Write a batch.

        Raises:
            ArcUnreachable: no answer, or the key does not let us in; the batch may have arrived all the same.
            ArcFailed: Arc failed, and does not blame the data.
            ArcRejected: Arc will never take this batch.
        """
        status, answer = await self._post(endpoint, "/api/v1/write/msgpack", body, "application/msgpack")
        if status == 204:
            return
        said = _said(status, answer, endpoint)
        # Only Arc itself can judge data: what a proxy says is about the proxy.
        verdict = _error(answer)
        if verdict is not None and (status in (400, 413) or (status == 500 and _BLAMES_DATA in verdict)):
            raise ArcRejected(said)
        if verdict == _SAYS_NOTHING:
            raise ArcFailed(said)
        raise _refused(status, said)

    async def query(self, endpoint: Endpoint, sql: str, decoder: msgspec.json.Decoder[Answer]) -> Answer:
        """Run a statement, and return its answer.

        Raises:
            ArcUnreachable: no answer, an answer that makes no sense, or the key does not let us in.
            ArcTimeout: Arc took too long.
            MissingColumn: the statement may name a column that there is not.
        """
        body = msgspec.json.encode({"sql": sql})
        try:
            try:
                status, answer = await self._ask(endpoint, body)
            except _ConnectionLost:
                # Arc may have closed it before, with others that were kept open: when it was restarted, for one.
                status, answer = await self._ask(endpoint, body)
            if status == 500 and _PASSING_FAULT.encode() in answer:
                # Arc was compacting: the file that it wanted has just been replaced.
                status, answer = await self._ask(endpoint, body)
        except _TimedOut as error:
            raise ArcTimeout(str(error)) from None
        if status == 200:
            try:
                return decoder.decode(answer)
            except msgspec.MsgspecError as error:
                raise ArcUnreachable(f"arc gave an answer that is not Arc's: {error}") from None
        said = _said(status, answer, endpoint)
        if status == 504:
            raise ArcTimeout(said)
        if status == 500 and _MISSING_COLUMN.search(said):
            raise MissingColumn(said)
        raise _refused(status, said)

    async def delete(self, endpoint: Endpoint, measurement: str, predicate: str, *, dry_run: bool) -> int:
        """Delete rows, or only count those that would be deleted; return how many.

        Raises:
            ArcUnreachable: no answer, or the key is not one that may delete; rows may be deleted all the same.
            ErasureRefused: Arc does not take the predicate.
        """
        asked = {"database": endpoint.database, "measurement": measurement, "where": predicate}
        body = msgspec.json.encode({**asked, "dry_run" if dry_run else "confirm": True})
        status, answer = await self._post(
            endpoint, "/api/v1/delete", body, "application/json", within=DELETE_TIMEOUT
        )
        said = _said(status, answer, endpoint)
        if status == 403:
            text = "Arc refuses to delete: this org's key is not an admin token"
            raise ArcUnreachable(f"{text} ({said})", code=REFUSES_DELETION)
        if status == 400 and _error(answer) is not None:
            raise ErasureRefused(f"Arc does not take the order: {said}")
        if status != 200:
            raise _refused(status, said)
        try:
            return _deletion.decode(answer).deleted_count
        except msgspec.MsgspecError as error:
            raise ArcUnreachable(f"arc gave an answer that is not Arc's: {error}") from None

    async def server_version(self, url: str) -> str | None:
        """Return what the health endpoint of a server says of its version, if anything."""
        try:
            async with self._opened().get(f"{url}/health", allow_redirects=False) as response:
                return _health.decode(await response.read()).version
        except (aiohttp.ClientError, OSError, ValueError):
            return None

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ArcUnreachable("the client is closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_SECONDS)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    async def _ask(self, endpoint: Endpoint, body: bytes) -> tuple[int, bytes]:
        return await self._post(endpoint, "/api/v1/query", body, "application/json")

    async def _post(
        self, endpoint: Endpoint, path: str, body: bytes, content_type: str, *, within: float = 0
    ) -> tuple[int, bytes]:
        limits = self._timeout
        if limits.total is not None and limits.total < within:
            limits = aiohttp.ClientTimeout(total=within, sock_connect=limits.sock_connect)
        try:
            async with self._opened().post(
                endpoint.url + path,
                data=BytesIO(body),
                headers=endpoint.headers(content_type),
                allow_redirects=False,
                timeout=limits,
            ) as response:
                return response.status, await response.read()
        except aiohttp.ConnectionTimeoutError:
            raise ArcUnreachable("arc cannot be connected to in time") from None
        except TimeoutError:
            raise _TimedOut("arc did not answer in time") from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            was_connected = not isinstance(error, aiohttp.ClientConnectorError)
            kind = _ConnectionLost if was_connected else ArcUnreachable
            raise kind(f"arc cannot be reached: {type(error).__name__}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ArcUnreachable(f"arc cannot be reached: {type(error).__name__}") from None


class _ConnectionLost(ArcUnreachable):
    """No answer, over a connection that there was: whether the request has arrived is not known."""


class _TimedOut(ArcUnreachable):
    """No answer in time: for a read Arc's timeout, for a write one more reason to try again."""


def _refused(status: int, said: str) -> ArcUnreachable:
    if status in (401, 403):
        return ArcUnreachable(f"arc refuses the API key: {said}", code=REFUSES_KEY)
    return ArcUnreachable(said)


def _said(status: int, answer: bytes, endpoint: Endpoint) -> str:
    # An Arc may repeat what it was sent: the key must not get into a log, or into the journal.
    text = (_error(answer) or "").replace(endpoint.api_key, HIDDEN)
    return f"arc answered {status}" + (f": {text[:MOST_ERROR_CHARACTERS]}" if text else "")


def _error(answer: bytes) -> str | None:
    """Return the error of an answer in Arc's own form, None if it is not in that form."""
    try:
        return _failure.decode(answer).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
