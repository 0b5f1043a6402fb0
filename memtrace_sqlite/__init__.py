"""SQLite behind Memtrace's ports: metadata, journal, embedded store, and the vault that seals secrets."""

from memtrace_core.opening import Mode
from memtrace_sqlite.embedded import SqliteEmbeddedGateway
from memtrace_sqlite.former_keys import SqliteFormerKeys
from memtrace_sqlite.journal import SqliteJournal
from memtrace_sqlite.metadata import SqliteMetadataRepo
from memtrace_sqlite.turns import JournalOwnership
from memtrace_sqlite.vault import EnvelopeVault, MasterKey

__all__ = [
    "EnvelopeVault",
    "JournalOwnership",
    "MasterKey",
    "Mode",
    "SqliteEmbeddedGateway",
    "SqliteFormerKeys",
    "SqliteJournal",
    "SqliteMetadataRepo",
]
