"""The closed list of what `/metrics` tells: every name, its kind, its labels, and what it means."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["counter", "gauge", "histogram"]

ORG_PREFIX = "memtrace_org_"
"""What begins so names a tenant, and is shown to few."""


class Figure(msgspec.Struct, frozen=True):
    """One family of figures. The name is the one to ask Prometheus for; a histogram's has three endings more."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


# Counted as it happens.
HTTP_REQUESTS = Figure(
    "memtrace_http_request_seconds",
    "histogram",
    "Time to answer requests; its count is their number. Status 499: the client left.",
    ("method", "route", "status"),
)
MEMORIES = Figure(
    "memtrace_memories_total",
    "counter",
    "Memories that came in, by outcome: stored, duplicate, or rejected (against a rule, or not to be stored now).",
    ("outcome",),
)
ARC_REQUESTS = Figure(
    "memtrace_arc_request_seconds",
    "histogram",
    "Time that Arcs take, by operation (write, query, count, confirm, erase, ping) and outcome: ok, or the error.",
    ("operation", "outcome"),
)
DELIVERIES = Figure("memtrace_deliveries_total", "counter", "Batches that an Arc has taken.")
DELIVERY_RETRIES = Figure(
    "memtrace_delivery_retries_total", "counter", "Batches that an Arc has not taken, and that are sent again."
)
DELIVERED = Figure("memtrace_delivered_memories_total", "counter", "Memories that an Arc has taken.")
CONFIRMED = Figure(
    "memtrace_confirmed_memories_total",
    "counter",
    "Memories that were read back from an Arc, and left the journal.",
)
RESENT = Figure(
    "memtrace_resent_memories_total",
    "counter",
    "Memories that an Arc had taken, that were not there later, and that were sent again.",
)
SET_ASIDE = Figure(
    "memtrace_set_aside_memories_total",
    "counter",
    "Memories that an Arc refuses for good; they stay in the journal.",
)
FORGOTTEN = Figure(
    "memtrace_forgotten_memories_total",
    "counter",
    "Memories removed here, and rows deleted in an Arc, because they were to be forgotten.",
)

# Read when somebody asks, from what all processes share.
JOURNAL_MEMORIES = Figure(
    "memtrace_journal_memories",
    "gauge",
    "Memories in the journal, by state: pending, delivered (not confirmed), set_aside.",
    ("state",),
)
JOURNAL_OLDEST = Figure(
    "memtrace_journal_oldest_seconds",
    "gauge",
    "Age of the oldest memory that no Arc has confirmed, those set aside apart.",
)
JOURNAL_OLDEST_PENDING = Figure(
    "memtrace_journal_oldest_pending_seconds", "gauge", "Age of the oldest memory that waits for delivery."
)
JOURNAL_PENDING_BYTES = Figure(
    "memtrace_journal_pending_bytes", "gauge", "Bytes of memories that wait for delivery."
)
JOURNAL_LIMIT_BYTES = Figure(
    "memtrace_journal_limit_bytes", "gauge", "The size of those at which writes are refused (journal.max_bytes)."
)
FORGET_ORDERS = Figure(
    "memtrace_forget_orders",
    "gauge",
    "Orders to forget that Arc has not carried out, by state: waiting, in_trouble.",
    ("state",),
)
ARC_INSTANCES = Figure(
    "memtrace_arc_instances",
    "gauge",
    "Arc instances that orgs are bound to, by state at the last check: up, down, unknown (not yet checked).",
    ("state",),
)
ARC_REFUSED_KEYS = Figure(
    "memtrace_arc_refused_keys", "gauge", "Orgs with an Arc instance that refuses the key it is written with."
)
VAULT_SECRETS = Figure(
    "memtrace_vault_secrets",
    "gauge",
    "Sealed secrets, by the id of their master key and its standing: current, previous, unknown (not at hand).",
    ("key_id", "standing"),
)
READABLE = Figure(
    "memtrace_readable",
    "gauge",
    "1 if the figures of a part (journal, arc, vault) could be read, else 0.",
    ("part",),
)
BUILD = Figure("memtrace_build_info", "gauge", "Always 1; the version of Memtrace.", ("version",))

# By org: only if the settings say so, and then only for who may see them.
ORG_MEMORIES = Figure(
    "memtrace_org_memories_total", "counter", "As memtrace_memories_total, by org.", ("org", "outcome")
)
ORG_JOURNAL_MEMORIES = Figure(
    "memtrace_org_journal_memories", "gauge", "As memtrace_journal_memories, by org.", ("org", "state")
)
ORG_JOURNAL_OLDEST = Figure(
    "memtrace_org_journal_oldest_seconds", "gauge", "As memtrace_journal_oldest_seconds, by org.", ("org",)
)
ORG_JOURNAL_OLDEST_PENDING = Figure(
    "memtrace_org_journal_oldest_pending_seconds",
    "gauge",
    "As memtrace_journal_oldest_pending_seconds, by org.",
    ("org",),
)
ORG_JOURNAL_PENDING_BYTES = Figure(
    "memtrace_org_journal_pending_bytes", "gauge", "As memtrace_journal_pending_bytes, by org.", ("org",)
)
ORG_ARC_UP = Figure(
    "memtrace_org_arc_up",
    "gauge",
    "1 if the org's Arc was reachable at the last check and takes writes, else 0.",
    ("org",),
)
ORG_ARC_REFUSES_KEY = Figure(
    "memtrace_org_arc_refuses_key", "gauge", "1 if an Arc of the org refuses the key it is written with.", ("org",)
)

FIGURES = tuple(value for value in list(globals().values()) if isinstance(value, Figure))

LIBRARY_NAMES = (
    # Of this process, from the client library; not where several processes share the work.
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
    "python_gc_collections_total",
    "python_gc_objects_collected_total",
    "python_gc_objects_uncollectable_total",
    "python_info",
)
