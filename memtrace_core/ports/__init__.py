"""What the core needs of the outside world.

Whoever implements a port keeps the promises written here; the suites in `tests/contracts` check them on every
implementation, the in-memory ones of `memtrace_core.testing` included.
"""

from __future__ import annotations

from memtrace_core.ports.clock import Clock
from memtrace_core.ports.former_keys import FormerKeys
from memtrace_core.ports.gateway import ArcGateway
from memtrace_core.ports.journal import Journal
from memtrace_core.ports.metadata import MetadataRepo
from memtrace_core.ports.order_book import OrderBook
from memtrace_core.ports.ownership import Ownership
from memtrace_core.ports.vault import KeyVault

__all__ = ["ArcGateway", "Clock", "FormerKeys", "Journal", "KeyVault", "MetadataRepo", "OrderBook", "Ownership"]
