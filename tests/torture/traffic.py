"""What the clients of one org do: post, repeat themselves, race each other, forget, look back, and follow."""

from __future__ import annotations

import asyncio
from random import Random

import aiohttp

from torture.contents import SESSIONS, Pen
from torture.history import Fields
from torture.reading import Follower, Reader
from torture.recorder import Recorder

MOST_REQUESTS = 12
PACE_SECONDS = 0.05


async def write(
    reader: Reader, pen: Pen, rng: Random, recorder: Recorder, stop: asyncio.Event, *, forgetting: bool
) -> None:
    """Post as one client, one request after the other, until there is no answer or it is time to stop.

    One that is `forgetting` gives orders to forget in between.
    """
    org = reader.org
    acts = {_single: 45, _batch: 15, _race: 20, _repeat: 15, _look_back: 5}
    if forgetting:
        acts |= {_forget_one: 10, _forget_broadly: 2}
    for _ in range(MOST_REQUESTS):
        (act,) = rng.choices(list(acts), list(acts.values()))
        if stop.is_set() or not await act(reader.api, org, pen, rng, recorder):
            return
        if rng.random() < 0.1 and recorder.acknowledged[org]:
            await same_as_before(reader, recorder.acknowledged[org][-1])


async def follow(reader: Reader, follower: Follower, stop: asyncio.Event) -> None:
    """Follow one org until it is time to stop."""
    while not stop.is_set():
        if not await follower.look(reader):
            await asyncio.sleep(PACE_SECONDS)


async def same_as_before(reader: Reader, memory: Fields) -> bool:
    """Read an acknowledged memory by its id; false if there was no answer to judge."""
    found = await reader.get(f"/api/v1/memories/{memory['memory_id']}", of=memory)
    if found is not None and found != memory:
        reader.recorder.violated("altered", reader.org, f"{found} was {memory} when it was acknowledged")
    return found is not None or reader.recorder.may_be_gone(memory)


async def _single(api: aiohttp.ClientSession, org: str, pen: Pen, rng: Random, recorder: Recorder) -> bool:
    return await recorder.post(api, org, [pen.memory()])


async def _batch(api: aiohttp.ClientSession, org: str, pen: Pen, rng: Random, recorder: Recorder) -> bool:
    """Post a batch that may hold twins, and memories that were acknowledged before."""
    members = [pen.memory() for _ in range(rng.randint(2, 10))]
    if rng.random() < 0.5:
        members.insert(rng.randint(0, len(members)), pen.twin(rng.choice(members)))
    if rng.random() < 0.3 and recorder.acknowledged[org]:
        members.insert(rng.randint(0, len(members)), as_sent_again(rng.choice(recorder.acknowledged[org])))
    return await recorder.post(api, org, members)


async def _race(api: aiohttp.ClientSession, org: str, pen: Pen, rng: Random, recorder: Recorder) -> bool:
    """Post the same memory several times at once, as several clients would."""
    memory = pen.memory()
    racers = [pen.twin(memory) if rng.random() < 0.3 else memory for _ in range(rng.randint(2, 4))]
    return all(await asyncio.gather(*(recorder.post(api, org, [one]) for one in racers)))


async def _repeat(api: aiohttp.ClientSession, org: str, pen: Pen, rng: Random, recorder: Recorder) -> bool:
    """Post what was acknowledged at any time before."""
    known = recorder.acknowledged[org]
    return await recorder.post(api, org, [as_sent_again(rng.choice(known)) if known else pen.memory()])


async def _look_back(api: aiohttp.ClientSession, org: str, pen: Pen, rng: Random, recorder: Recorder) -> bool:
    """Post under a caller's key that was used before, with another content."""
    keyed = [memory for memory in recorder.acknowledged[org][-200:] if memory["dedup_key"].startswith("key ")]
    return await recorder.post(api, org, [pen.twin(rng.choice(keyed)) if keyed else pen.memory()])


async def _forget_one(api: aiohttp.ClientSession, org: str, pen: Pen, rng: Random, recorder: Recorder) -> bool:
    """Forget what was stored lately or long ago, and often store the same again at once."""
    known = recorder.acknowledged[org]
    if not known:
        return await _single(api, org, pen, rng, recorder)
    memory = rng.choice(known[-20:] if rng.random() < 0.5 else known)
    if not await recorder.forget(api, org, memory_id=memory["memory_id"]):
        return False
    return rng.random() < 0.5 or await recorder.post(api, org, [as_sent_again(memory)])


async def _forget_broadly(api: aiohttp.ClientSession, org: str, pen: Pen, rng: Random, recorder: Recorder) -> bool:
    """Forget all of an agent or of a session, whoever writes there meanwhile."""
    known = recorder.acknowledged[org]
    if not known:
        return await _single(api, org, pen, rng, recorder)
    if rng.random() < 0.3:
        return await recorder.forget(api, org, session=rng.choice(SESSIONS))
    return await recorder.forget(api, org, agent=rng.choice(known[-300:])["agent_id"])


def as_sent_again(memory: Fields) -> Fields:
    """Return the body of a post that stored a memory: at least what dedup looks at."""
    wanted = ["agent_id", "content", "event_type"]
    if memory["dedup_key"].startswith("key "):
        wanted.append("dedup_key")
    return {name: memory[name] for name in wanted}
