"""Memtrace's domain: memories of agents, org by org, without any I/O of its own.

Give `build_services` adapters for the ports in `memtrace_core.ports` (in-memory ones for tests are in
`memtrace_core.testing`), and use what it returns.
"""

from memtrace_core.confirmation import ConfirmationPolicy
from memtrace_core.context import SessionContext
from memtrace_core.dedup import DedupPolicy
from memtrace_core.delivery import DeliveryPolicy
from memtrace_core.entries import Duplicate
from memtrace_core.errors import (
    ArcFailed,
    ArcRejected,
    ArcTimeout,
    ArcUnreachable,
    Conflict,
    DuplicateMemory,
    ErasureRefused,
    Forbidden,
    InvalidInput,
    JournalFull,
    MemtraceError,
    NoArcInstance,
    NotFound,
    OrgClosing,
    SealBroken,
    StorageUnavailable,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    VaultError,
    WrongMasterKey,
)
from memtrace_core.limits import FairUse
from memtrace_core.memories import NewMemory, Page
from memtrace_core.model import (
    Agent,
    AgentCounts,
    APIKey,
    ArcInstance,
    Memory,
    Org,
    Permission,
    Principal,
    Session,
)
from memtrace_core.query import MemoryQuery, Position
from memtrace_core.services import Services, build_services
from memtrace_core.tenants import Binding

__all__ = [
    "APIKey",
    "Agent",
    "AgentCounts",
    "ArcFailed",
    "ArcInstance",
    "ArcRejected",
    "ArcTimeout",
    "ArcUnreachable",
    "Binding",
    "ConfirmationPolicy",
    "Conflict",
    "DedupPolicy",
    "DeliveryPolicy",
    "Duplicate",
    "DuplicateMemory",
    "ErasureRefused",
    "FairUse",
    "Forbidden",
    "InvalidInput",
    "JournalFull",
    "Memory",
    "MemoryQuery",
    "MemtraceError",
    "NewMemory",
    "NoArcInstance",
    "NotFound",
    "Org",
    "OrgClosing",
    "Page",
    "Permission",
    "Position",
    "Principal",
    "SealBroken",
    "Services",
    "Session",
    "SessionContext",
    "StorageUnavailable",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
    "VaultError",
    "WrongMasterKey",
    "build_services",
]
