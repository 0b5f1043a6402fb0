"""In-memory implementations of every port, for tests of programs that embed Memtrace, and for our own.

They keep the promises of `memtrace_core.ports` except the one about disks.
"""

from memtrace_core.testing.clock import ManualClock
from memtrace_core.testing.former_keys import InMemoryFormerKeys
from memtrace_core.testing.gateway import InMemoryGateway
from memtrace_core.testing.journal import InMemoryJournal
from memtrace_core.testing.metadata import InMemoryMetadataRepo
from memtrace_core.testing.ownership import InMemoryOwnership
from memtrace_core.testing.vault import TransparentVault

__all__ = [
    "InMemoryFormerKeys",
    "InMemoryGateway",
    "InMemoryJournal",
    "InMemoryMetadataRepo",
    "InMemoryOwnership",
    "ManualClock",
    "TransparentVault",
]
