"""Text made to be taken for SQL: no value means anything to Arc but itself."""

from datetime import timedelta

import msgspec
import pytest
from arc_double import RELEASED
from builders import ORG, OTHER_ORG, START, memory, run
from contracts.implementations import gateway_to_arc, shared_arc
from integration.arc_versions import EVERY_VERSION

from memtrace_core.dedup import DedupPolicy
from memtrace_core.model import AgentCounts
from memtrace_core.query import AgentCountQuery, MemoryQuery
from memtrace_core.testing import ManualClock

EVERYTHING = MemoryQuery(org_id=ORG, limit=1000)
# Within an hour a query is one statement; over all of time it is one for each step back.
IN_THE_HOUR = msgspec.structs.replace(EVERYTHING, since=START, until=START + timedelta(hours=1))
TEXTS = [
    "'; DROP TABLE events; --",
    "' OR 1=1 -- ",
    "' OR '1'='1",
    'it\'s "quoted" `thrice`',
    "ends in a backslash\\",
    "\\' OR 1=1 -- \\",
    "100%",
    "_under_",
    "-- a comment",
    "/* a comment */ ' /*",
    "select set reset load call copy attach install pragma",
    "DELETE FROM events WHERE true",
    "insert into x; update y set z",
    "read_parquet('/etc/passwd')",
    "READ_PARQUET",
    "__STR_0__",
    "__STR_1__",
    "' __STR_2__ '__BODY_FROM__",
    "$$ dollar $$ {{brace}} %s {0} ?1 :name",
    "FROM events JOIN other LEFT JOIN third",
    "time >= '2030-01-01' AND time < '2031-01-01'",
    "time BETWEEN '1999-01-01' AND '1999-01-02'",
    "decode(unhex('41'))",
    "hash # semicolon; tab\t newline\n return\r bell\x07 escape\x1b delete\x7f",
    "\x01\x02\x1f field separators \x1c\x1d\x1e",
    "\u2028\u2029\u200b\ufeff\u202e bidi",
    "emoji 🙂👩‍👩‍👧‍👦 日本語 ẞß Σσς İi",
    "é combining and é composed",
    "\U0010ffff\ue000\uffff",
    '&lt;script&gt;<b>"json": [null, {"a": "\\u0000"}]',
    " ",
    "'",
    "\\",
    "%",
    "_",
    '"',
]
MEBIBYTE = 1 << 20
every_version = pytest.mark.parametrize("version", EVERY_VERSION)


def opened(version):
    """Open a gateway to an Arc of a version, to a database of its own."""
    return gateway_to_arc(version, None, ManualClock(START + timedelta(hours=1)), DedupPolicy(enabled=False))


def numbered(**changes):
    """Return a memory for each hostile text, a second apart."""
    return [
        memory(START + number * timedelta(seconds=1), salt=number, content=f"x{text}y", **changes)
        for number, text in enumerate(TEXTS)
    ]


def said(arc, one):
    """Return the statements that were sent about an instance's database."""
    return [each.sql for each in arc.queries if each.database == one.database]


@every_version
def test_hostile_contents_come_back_and_are_found(version):
    """Each text is returned byte for byte, and a search for it finds just the contents that hold it."""

    async def body():
        async with opened(version) as held:
            one, kept = held.instance_of(ORG), numbered()
            await held.gateway.write(one, kept)
            assert await held.gateway.query(one, msgspec.structs.replace(EVERYTHING, order="asc")) == kept
            for text in TEXTS:
                asked = msgspec.structs.replace(IN_THE_HOUR, content_contains=text)
                found = await held.gateway.query(one, asked)
                assert found == asked.page(kept), text
                assert found

    run(body())


def test_hostile_text_never_stands_in_a_statement():
    """Whatever a value says, and wherever it is given, Arc is sent nothing of it but hex digits, of any version."""
    version = RELEASED[-1]

    async def body():
        async with opened(version) as held:
            one, arc = held.instance_of(ORG), shared_arc(version)
            # A text that is short may stand in a statement by chance.
            texts = [text for text in TEXTS if len(text) >= 8]
            kept = [memory(START, salt=mark, content=text) for mark, text in enumerate(texts)]
            assert await held.gateway.write(one, kept) is False
            for text in texts:
                before = len(said(arc, one))
                for changes in (
                    {"content_contains": text},
                    {"agent_ids": (text,)},
                    {"session_ids": (text, "s")},
                    {"tags": (text,)},
                    {"dedup_key": text},
                    {"memory_types": (text,)},
                    {"event_types": (text,)},
                    {"memory_id": text},
                ):
                    await held.gateway.query(one, msgspec.structs.replace(IN_THE_HOUR, **changes))
                count = AgentCountQuery(org_id=ORG, agent_id=text, recent_since=START)
                assert await held.gateway.count(one, count) == AgentCounts()
                sent = said(arc, one)[before:]
                assert len(sent) >= 9
                assert not [sql for sql in sent if text.lower() in sql.lower()], text

    run(body())


@every_version
def test_hostile_values_find_only_themselves(version):
    """An agent, session, tag, key or event that spells SQL filters like any other, alone and in pairs."""

    async def body():
        async with opened(version) as held:
            one = held.instance_of(ORG)
            texts = [text for text in TEXTS if "," not in text]
            kept = [
                memory(
                    START + number * timedelta(seconds=1),
                    salt=number,
                    agent_id=text,
                    session_id=text,
                    event_type=text,
                    tags=(text, "plain"),
                    dedup_key=text,
                    parent_id=text,
                    metadata={text: text},
                )
                for number, text in enumerate(texts)
            ]
            await held.gateway.write(one, kept)
            for number, text in enumerate(texts):
                other = texts[(number + 1) % len(texts)]
                for changes in (
                    {"agent_ids": (text,), "content_contains": "something"},
                    {"session_ids": (text,), "tags": ("plain", text)},
                    {"event_types": (text,), "dedup_key": text},
                    {"agent_ids": (text, other), "session_ids": (text,)},
                ):
                    found = await held.gateway.query(one, msgspec.structs.replace(IN_THE_HOUR, **changes))
                    assert found == [kept[number]], text
                count = AgentCountQuery(org_id=ORG, agent_id=text, recent_since=START)
                assert (await held.gateway.count(one, count)).total == 1

    run(body())


@every_version
def test_the_known_injection_finds_nothing(version):
    """The pair of literals by which one becomes the other's text opens no other tenant's rows."""

    async def body():
        async with opened(version) as held:
            one = held.instance_of(ORG)
            await held.gateway.write(one, numbered(org_id=OTHER_ORG, agent_id="secret"))
            for number in range(8):
                for text in (" OR 1=1 -- ", "' OR 1=1 -- "):
                    asked = msgspec.structs.replace(
                        EVERYTHING, content_contains=f"__STR_{number}__", agent_ids=(text,), dedup_key=text
                    )
                    assert await held.gateway.query(one, asked) == []

    run(body())


@every_version
def test_a_mebibyte_of_hostile_text_comes_back(version):
    """The greatest content, made of what Arc mistakes, is kept byte for byte and found by its end."""

    async def body():
        async with opened(version) as held:
            one = held.instance_of(ORG)
            unit = "'; DROP TABLE x; -- __STR_1__ read_parquet \\ 🙂%_/*"
            whole = (unit * (1 + MEBIBYTE // len(unit))).encode()
            content = whole[: MEBIBYTE - 16].decode(errors="ignore") + "\\the end\\"
            assert MEBIBYTE - 16 < len(content.encode()) <= MEBIBYTE
            kept = memory(START, content=content)
            await held.gateway.write(one, [kept])
            asked = msgspec.structs.replace(EVERYTHING, content_contains="\\THE END\\")
            assert await held.gateway.query(one, asked) == [kept]

    run(body())
