from functools import cache
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from memtrace_sqlite import MasterKey, vault

FOLDER = Path(cryptography_vectors.__file__).parent / "ciphers" / "AES" / "GCM"


@cache
def vectors(name):
    """Return a file's cases that have the IV and the tag of our size, as dicts of bytes; `FAIL` marks a bad tag."""
    found, sizes = [], {}
    for paragraph in (FOLDER / name).read_text().split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line and not line.startswith("#")]
        if lines and lines[0].startswith("["):
            sizes = dict(line.strip("[]").split(" = ") for line in lines)
        elif lines and sizes.get("IVlen") == "96" and sizes.get("Taglen") == "128":
            case = dict((line + " = ").split(" = ")[:2] for line in lines)
            found.append({key: bytes.fromhex(value) for key, value in case.items() if key not in ("Count", "FAIL")})
            if "FAIL" in case:
                found[-1]["FAIL"] = b""
    return found


def test_the_vault_uses_the_primitive_that_is_checked_here():
    """The vault's cipher is this module's AESGCM, so the published vectors speak for it."""
    assert vault.AESGCM is AESGCM
    assert isinstance(MasterKey(bytes(32)).cipher, AESGCM)


def test_the_published_files_are_read_in_full():
    """Every case of our IV and tag size is found, the failing ones among them."""
    assert len(vectors("gcmEncryptExtIV256.rsp")) == 375
    decrypting = vectors("gcmDecrypt256.rsp")
    assert len(decrypting) == 375
    assert 100 < sum("FAIL" in case for case in decrypting) < 300


def test_encrypting_gives_the_published_ciphertexts_and_tags():
    """Every published AES-256-GCM encryption of our sizes comes out byte for byte."""
    for case in vectors("gcmEncryptExtIV256.rsp"):
        assert AESGCM(case["Key"]).encrypt(case["IV"], case["PT"], case["AAD"]) == case["CT"] + case["Tag"]


def test_decrypting_gives_the_published_texts():
    """Every published decryption that is to succeed does, byte for byte."""
    good = [case for case in vectors("gcmDecrypt256.rsp") if "FAIL" not in case]
    for case in good:
        assert AESGCM(case["Key"]).decrypt(case["IV"], case["CT"] + case["Tag"], case["AAD"]) == case["PT"]


def test_every_published_bad_tag_is_refused():
    """Every published decryption that is to fail does."""
    bad = [case for case in vectors("gcmDecrypt256.rsp") if "FAIL" in case]
    for case in bad:
        with pytest.raises(InvalidTag):
            AESGCM(case["Key"]).decrypt(case["IV"], case["CT"] + case["Tag"], case["AAD"])
