import hashlib
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace_core.dedup import DedupPolicy, generated_key

VECTORS = msgspec.json.decode((Path(__file__).parent / "dedup-vectors.json").read_bytes())


def test_there_are_vectors_to_test_against():
    """The file of vectors was read and is not empty."""
    assert len(VECTORS) >= 11


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["dedup_key"])
def test_a_generated_key_equals_the_published_vector(vector):
    """A generated key is the one that every other implementation of the rule makes."""
    assert generated_key(vector["agent_id"], vector["event_type"], vector["content"]) == vector["dedup_key"]


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_generated_key_is_the_hash_of_the_first_200_bytes(content):
    """The content counts with its first 200 bytes of UTF-8, even where that cuts a character."""
    plain = b"ada|general|" + content.encode()[:200]
    assert generated_key("ada", "general", content) == hashlib.sha256(plain).hexdigest()[:32]


def test_content_beyond_200_bytes_does_not_change_the_key():
    """Two contents that differ only after byte 200 have one key."""
    assert generated_key("a", "e", "x" * 200 + "1") == generated_key("a", "e", "x" * 200 + "2")


def test_the_200th_byte_changes_the_key():
    """Two contents that differ in byte 200 have two keys."""
    assert generated_key("a", "e", "x" * 199 + "1") != generated_key("a", "e", "x" * 199 + "2")


@pytest.mark.parametrize("enabled", [True, False])
def test_a_key_given_by_the_caller_is_used_as_it_is(enabled):
    """A caller's own key is stored unchanged, whether dedup is on or off."""
    assert DedupPolicy(enabled=enabled).key_for("ada", "general", "text", "my key") == "my key"


def test_a_key_is_generated_while_dedup_is_on():
    """Without a key of the caller's the generated one is stored."""
    assert DedupPolicy().key_for("ada", "general", "text", None) == generated_key("ada", "general", "text")


def test_no_key_is_generated_while_dedup_is_off():
    """Without a key of the caller's none is stored when dedup is off."""
    assert DedupPolicy(enabled=False).key_for("ada", "general", "text", None) is None


def test_dedup_is_on_for_a_day_by_default():
    """The default policy compares memories over 24 hours."""
    assert DedupPolicy() == DedupPolicy(enabled=True, window=timedelta(hours=24))
