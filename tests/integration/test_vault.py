import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace_core.errors import SealBroken, VaultError, WrongMasterKey
from memtrace_sqlite import EnvelopeVault, MasterKey

KEY = MasterKey(bytes(range(32)))
OTHER_KEY = MasterKey(bytes(range(1, 33)))
VAULT = EnvelopeVault(KEY)
CONTEXT = "org_a|arc_a|arc_api_key"
SECRET = "arc-secret-0123456789"
SEALED = VAULT.seal(SECRET, CONTEXT)
HEADER = 1 + 8
FORMAT_1 = (
    "AZ1pyMMqgwQzLQzXcabJcT4qXIINZkh0EI+awURD1WixAAXq7Y8LzU5bZKegOrmARwPy/WJs4C6z+0kH"
    "9wkDsYKR4KQbc4eUBEPMM5RfIsKjCl7+DQvcWCpNy5COJULPmszYbNmCuBFHaIbi/gVn"
)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_was_sealed_opens_in_its_context(secret, context):
    """Opening gives back exactly what was sealed, whatever text it and its context are."""
    assert VAULT.open(VAULT.seal(secret, context), context) == secret


def test_a_sealed_value_opens_with_an_equal_key_in_another_vault():
    """The key's bytes decide, not the object, so a restarted server opens what the former one sealed."""
    assert EnvelopeVault(MasterKey(bytes(range(32)))).open(SEALED, CONTEXT) == SECRET


def test_no_flipped_bit_goes_unnoticed():
    """Whichever bit of a sealed value is flipped, it fails as a vault error and gives out nothing."""
    for place in range(len(SEALED) * 8):
        altered = bytearray(SEALED)
        altered[place // 8] ^= 1 << place % 8
        in_key_id = 1 <= place // 8 < HEADER
        with pytest.raises(WrongMasterKey if in_key_id else SealBroken):
            VAULT.open(bytes(altered), CONTEXT)


def test_no_length_of_truncation_opens():
    """A value that is cut short anywhere, down to nothing, is broken."""
    for length in range(len(SEALED)):
        with pytest.raises(SealBroken):
            VAULT.open(SEALED[:length], CONTEXT)


@given(st.binary(min_size=1, max_size=64))
def test_a_value_with_something_appended_does_not_open(tail):
    """Bytes behind a sealed value make it a broken one."""
    with pytest.raises(SealBroken):
        VAULT.open(SEALED + tail, CONTEXT)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_fail_as_vault_errors(noise):
    """Whatever bytes stand where a sealed value should, the error is one of the two that the port names."""
    for sealed in (noise, b"\x01" + noise, SEALED[:HEADER] + noise):
        with pytest.raises((SealBroken, WrongMasterKey)):
            VAULT.open(sealed, CONTEXT)


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda context: context != CONTEXT))
def test_a_value_moved_to_another_context_does_not_open(context):
    """A secret copied into another org's row stays closed."""
    with pytest.raises(SealBroken):
        VAULT.open(SEALED, context)


def test_another_master_key_is_named_as_such():
    """A value sealed under another master key is told from a damaged one."""
    with pytest.raises(WrongMasterKey, match="another master key"):
        EnvelopeVault(OTHER_KEY).open(SEALED, CONTEXT)


def test_a_master_key_of_equal_id_but_other_bytes_does_not_open():
    """Even where the fingerprints collide, the wrapped data key needs the very key."""
    impostor = MasterKey(bytes(range(1, 33)))
    impostor.id = KEY.id
    with pytest.raises(SealBroken):
        EnvelopeVault(impostor).open(SEALED, CONTEXT)


@pytest.mark.parametrize("version", [version for version in range(256) if version != 1])
def test_an_unknown_format_version_is_refused(version):
    """A value of a format that this program does not know is not guessed at."""
    with pytest.raises(SealBroken, match="version"):
        VAULT.open(bytes([version]) + SEALED[1:], CONTEXT)


def test_sealing_twice_gives_two_values_with_nothing_random_in_common():
    """Data keys and nonces are fresh for every secret, so equal secrets do not look equal."""
    values = [VAULT.seal(SECRET, CONTEXT) for _ in range(50)]
    for first, after in ((HEADER, HEADER + 12), (HEADER + 12, HEADER + 60), (HEADER + 60, HEADER + 72)):
        assert len({value[first:after] for value in values}) == 50
    assert {value[:HEADER] for value in values} == {b"\x01" + KEY.id}


def test_the_layout_is_the_documented_one():
    """Version, key id, nonce, wrapped key, nonce and secret have the sizes that older values have on disk."""
    assert len(SEALED) == 1 + 8 + 12 + 48 + 12 + len(SECRET) + 16
    assert SEALED[0] == 1
    assert SEALED[1:9] == KEY.id


def test_a_value_sealed_by_an_earlier_version_opens():
    """The format is frozen: this very value was sealed when format 1 was made."""
    assert VAULT.open(base64.b64decode(FORMAT_1), CONTEXT) == "frozen in 2026"


def test_nothing_of_the_secret_or_the_key_is_in_the_sealed_value():
    """Neither the secret nor the master key can be read off what lies on disk."""
    assert SECRET.encode() not in SEALED
    assert bytes(range(32)) not in SEALED
    assert bytes(range(32)) not in KEY.id * 4


@pytest.mark.parametrize("text", ["", "not base64!", "äöü", "====", "YWJj\nZGVm", "YWJ"])
def test_a_malformed_master_key_is_called_malformed(text):
    """What is not base64 is named as such or, when empty, by its length, and is never shown."""
    with pytest.raises(VaultError) as raised:
        MasterKey.parse(text)
    expected = "master_key_length" if text == "" else "master_key_malformed"
    assert raised.value.code == expected
    assert text == "" or text not in str(raised.value)


@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 64])
def test_a_master_key_of_the_wrong_length_says_both_lengths(length):
    """Base64 of anything but 32 bytes is refused with the length found and the length wanted."""
    with pytest.raises(VaultError, match=f"the master key is {length} bytes long, not 32") as raised:
        MasterKey.parse(base64.b64encode(bytes(length)).decode())
    assert raised.value.code == "master_key_length"


def test_white_space_around_a_master_key_does_not_matter():
    """A key read from a file keeps its trailing newline and is good all the same."""
    text = MasterKey.generate()
    assert MasterKey.parse(f"  {text}\r\n").id == MasterKey.parse(text).id


def test_generated_master_keys_are_good_and_differ():
    """Every generated key parses, and no two are alike."""
    keys = {MasterKey.generate() for _ in range(50)}
    assert len({MasterKey.parse(key).id for key in keys}) == 50
    assert all(len(base64.b64decode(key, validate=True)) == 32 for key in keys)


@settings(max_examples=15)
@given(st.binary(min_size=32, max_size=32))
def test_a_key_id_tells_nothing_but_which_key_it_is(key):
    """Equal keys have equal ids of eight bytes that hold no stretch of the key itself."""
    identity = MasterKey(key).id
    assert identity == MasterKey(key).id
    assert len(identity) == 8
    assert identity not in key
