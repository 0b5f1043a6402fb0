"""What the torture's recorder sees at once, from answers made by hand."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import msgspec
import pytest
from builders import run
from torture.history import Fields
from torture.recorder import Recorder

ORG = "org_ours"
SENT = {"agent_id": "ada", "content": "1.1 happened"}


class Api:
    """Gives the next answer to any request; to None it breaks the connection."""

    def __init__(self) -> None:
        self.answers: list[tuple[HTTPStatus, Fields] | None] = []

    def post(self, *_: object, **__: object) -> AbstractAsyncContextManager[Any]:
        return self._answer()

    delete = post

    @asynccontextmanager
    async def _answer(self) -> Any:
        answer = self.answers.pop(0)
        if answer is None:
            raise aiohttp.ServerDisconnectedError
        status, body = answer

        async def read() -> bytes:
            return msgspec.json.encode(body)

        yield SimpleNamespace(status=status, read=read)


def stored(number: int) -> tuple[HTTPStatus, Fields]:
    """Return the answer that stores what is sent."""
    return HTTPStatus.CREATED, {**SENT, "org_id": ORG, "memory_id": f"mem_{number}", "dedup_key": "generated"}


def known(number: int) -> tuple[HTTPStatus, Fields]:
    """Return the answer that knows what is sent."""
    return HTTPStatus.CONFLICT, {"memory_id": f"mem_{number}"}


def recorder_of(*steps: tuple[HTTPStatus, Fields] | str | None, over_arc: bool = False) -> Recorder:
    """Return a recorder of one memory that was sent again and again; a text is a session that was forgotten."""
    api, recorder = Api(), Recorder()
    recorder.server_lives = False
    recorder.over_arc = frozenset({ORG} if over_arc else ())

    async def record() -> None:
        session = cast(aiohttp.ClientSession, api)
        for step in steps:
            if isinstance(step, str):
                api.answers = [(HTTPStatus.OK, {})]
                await recorder.forget(session, ORG, session=step)
            else:
                api.answers = [step]
                await recorder.post(session, ORG, [SENT])

    run(record())
    return recorder


@pytest.mark.parametrize("first", [stored(1), known(1), stored(3)], ids=["stored", "known", "answered late"])
def test_a_second_copy_is_doubled_at_once(first: tuple[HTTPStatus, Fields]) -> None:
    """A run that shows one ends there, with its files as they are."""
    recorder = recorder_of(first, stored(2))
    assert [one.kind for one in recorder.violations] == ["doubled"]
    assert not recorder_of(first, known(1)).violations


def test_a_second_copy_beside_an_order_that_only_arc_can_tell_apart_is_none() -> None:
    """Such an order frees the claims of others until Arc has told them apart; the embedded store can."""
    steps = (stored(1), "s1", stored(2))
    assert not recorder_of(*steps, over_arc=True).violations
    assert [one.kind for one in recorder_of(*steps).violations] == ["doubled"]


def test_what_was_stored_without_an_answer_and_then_again_may_count_twice() -> None:
    """No answer has named the first, but where its claim may have been freed, it may be there."""
    assert recorder_of(None, stored(2)).count_of(ORG, "ada") == range(1, 2)
    assert recorder_of(None, "s1", stored(2), over_arc=True).count_of(ORG, "ada") == range(1, 3)
    assert recorder_of(None, "s1", stored(2)).count_of(ORG, "ada") == range(1, 2)
    assert recorder_of("s1", None, stored(2), over_arc=True).count_of(ORG, "ada") == range(1, 2)
    assert recorder_of(stored(1), "s1", None, over_arc=True).count_of(ORG, "ada") == range(1, 3)
    assert recorder_of(None, known(1), "s1", stored(2), over_arc=True).count_of(ORG, "ada") == range(1, 3)
