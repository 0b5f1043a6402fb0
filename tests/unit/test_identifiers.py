import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace_core import identifiers

TIMES = st.integers(0, (1 << 56) - 1)
NODES = st.text("0123456789abcdef", min_size=6, max_size=6)
SALTS = st.text("0123456789abcdef", min_size=4, max_size=4)


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (identifiers.new_org_id, r"org_[0-9a-f]{24}"),
        (identifiers.new_agent_id, r"agent_[0-9a-f]{24}"),
        (identifiers.new_session_id, r"sess_[0-9a-f]{24}"),
        (identifiers.new_instance_id, r"arc_[0-9a-f]{24}"),
        (identifiers.new_key_id, r"key_[0-9a-f]{12}"),
        (identifiers.new_node_id, r"[0-9a-f]{6}"),
    ],
)
def test_a_new_id_has_its_published_form(make, form):
    """Every kind of id is its prefix and a fixed number of hex digits."""
    assert re.fullmatch(form, make())


@pytest.mark.parametrize(
    "make",
    [
        identifiers.new_org_id,
        identifiers.new_agent_id,
        identifiers.new_session_id,
        identifiers.new_instance_id,
        identifiers.new_key_id,
        identifiers.new_api_key,
    ],
)
def test_new_ids_differ(make):
    """No two ids of a kind are alike."""
    assert len({make() for _ in range(100)}) == 100


def test_an_api_key_is_32_random_bytes_behind_its_prefix():
    """An API key is `mtk_` and the base64url of 32 bytes, without padding."""
    key = identifiers.new_api_key()
    assert key.startswith("mtk_")
    assert len(base64.urlsafe_b64decode(key.removeprefix("mtk_") + "=")) == 32


def test_an_api_key_is_found_by_its_sha_256():
    """The digest of a key is the SHA-256 of all of it, prefix included."""
    assert identifiers.api_key_digest("mtk_abc") == hashlib.sha256(b"mtk_abc").digest()


def test_a_digest_is_made_of_any_text_a_caller_sends():
    """A key that is not valid Unicode has a digest too, and so is merely unknown."""
    assert len(identifiers.api_key_digest("mtk_\ud800")) == 32


@given(TIMES, NODES, SALTS)
def test_a_memory_id_tells_its_time_and_node(time_us, node, salt):
    """What went into a memory's id comes out again."""
    assert identifiers.parse_memory_id(identifiers.memory_id(time_us, node, salt)) == (time_us, node)


@given(TIMES, TIMES, NODES, NODES, SALTS, SALTS)
def test_memory_ids_sort_by_time(first, second, one_node, other_node, one_salt, other_salt):
    """Of two memories the id of the earlier one is the lesser text, whichever node wrote it."""
    if first == second:
        second = (first + 1) % (1 << 56)
    one = identifiers.memory_id(first, one_node, one_salt)
    other = identifiers.memory_id(second, other_node, other_salt)
    assert (one < other) == (first < second)


def test_a_memory_id_has_24_hex_digits():
    """A memory's id is 14 digits of time, 6 of the node, 4 of salt."""
    assert identifiers.memory_id(0x1234, "0a0b0c", "beef") == "mem_000000000012340a0b0cbeef"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mem_",
        "mem_000000000012340a0b0cbee",
        "mem_000000000012340a0b0cbeef0",
        "mem_000000000012340A0B0CBEEF",
        "MEM_000000000012340a0b0cbeef",
        "xmem_000000000012340a0b0cbeef",
        "mem_000000000012340a0b0cbeef\n",
        "mem_00000000001234٠a0b0cbeef",
    ],
)
def test_another_text_is_no_memory_id(text):
    """What is not exactly of the form tells nothing."""
    assert identifiers.parse_memory_id(text) is None
