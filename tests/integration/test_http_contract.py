"""Whether the app keeps what its OpenAPI document says, asked by Schemathesis with all its checks.

Two of them are idle: `max_response_time`, for speed is measured elsewhere, and `object_level_authorization`, which
wants a second tenant: test_http_isolation.py compares whole worlds for that.
"""

import asyncio
import re
from collections import Counter
from datetime import UTC

import pytest
import schemathesis
from builders import ORG, bound, embedded_instance, in_memory
from hypothesis import strategies as st
from schemathesis.engine import events, from_schema
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

from memtrace_core.model import Permission
from memtrace_core.query import Position, encode_cursor
from memtrace_http import create_app

TIMES = st.datetimes(timezones=st.just(UTC))
SOME_ID = "sess_" + "0" * 24
# The formats that are ours. A cursor that was given out leads back in time, which is the default order.
schemathesis.openapi.format("time-bound", st.from_regex(r"[1-9][0-9]?[mhdw]", fullmatch=True) | TIMES.map(str))
schemathesis.openapi.format("cursor", TIMES.map(lambda time: encode_cursor(Position(time, SOME_ID), "desc")))

# What JSON Schema cannot say, so that the server may refuse what fits the schema.
UNSAID = re.compile(
    "cursor belongs to a page in the other order|cursor and offset cannot be combined|"  # two values together
    "at most 64 filter values in all|"  # all values together
    "at most 256 KiB|nested at most 64 levels|to 1 MiB|"  # a size in bytes, a depth
    "expected whole number, got number|"  # JSON Schema takes 5.0 for a whole number
    "printable characters"  # Schemathesis knows Unicode's classes only roughly, and draws unassigned characters
)

# `coverage` sends every value at the edge of its rule, and each rule broken by itself: a thousand requests.
# `stateful` follows ids from the answers that made them, and looks for what was deleted, by luck: hence the seeds.
LONG = pytest.mark.timeout(600)
EVERYTHING = ("coverage", "fuzzing", "stateful")
EFFORTS = [
    {"examples": 40, "phases": phases, "seed": seed}
    for seed, phases in enumerate([EVERYTHING, ["stateful"], ["stateful"], ["stateful"]], 1)
]


def loaded(examples, phases, seed):
    """Return the app's document, ready to be held against the app."""
    services = in_memory()

    async def admin_key():
        await bound(services, embedded_instance(ORG))
        _, secret = await services.tenants.create_key(ORG, "admin", Permission.ADMIN)
        return secret

    known = ("examples", "coverage", "fuzzing", "stateful")
    settings = {
        "seed": seed,
        "headers": {"x-api-key": asyncio.run(admin_key())},
        "generation": {"max-examples": examples, "no-shrink": True},
        # It would draw texts from our source, without regard to formats.
        "analysis": {"constants": {"enabled": False}},
        "phases": {phase: {"enabled": phase in phases} for phase in known},
    }
    settings["phases"]["coverage"]["generate-duplicate-query-parameters"] = True
    config = schemathesis.Config.from_dict(settings)
    schema = schemathesis.openapi.from_asgi("/schema/openapi.json", create_app(services), config=config)

    @schema.hook
    def filter_failure(context, failure, case, response):
        unsaid = isinstance(failure, RejectedPositiveData) and UNSAID.search(response.text)
        # An agent that is deleted leaves its memories, and they count.
        left_behind = isinstance(failure, UseAfterFree) and case.path.endswith(("/memories", "/stats"))
        return not unsaid and not left_behind

    return schema


@pytest.mark.slow
@LONG
@pytest.mark.parametrize("effort", EFFORTS, ids=lambda effort: f"{effort['examples']} by seed {effort['seed']}")
def test_the_app_does_what_its_document_says(effort):
    """Whatever fits the document is taken, whatever does not is refused, and every answer is as described."""
    failures, statuses = [], Counter()
    for event in from_schema(loaded(**effort)).execute():
        assert not isinstance(event, events.NonFatalError | events.FatalError), event
        if isinstance(event, events.ScenarioFinished):
            recorder = event.recorder
            statuses.update(one.response.status_code for one in recorder.interactions.values())
            for case, checks in recorder.checks.items():
                answer = recorder.interactions[case].response
                failures += [
                    f"{one.name}: {one.failure_info.code_sample}\n{answer.status_code} {answer.text}"
                    for one in checks
                    if one.failure_info is not None
                ]
    assert not failures, "\n\n".join(failures)
    # Otherwise nothing was asked.
    assert {200, 201, 400, 401, 404} <= statuses.keys()
