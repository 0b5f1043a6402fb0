"""The vault with master keys of former times, and where they come from."""

import asyncio
import base64

import pytest
from builders import ORG, instance, org

from memtrace_cli.secrets import vault
from memtrace_cli.settings import SettingsError
from memtrace_core.errors import SealBroken, WrongMasterKey
from memtrace_core.resealing import Resealing, SealedUnder
from memtrace_sqlite import EnvelopeVault, MasterKey, SqliteMetadataRepo

RAW = [bytes(range(number, number + 32)) for number in (0, 50, 100)]
KEYS = [MasterKey(raw) for raw in RAW]
TEXTS = [base64.b64encode(raw).decode() for raw in RAW]
CONTEXT = "org_a|arc_a|arc_api_key"
SECRET = "arc-secret-0123456789"


def ids(*keys):
    """Return the ids of master keys as they are shown."""
    return [key.id.hex() for key in keys]


def test_a_previous_key_opens_and_never_seals():
    """What any former key sealed opens, and what is sealed now opens with the current key alone."""
    held = EnvelopeVault(KEYS[0], KEYS[1:])
    for key in KEYS:
        assert held.open(EnvelopeVault(key).seal(SECRET, CONTEXT), CONTEXT) == SECRET
    assert EnvelopeVault(KEYS[0]).open(held.seal(SECRET, CONTEXT), CONTEXT) == SECRET


def test_a_key_that_is_not_at_hand_is_named_as_another_one():
    """A value under a key that is neither current nor previous is told from a damaged one."""
    with pytest.raises(WrongMasterKey, match="another master key"):
        EnvelopeVault(KEYS[0], [KEYS[1]]).open(EnvelopeVault(KEYS[2]).seal(SECRET, CONTEXT), CONTEXT)


def test_a_value_that_claims_another_key_at_hand_is_broken():
    """The key's id is sealed in: a value does not open under the id of another key, though both are at hand."""
    sealed = EnvelopeVault(KEYS[1]).seal(SECRET, CONTEXT)
    for vaults in ((KEYS[0], [KEYS[1]]), (KEYS[1], [KEYS[0]])):
        with pytest.raises(SealBroken):
            EnvelopeVault(*vaults).open(sealed[:1] + KEYS[0].id + sealed[9:], CONTEXT)


def test_no_flipped_bit_of_a_value_under_a_previous_key_goes_unnoticed():
    """A value that waits to be resealed is as tamper-evident as any other."""
    held = EnvelopeVault(KEYS[0], KEYS[1:])
    sealed = EnvelopeVault(KEYS[1]).seal(SECRET, CONTEXT)
    for place in range(len(sealed) * 8):
        altered = bytearray(sealed)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises((SealBroken, WrongMasterKey)):
            held.open(bytes(altered), CONTEXT)


def test_the_ids_begin_with_the_key_that_seals():
    """Each key is listed once, the current one first, also when it is named among the previous ones."""
    assert EnvelopeVault(KEYS[0], KEYS[1:]).key_ids() == ids(*KEYS)
    assert EnvelopeVault(KEYS[1], KEYS).key_ids() == ids(KEYS[1], KEYS[0], KEYS[2])
    assert EnvelopeVault(KEYS[0]).key_ids() == ids(KEYS[0])


@pytest.mark.parametrize(
    ("text", "previous"),
    [
        ("", []),
        (" \n", []),
        (TEXTS[1], [1]),
        (f"{TEXTS[1]},{TEXTS[2]}", [1, 2]),
        (f" {TEXTS[2]} ,\n{TEXTS[1]}\r\n,,", [2, 1]),
        (TEXTS[0], []),
    ],
    ids=["none", "white space", "one", "two", "two, untidy", "the current one"],
)
@pytest.mark.parametrize("in_file", [False, True], ids=["variable", "file"])
def test_previous_keys_come_from_a_variable_or_a_file(tmp_path, text, previous, in_file):
    """Any number of keys, with commas or line breaks between them, in the variable or in the file that it names."""
    given = {"MEMTRACE_MASTER_KEY_PREVIOUS": text}
    if in_file:
        file = tmp_path / "previous"
        file.write_bytes(text.encode())
        given = {"MEMTRACE_MASTER_KEY_PREVIOUS_FILE": str(file)}
    held = vault({"MEMTRACE_MASTER_KEY": TEXTS[0], **given})
    assert held.key_ids() == ids(KEYS[0], *(KEYS[number] for number in previous))


@pytest.mark.parametrize("bad", ["not base64!", base64.b64encode(b"short").decode(), TEXTS[2][:-4]])
@pytest.mark.parametrize("in_file", [False, True], ids=["variable", "file"])
def test_a_bad_previous_key_is_named_by_its_variable_and_not_shown(tmp_path, bad, in_file):
    """One bad key among good ones is an error in one line, which holds neither it nor the others."""
    name, text = "MEMTRACE_MASTER_KEY_PREVIOUS", f"{TEXTS[1]},{bad}"
    if in_file:
        name = "MEMTRACE_MASTER_KEY_PREVIOUS_FILE"
        (tmp_path / "previous").write_text(text)
        text = str(tmp_path / "previous")
    with pytest.raises(SettingsError) as raised:
        vault({"MEMTRACE_MASTER_KEY": TEXTS[0], name: text})
    said = f"{raised.value} {raised.value.hint}"
    assert said.startswith(f"{name}: the master key is ")
    assert "\n" not in said
    assert not any(secret in said for secret in (*TEXTS, bad))


def test_two_places_for_previous_keys_are_one_too_many(tmp_path):
    """When both variables are set nobody knows which one is meant."""
    environ = {
        "MEMTRACE_MASTER_KEY": TEXTS[0],
        "MEMTRACE_MASTER_KEY_PREVIOUS": TEXTS[1],
        "MEMTRACE_MASTER_KEY_PREVIOUS_FILE": str(tmp_path / "key"),
    }
    with pytest.raises(SettingsError, match="PREVIOUS and MEMTRACE_MASTER_KEY_PREVIOUS_FILE are set; set one"):
        vault(environ)


def test_a_previous_key_is_no_substitute_for_the_current_one():
    """Without a current key nothing could be sealed, so there is no vault."""
    with pytest.raises(SettingsError, match="MEMTRACE_MASTER_KEY is not set"):
        vault({"MEMTRACE_MASTER_KEY_PREVIOUS": TEXTS[1]})


def resealing(path, *keys):
    """Return a function that runs a question to `Resealing` on a metadata file, with master keys."""
    held = EnvelopeVault(keys[0], keys[1:])

    def ask(question):
        async def body():
            repo = SqliteMetadataRepo(path, held)
            try:
                return await question(Resealing(repo, held), repo)
            finally:
                await repo.close()

        return asyncio.run(body())

    return ask


def sealed_instance(number, key):
    """Return an instance whose key is sealed with a master key."""
    plain = instance(f"{ORG}_{number}", id=f"arc_{number}")
    return instance(
        plain.org_id, id=plain.id, sealed_api_key=EnvelopeVault(key).seal(f"{SECRET}{number}", plain.key_context)
    )


async def bind(repo, *ones):
    """Store instances with their orgs."""
    for one in ones:
        await repo.create_org(org(one.org_id))
        await repo.bind_instance(one)


def test_rewrapping_brings_every_secret_and_the_check_under_the_current_key(tmp_path):
    """Secrets under two former keys and the check of the master key are sealed anew, once; no others."""
    path = tmp_path / "memtrace.db"

    async def begin(_, repo):
        await bind(repo, *(sealed_instance(number, KEYS[2 - number]) for number in range(3)))

    resealing(path, KEYS[1])(begin)

    async def rewrap(service, repo):
        before = await service.status()
        kept = (await repo.get_instance(f"{ORG}_2", "arc_2")).sealed_api_key
        numbers = [await service.rewrap(), await service.rewrap()]
        assert (await repo.get_instance(f"{ORG}_2", "arc_2")).sealed_api_key == kept
        return before, numbers, await service.status()

    before, numbers, after = resealing(path, *KEYS)(rewrap)
    assert [(one.standing, one.secrets) for one in before] == [("current", 1), ("previous", 2), ("previous", 1)]
    assert numbers == [3, 0]
    assert [(one.standing, one.secrets) for one in after] == [("current", 4), ("previous", 0), ("previous", 0)]

    async def open_all(_, repo):
        held = EnvelopeVault(KEYS[0])
        return [held.open(one.sealed_api_key, one.key_context) for one in await repo.list_instances()]

    assert resealing(path, KEYS[0])(open_all) == [f"{SECRET}{number}" for number in range(3)]
    for former in KEYS[1:]:
        with pytest.raises(WrongMasterKey):
            SqliteMetadataRepo(path, EnvelopeVault(former))


def test_a_secret_under_an_unknown_key_is_told_and_stops_a_rewrap(tmp_path):
    """The status tells that there is a key that is not at hand; a rewrap is refused and changes nothing."""
    path = tmp_path / "memtrace.db"

    async def begin(_, repo):
        await bind(repo, sealed_instance(0, KEYS[1]), sealed_instance(1, KEYS[2]))

    resealing(path, KEYS[1])(begin)

    async def use(service, repo):
        before = await repo.sealed_secrets()
        assert await service.status() == [
            SealedUnder(key_id=KEYS[0].id.hex(), standing="current", secrets=0),
            SealedUnder(key_id=KEYS[1].id.hex(), standing="previous", secrets=2),
            SealedUnder(key_id=KEYS[2].id.hex(), standing="unknown", secrets=1),
        ]
        with pytest.raises(WrongMasterKey):
            await service.rewrap()
        assert await repo.sealed_secrets() == before

    resealing(path, KEYS[0], KEYS[1])(use)


def test_nothing_of_a_secret_is_on_disk_while_it_is_resealed(tmp_path):
    """Neither the database nor its -wal and -shm files hold a secret or a key in the clear, before or after."""
    path = tmp_path / "memtrace.db"

    async def begin(_, repo):
        await bind(repo, sealed_instance(0, KEYS[1]))

    resealing(path, KEYS[1])(begin)

    async def rewrap(service, repo):
        await service.rewrap()
        return b"".join(file.read_bytes() for file in sorted(tmp_path.iterdir()))

    seen = resealing(path, KEYS[0], KEYS[1])(rewrap)
    assert b"arc_0" in seen
    for plain in (SECRET.encode(), *RAW, *(text.encode() for text in TEXTS)):
        assert plain not in seen
