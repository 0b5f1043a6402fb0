"""Storing, listing, finding and searching memories."""

from __future__ import annotations

import time

import msgspec
from litestar import get, post

from memtrace_core.entries import Duplicate
from memtrace_core.errors import DuplicateMemory, InvalidInput
from memtrace_core.memories import NewMemory
from memtrace_core.model import Memory, Permission
from memtrace_core.query import MemoryQuery
from memtrace_http import filters
from memtrace_http.edge import path_text
from memtrace_http.endpoints import Endpoint, declare
from memtrace_http.problems import undecodable
from memtrace_http.requests import HttpRequest, decode, query_of, read_body, services_of
from memtrace_http.schemas import (
    DuplicateOf,
    MemoriesQuery,
    MemoryPage,
    NewMemories,
    SearchBody,
    SearchPage,
    StoredMemories,
)

_ONE = msgspec.json.Decoder(NewMemory)
_MANY = msgspec.json.Decoder(NewMemories)
_SEARCH = msgspec.json.Decoder(SearchBody)


class _Shape(msgspec.Struct):
    memories: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_SHAPE = msgspec.json.Decoder(_Shape)


@post(
    "/api/v1/memories",
    opt=declare(
        Endpoint(
            summary="Store one memory, or a batch of them",
            permission=Permission.WRITE,
            body=(NewMemory, NewMemories),
            answers={201: (Memory, StoredMemories)},
            problems=(400, 408, 409, 413, 503),
        )
    ),
)
async def remember(request: HttpRequest) -> Memory | StoredMemories:
    """Store one memory or a batch; on return they are on disk."""
    body = await read_body(request)
    service = services_of(request).memories
    org_id = request.user.org_id
    try:
        memory = _ONE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not _is_batch(body):
            raise undecodable(error) from None
        batch = decode(body, _MANY).memories
        if not batch:
            raise InvalidInput("memories must be 1 to 1,000 memories") from None
        outcomes = await service.remember(org_id, batch)
        stored = [outcome for outcome in outcomes if isinstance(outcome, Memory)]
        duplicates = [
            DuplicateOf(index, outcome.memory_id)
            for index, outcome in enumerate(outcomes)
            if isinstance(outcome, Duplicate)
        ]
        return StoredMemories(stored, len(stored), duplicates)
    (outcome,) = await service.remember(org_id, [memory], batch=False)
    if isinstance(outcome, Duplicate):
        raise DuplicateMemory(outcome.memory_id)
    return outcome


@get(
    "/api/v1/memories",
    opt=declare(
        Endpoint(
            summary="List memories",
            permission=Permission.READ,
            query=MemoriesQuery,
            answers={200: (MemoryPage,)},
            problems=(400, 503, 504),
        )
    ),
)
async def list_memories(request: HttpRequest) -> MemoryPage:
    """List memories, newest first unless asked otherwise."""
    services = services_of(request)
    given = query_of(request, MemoriesQuery)
    query = filters.listing(
        request.user.org_id, given, services.clock.now(), agent_id=given.agent_id, session_id=given.session_id
    )
    return await memory_page(request, query)


@get(
    "/api/v1/memories/{reference:str}",
    opt=declare(
        Endpoint(
            summary="Get a memory by its memory_id, or the newest with a dedup_key",
            permission=Permission.READ,
            answers={200: (Memory,)},
            problems=(404, 503, 504),
        )
    ),
)
async def get_memory(request: HttpRequest) -> Memory:
    """Return one memory."""
    reference = path_text(str(request.path_params["reference"]))
    return await services_of(request).memories.get(request.user.org_id, reference)


@post(
    "/api/v1/search",
    status_code=200,
    opt=declare(
        Endpoint(
            summary="Search memories",
            permission=Permission.READ,
            body=(SearchBody,),
            answers={200: (SearchPage,)},
            problems=(400, 408, 413, 503, 504),
        )
    ),
)
async def search(request: HttpRequest) -> SearchPage:
    """Search memories by structured filters."""
    started = time.perf_counter()
    services = services_of(request)
    body = decode(await read_body(request), _SEARCH)
    query = filters.search(request.user.org_id, body, services.clock.now())
    page = await services.memories.find(query)
    return SearchPage(
        results=page.memories,
        count=len(page.memories),
        query_time_ms=round((time.perf_counter() - started) * 1000),
        has_more=page.next is not None,
        next_cursor=filters.cursor_of(page.next, query.order),
    )


async def memory_page(request: HttpRequest, query: MemoryQuery) -> MemoryPage:
    """Answer a listing."""
    page = await services_of(request).memories.find(query)
    return MemoryPage(
        memories=page.memories,
        count=len(page.memories),
        has_more=page.next is not None,
        next_cursor=filters.cursor_of(page.next, query.order),
    )


def _is_batch(body: bytes) -> bool:
    try:
        return _SHAPE.decode(body).memories is not msgspec.UNSET
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


HANDLERS = [remember, list_memories, get_memory, search]
