"""Pages of memories, agents and sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

TOTAL = 23

Fetch = Callable[[dict[str, Any]], dict[str, Any]]


def fill(api: httpx.Client) -> None:
    """Store memories of one agent in one session."""
    batch = [
        {"agent_id": "ada", "session_id": "s1", "content": f"step {number}", "tags": ["t"]}
        for number in range(TOTAL)
    ]
    response = api.post("/api/v1/memories", json={"memories": batch})
    assert response.json()["count"] == TOTAL


def fetcher(api: httpx.Client, path: str) -> Fetch:
    """Return a function that asks a path for one page."""

    def get(parameters: dict[str, Any]) -> dict[str, Any]:
        response = api.get(f"/api/v1/{path}", params=parameters)
        assert response.status_code == 200, response.text
        return response.json()

    def search(body: dict[str, Any]) -> dict[str, Any]:
        response = api.post("/api/v1/search", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    return search if path == "search" else get


def items(page: dict[str, Any]) -> list[str]:
    """Return the ids of a page."""
    (rows,) = (value for value in page.values() if isinstance(value, list))
    assert page["count"] == len(rows)
    return [row.get("memory_id") or row["id"] for row in rows]


def by_cursor(fetch: Fetch, limit: int, **more: Any) -> Iterator[dict[str, Any]]:
    """Yield all pages, following cursors."""
    page = fetch({"limit": limit, **more})
    yield page
    while page["has_more"]:
        page = fetch({"limit": limit, "cursor": page["next_cursor"], **more})
        yield page
    assert "next_cursor" not in page


PATHS = ["memories", "search", "agents/ada/memories", "sessions/s1/memories"]


@pytest.mark.parametrize("order", ["desc", "asc"])
@pytest.mark.parametrize("path", PATHS)
def test_pages_add_up_to_the_whole_list(api: httpx.Client, path: str, order: str) -> None:
    """Pages by cursor and by offset give what one big page gives, and `has_more` is exact on each."""
    fill(api)
    fetch = fetcher(api, path)
    whole = items(fetch({"order": order, "limit": 1000}))
    assert len(whole) == TOTAL
    assert whole == sorted(whole, reverse=order == "desc")
    for limit in (1, 7, TOTAL - 1, TOTAL, TOTAL + 1):
        pages = list(by_cursor(fetch, limit, order=order))
        assert [one for page in pages for one in items(page)] == whole
        assert len(pages) == -(-TOTAL // limit)
    for offset in range(0, TOTAL + 2, 3):
        page = fetch({"order": order, "limit": 5, "offset": offset})
        assert items(page) == whole[offset : offset + 5]
        assert page["has_more"] is (offset + 5 < TOTAL)


def test_a_cursor_skips_nothing_that_is_written_meanwhile(api: httpx.Client) -> None:
    """Going forward, what is stored between two pages comes on a later one, once."""
    fill(api)
    fetch = fetcher(api, "memories")
    first = fetch({"order": "asc", "limit": 20})
    later = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "meanwhile"}).json()
    second = fetch({"order": "asc", "limit": 20, "cursor": first["next_cursor"]})
    assert items(second)[-1] == later["memory_id"]
    assert len({*items(first), *items(second)}) == TOTAL + 1


def test_a_cursor_is_not_moved_by_newer_memories(api: httpx.Client) -> None:
    """Going back, what is stored between two pages does not shift the second one."""
    fill(api)
    fetch = fetcher(api, "memories")
    whole = items(fetch({}))
    first = fetch({"limit": 10})
    api.post("/api/v1/memories", json={"agent_id": "ada", "content": "meanwhile"})
    assert items(fetch({"limit": 10, "cursor": first["next_cursor"]})) == whole[10:20]


def test_filters_hold_on_every_page(api: httpx.Client) -> None:
    """Pages of a filtered list hold only what matches, and the last one says that there is no more."""
    for number in range(12):
        body = {"agent_id": "ada", "content": f"n {number}", "tags": ["even"] if number % 2 == 0 else ["odd"]}
        assert api.post("/api/v1/memories", json=body).status_code == 201
    pages = list(by_cursor(fetcher(api, "memories"), 3, tags="even"))
    assert [page["has_more"] for page in pages] == [True, False]
    contents = [one["content"] for page in pages for one in page["memories"]]
    assert contents == [f"n {number}" for number in range(10, -1, -2)]


@pytest.mark.parametrize("path", ["agents", "sessions"])
def test_agents_and_sessions_come_in_pages_too(api: httpx.Client, path: str) -> None:
    """Agents and sessions are listed newest first, and their pages add up."""
    made = []
    for number in range(7):
        body = {"name": f"agent {number}"} if path == "agents" else {"agent_id": "ada"}
        made.append(api.post(f"/api/v1/{path}", json=body).json()["id"])
    fetch = fetcher(api, path)
    assert items(fetch({})) == made[::-1]
    for limit in (1, 3, 7, 8):
        pages = list(by_cursor(fetch, limit))
        assert [one for page in pages for one in items(page)] == made[::-1]
        assert len(pages) == -(-7 // limit)


@pytest.mark.parametrize("path", [*PATHS, "agents", "sessions"])
@pytest.mark.parametrize("cursor", ["nonsense", "ZDEuYQ", "!", "é", "a" * 500])
def test_a_cursor_of_ones_own_making_is_refused(lasting_api: httpx.Client, path: str, cursor: str) -> None:
    """A text that the server never gave out as a cursor is a 400 that names the field."""
    if path == "search":
        response = lasting_api.post("/api/v1/search", json={"cursor": cursor})
    else:
        response = lasting_api.get(f"/api/v1/{path}", params={"cursor": cursor})
    assert response.status_code == 400
    assert "cursor" in response.json()["error"]


def test_a_cursor_belongs_to_its_order(api: httpx.Client) -> None:
    """A cursor of one order is refused in the other, and beside an offset."""
    fill(api)
    cursor = fetcher(api, "memories")({"limit": 2})["next_cursor"]
    for more in ({"order": "asc"}, {"offset": "1"}):
        response = api.get("/api/v1/memories", params={"cursor": cursor, **more})
        assert response.status_code == 400
        assert "cursor" in response.json()["error"]
