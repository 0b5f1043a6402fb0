"""The requests of the benchmark, as bytes that need no more than a number each."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

DIGITS = 14
_NUMBER = f"%0{DIGITS}d"
_TEXT = "The agent looked at the page, found what it was asked for, and wrote down where it had been. "


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A request with a place for each of `numbers` numbers, so that no two are alike; `items` counts memories."""

    method: str
    path: str
    headers: dict[str, str] = {}
    body: str = ""
    numbers: int = 0
    items: int = 1

    def for_host(self, host: str, port: int) -> bytes:
        """Return the request with `%` places for the numbers, and all lengths as they will be."""
        length = len(self.body) + self.numbers * (DIGITS - len(_NUMBER))
        headers = {"host": f"{host}:{port}", **self.headers}
        if self.body:
            headers |= {"content-type": "application/json", "content-length": str(length)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{self.method} {self.path} HTTP/1.1\r\n{lines}\r\n"
        # A head is sent as it is, though it goes through the same `%`.
        return (head.replace("%", "%%") + self.body).encode() if self.numbers else (head + self.body).encode()


def text(number: int) -> str:
    """Return a memory's content, another for each number; the number comes first, where dedup looks."""
    return f"{number:0{DIGITS}d} {_TEXT}"


def long_text(size: int) -> str:
    """Return a content of so many bytes, with a place for the number at its beginning."""
    rest = size - DIGITS - 1
    return f"{_NUMBER} {(_TEXT * (rest // len(_TEXT) + 1))[:rest]}"


def memory(
    session_id: str = "session_3", content: str = f"{_NUMBER} {_TEXT}", tags: Sequence[str] = ("crawl", "page")
) -> dict[str, object]:
    """Return a memory as an agent may post it."""
    return {
        "agent_id": "agent_7",
        "session_id": session_id,
        "memory_type": "episodic",
        "event_type": "page_crawled",
        "content": content,
        "tags": list(tags),
        "metadata": {"url": "https://example.org/where/it/was", "depth": 3},
        "importance": 0.5,
    }


def single(given: dict[str, object] | None = None) -> Template:
    """Return the request that stores one memory, a usual one if none is given."""
    return Template(method="POST", path="/api/v1/memories", body=_json(given or memory()), numbers=1)


def batch(size: int) -> Template:
    """Return the request that stores a batch."""
    body = _json({"memories": [memory()] * size})
    return Template(method="POST", path="/api/v1/memories", body=body, numbers=size, items=size)


def newest(count: int, **filters: str) -> Template:
    """Return the request for the newest memories."""
    query = "&".join(f"{name}={value}" for name, value in {"limit": str(count), **filters}.items())
    return Template(method="GET", path=f"/api/v1/memories?{query}", items=count)


def context(session_id: str, count: int, **options: str) -> Template:
    """Return the request for a session's context, which holds so many memories."""
    path = f"/api/v1/sessions/{session_id}/context"
    return Template(method="POST", path=path, body=_json(options), items=count)


def with_key(template: Template, key: str) -> Template:
    """Return the request as the holder of a key sends it."""
    return msgspec.structs.replace(template, headers={**template.headers, "x-api-key": key})


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
