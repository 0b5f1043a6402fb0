import pytest
from builders import run

from memtrace_core.errors import SealBroken

CONTEXT = "org_a|arc_1|arc_api_key"


def with_vault(open_it, use):
    """Call `use` with a vault that is open."""

    async def body():
        async with open_it() as held:
            use(held.vault)

    run(body())


@pytest.mark.parametrize(
    "secret", ["k", "arc-secret", "x" * 10_000, "日本語", "a\0b", ""], ids=lambda one: ascii(one[:9])
)
def test_a_sealed_secret_opens_in_its_context(vault_harness, secret):
    """What was sealed comes out again, whatever its characters."""
    with_vault(vault_harness, lambda vault: _opens(vault, secret))


def _opens(vault, secret):
    assert vault.open(vault.seal(secret, CONTEXT), CONTEXT) == secret


@pytest.mark.parametrize(
    "other", ["", "org_b|arc_1|arc_api_key", "org_a|arc_2|arc_api_key", CONTEXT + " ", CONTEXT[:-1]]
)
def test_a_value_that_was_moved_does_not_open(vault_harness, other):
    """In any other context a sealed value is broken, also where one context begins like the other."""

    def use(vault):
        sealed = vault.seal("secret", CONTEXT)
        with pytest.raises(SealBroken) as caught:
            vault.open(sealed, other)
        assert "secret" not in str(caught.value)

    with_vault(vault_harness, use)


def test_a_value_that_was_altered_does_not_open(vault_harness):
    """A flipped bit of the last byte of a sealed value is noticed."""

    def use(vault):
        sealed = vault.seal("secret", CONTEXT)
        with pytest.raises(SealBroken):
            vault.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), CONTEXT)

    with_vault(vault_harness, use)


def test_a_value_that_was_cut_short_does_not_open(vault_harness):
    """No beginning of a sealed value opens, not even none of it."""

    def use(vault):
        sealed = vault.seal("secret", CONTEXT)
        for length in range(len(sealed)):
            with pytest.raises(SealBroken):
                vault.open(sealed[:length], CONTEXT)

    with_vault(vault_harness, use)


def test_what_was_never_sealed_does_not_open(vault_harness):
    """Foreign bytes are broken, not a crash."""

    def use(vault):
        for foreign in (b"", b"\xff\xfe", b"secret", bytes(100), b"\xff" * 100):
            with pytest.raises(SealBroken):
                vault.open(foreign, CONTEXT)

    with_vault(vault_harness, use)
