"""Everything Memtrace raises on purpose, and nothing else.

MemtraceError                  never raised itself
├── InvalidInput               also a ValueError; names the field and the rule
├── Unauthenticated            no key, or one that does not count (any more)
├── Forbidden                  the key lacks a permission
├── NotFound                   no such memory, agent, session, org, key or binding
├── Conflict                   the thing exists already, or its state forbids the change
│   └── DuplicateMemory        the same memory within the dedup window
├── Unavailable                cannot be done now, may be possible later
│   ├── NoArcInstance          the org has no Arc instance
│   ├── ArcUnreachable         the org's Arc does not answer, or refuses our key
│   │   └── ArcFailed          it answers that it failed, and not why
│   ├── TooManyRequests        a key asks too often, or too much of an org is under way
│   ├── JournalFull            delivery is too far behind, or the disk is nearly full
│   ├── OrgClosing             the org is being deleted
│   └── StorageUnavailable     a database of our own cannot be used
├── ArcTimeout                 the org's Arc took longer than `query_timeout`
├── ArcRejected                Arc says that this data can never be stored
├── ErasureRefused             what is to be forgotten cannot be deleted without more
└── VaultError                 a secret does not open
    ├── WrongMasterKey         sealed with another master key
    └── SealBroken             altered, cut short, moved, or of an unknown version

`code` is stable and meant for programs; the message is meant for a person, and never holds a secret.
"""

from __future__ import annotations

# The code of an ArcUnreachable that means: Arc answers, and does not accept the key.
REFUSES_KEY = "arc_refuses_key"
# The code of one that means: Arc accepts the key, but deletes nothing for it.
REFUSES_DELETION = "arc_refuses_deletion"


class MemtraceError(Exception):
    """The base of all errors that Memtrace raises on purpose."""

    code: str = "internal"
    hint: str | None = None

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if hint is not None:
            self.hint = hint


class InvalidInput(MemtraceError, ValueError):
    """A value breaks a rule; the message names the field and the rule."""

    code = "invalid_input"


class Unauthenticated(MemtraceError):
    """The caller gave no key, or one that does not count."""

    code = "unauthenticated"


class Forbidden(MemtraceError):
    """The key is good, but lacks the permission."""

    code = "forbidden"


class NotFound(MemtraceError):
    """There is no such thing in this org."""

    code = "not_found"


class Conflict(MemtraceError):
    """What is there already forbids the change."""

    code = "conflict"


class DuplicateMemory(Conflict):
    """The same memory was stored within the dedup window; `memory_id` is the one that is kept."""

    code = "duplicate_memory"

    def __init__(self, memory_id: str) -> None:
        super().__init__("duplicate memory")
        self.memory_id = memory_id


class Unavailable(MemtraceError):
    """It cannot be done now; `retry_after` is in seconds, None where waiting does not help."""

    code = "unavailable"
    retry_after: int | None = 5


class NoArcInstance(Unavailable):
    """The org is not bound to an Arc instance."""

    code = "no_arc_instance"
    retry_after = None

    def __init__(self, org_id: str) -> None:
        super().__init__(
            "no arc instance configured for this org",
            hint=f"ask an admin to run `memtrace org add-arc {org_id}`",
        )


class ArcUnreachable(Unavailable):
    """The org's Arc cannot be reached or does not let us in."""

    code = "arc_unreachable"


class ArcFailed(ArcUnreachable):
    """The org's Arc answers that something failed on its side, and leaves open what."""


class TooManyRequests(Unavailable):
    """More requests than is fair; try again in `retry_after` seconds."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class JournalFull(Unavailable):
    """No room for more undelivered memories; nothing older is dropped for a newer one."""

    code = "journal_full"


class OrgClosing(Unavailable):
    """The org is being deleted and takes no more memories."""

    code = "org_closing"
    retry_after = 30


class StorageUnavailable(Unavailable):
    """The journal or the metadata database cannot be read or written."""

    code = "storage_unavailable"


class ArcTimeout(MemtraceError):
    """Arc did not answer a read in time."""

    code = "arc_timeout"


class ArcRejected(MemtraceError):
    """Arc will never take this data; sending it again does not help."""

    code = "arc_rejected"


class ErasureRefused(MemtraceError):
    """A store would delete more than it was asked to, or does not tell; nothing was deleted."""

    code = "erasure_refused"


class VaultError(MemtraceError):
    """A sealed secret does not open."""

    code = "vault"


class WrongMasterKey(VaultError):
    """The value was sealed with another master key than the one in use."""

    code = "wrong_master_key"


class SealBroken(VaultError):
    """The sealed value was altered, cut short or moved, or its version is unknown."""

    code = "seal_broken"
