"""The floor app: the barest Litestar routes that take what Memtrace takes and answer what it answers.

No key, no dedup, no disk, no error handling of its own: what is left is the web framework, the server beneath it,
and JSON. `python -m benchmarks.floor --port N [--workers N] [--answers DIR]`: what lies in DIR as
`answer.json` is the answer to every read, byte for byte.
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from litestar import Litestar, MediaType, Response, get, post

from memtrace_core.memories import NewMemory
from memtrace_core.model import Memory
from memtrace_http.schemas import NewMemories, StoredMemories

_ANSWERS = "FLOOR_ANSWERS"


def _stored(new: NewMemory) -> Memory:
    return Memory(
        memory_id="mem_0000000000000000000000",
        time=datetime.now(UTC),
        org_id="org_000000000000000000000000",
        agent_id=new.agent_id,
        session_id=new.session_id,
        memory_type=new.memory_type,  # type: ignore[arg-type]
        event_type=new.event_type or "general",
        content=new.content,
        metadata=new.metadata,
        tags=tuple(new.tags or ()),
        dedup_key="00000000000000000000000000000000",
        importance=new.importance or 0.0,
        parent_id=new.parent_id,
    )


@post("/api/v1/memories")
async def one(data: NewMemory) -> Memory:
    """Answer as for one memory."""
    return _stored(data)


@post("/api/v1/batches")
async def many(data: NewMemories) -> StoredMemories:
    """Answer as for a batch."""
    stored = [_stored(new) for new in data.memories]
    return StoredMemories(stored, len(stored), [])


_ANSWER = Path(os.environ[_ANSWERS], "answer.json").read_bytes() if _ANSWERS in os.environ else b"{}"


@get("/api/v1/memories")
async def page() -> Response[bytes]:
    """Answer as for a listing."""
    return Response(_ANSWER, media_type=MediaType.JSON)


@post("/api/v1/sessions/{session_id:str}/context", status_code=200)
async def context(session_id: str) -> Response[bytes]:
    """Answer as for a context."""
    return Response(_ANSWER, media_type=MediaType.JSON)


app = Litestar([one, many, page, context], openapi_config=None, logging_config=None)


def main() -> None:
    """Serve, with uvicorn as Memtrace has it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--answers")
    arguments = parser.parse_args()
    if arguments.answers:
        os.environ[_ANSWERS] = arguments.answers
    uvicorn.run(
        "benchmarks.floor:app",
        host="127.0.0.1",
        port=arguments.port,
        workers=arguments.workers,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=2048,
    )


if __name__ == "__main__":
    main()
