"""The HTTP API as the tools of `memtrace mcp` use it: an answer, or a failure in words that a model can act on."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec

Answer = TypeVar("Answer", bound=msgspec.Struct)
Query = Mapping[str, str | int | None]

# Longer than the server itself waits for an Arc.
TIMEOUT_SECONDS = 40.0

_ASK = "Tell the user"
_STATUS_ADVICE = {
    400: "Correct the arguments, and call the tool again.",
    401: f"{_ASK} that MEMTRACE_API_KEY (or the x-api-key header of this MCP connection) needs a valid key: "
    "an admin makes one with `memtrace key create`. Do not try again before that.",
    403: f"{_ASK}; an admin can make a key that may do this. Do not try again with this one.",
    404: "Check the id; do not try again with the same one.",
    413: "Send less: shorten the content or the metadata.",
    500: f"This is a fault of the server. {_ASK}, and do not try again at once.",
}
_NO_KEY = (
    "missing API key. Tell the user to set MEMTRACE_API_KEY for `memtrace mcp`, "
    "or to send the header x-api-key with this MCP connection."
)


class ToolFailure(Exception):
    """A tool could not do what was asked; the text says why, and what to do."""


class Duplicate(Exception):
    """The memory is stored already."""

    def __init__(self, memory_id: str) -> None:
        super().__init__(memory_id)
        self.memory_id = memory_id


class Conflict(Exception):
    """There is something of this name already."""


class _Problem(msgspec.Struct):
    """An error as the API writes it."""

    error: str
    code: str = ""
    hint: str | None = None
    request_id: str | None = None
    memory_id: str | None = None


class Api:
    """Asks one Memtrace server with an API key, waiting `timeout` seconds. Open it with `async with`."""

    def __init__(self, url: str, api_key: str | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        self._url = url
        self._api_key = api_key
        self._timeout = timeout
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connections."""
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=5),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        if self._http is not None:
            await self._http.close()

    def with_key(self, api_key: str | None) -> Api:
        """Return the same server for another holder of a key; its own key if that is None."""
        other = copy(self)
        other._api_key = api_key or self._api_key
        return other

    async def get(self, path: str, query: Query, kind: type[Answer]) -> Answer:
        """Read something; None in the query is left out.

        Raises:
            ToolFailure: with what to do.
        """
        given = {name: str(value) for name, value in query.items() if value is not None}
        return await self._ask("GET", path, given, None, kind, writes=False)

    async def post(self, path: str, body: Mapping[str, object], kind: type[Answer], *, writes: bool) -> Answer:
        """Send something; None in the body is left out. `writes` if it changes anything.

        Raises:
            Duplicate, Conflict: it is there already.
            ToolFailure: with what to do.
        """
        given = {name: value for name, value in body.items() if value is not None}
        return await self._ask("POST", path, {}, msgspec.json.encode(given), kind, writes=writes)

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        kind: type[Answer],
        *,
        writes: bool,
    ) -> Answer:
        if self._http is None:
            raise RuntimeError("the API is not open")
        if self._api_key is None:
            raise ToolFailure(_NO_KEY)
        headers = {"x-api-key": self._api_key, "content-type": "application/json"}
        try:
            # A redirect would carry the key to wherever it points.
            async with self._http.request(
                method, self._url + path, params=query, data=body, headers=headers, allow_redirects=False
            ) as response:
                content = await response.read()
                status, wait = response.status, response.headers.get("retry-after")
        except aiohttp.ClientConnectorError:
            raise ToolFailure(
                f"no Memtrace server can be reached at {self._url}; nothing was done. "
                "Tell the user to start it, or to correct MEMTRACE_URL. Calling again later may help."
            ) from None
        except (TimeoutError, aiohttp.ClientError):
            raise ToolFailure(_lost(writes)) from None
        if status >= 300:
            raise self._problem(status, content, wait)
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError:
            raise ToolFailure(self._stranger()) from None

    def _problem(self, status: int, content: bytes, wait: str | None) -> Exception:
        try:
            problem = msgspec.json.decode(content, type=_Problem)
        except msgspec.DecodeError:
            return ToolFailure(self._stranger())
        if status == 409 and problem.memory_id:
            return Duplicate(problem.memory_id)
        if status == 409:
            return Conflict(problem.error)
        if problem.code == "no_arc_instance":
            return ToolFailure(f"{problem.error}. Tell the user: {problem.hint}. Do not try again before that.")
        advice = _STATUS_ADVICE.get(status, "")
        if status in (429, 503, 504):
            advice = (
                f"This passes: wait {wait or 'a few'} seconds, and call the tool again with the same arguments."
            )
        texts = [problem.error, f"hint: {problem.hint}" if problem.hint else "", advice]
        if status >= 500 and problem.request_id:
            texts.append(f"(request {problem.request_id})")
        return ToolFailure(". ".join(text.rstrip(".") for text in texts if text) + ".")

    def _stranger(self) -> str:
        return (
            f"what answers at {self._url} is not a Memtrace server of this version. "
            "Tell the user to correct MEMTRACE_URL; do not try again before that."
        )


def _lost(writes: bool) -> str:
    if writes:
        return (
            "the Memtrace server did not answer in time, so it is not known whether this was done. "
            "Call the tool again with the very same arguments: a memory is not stored twice."
        )
    return "the Memtrace server did not answer in time. Call the tool again; a smaller limit may help."
