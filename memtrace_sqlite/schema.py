"""The tables. Times are microseconds since 1970; a text that is absent is NULL."""

from __future__ import annotations

from memtrace_sqlite.database import Schema
from memtrace_sqlite.go_database import refusal

# The version row lets a server see that orgs, instances or keys changed without reading them again; agents and
# sessions, which change all the time, do not touch it.
_METADATA_1 = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE config_version (
    version INTEGER NOT NULL
) STRICT;
INSERT INTO config_version VALUES (1);

CREATE TABLE orgs (
    org_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE arc_instances (
    instance_id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs ON DELETE CASCADE,
    url TEXT NOT NULL,
    database TEXT NOT NULL,
    measurement TEXT NOT NULL,
    sealed_api_key BLOB,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    retired INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX arc_instances_bound ON arc_instances (org_id) WHERE NOT retired;
CREATE INDEX arc_instances_org ON arc_instances (org_id);

CREATE TABLE api_keys (
    key_id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs ON DELETE CASCADE,
    name TEXT NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    permissions TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX api_keys_live_name ON api_keys (org_id, name) WHERE revoked_at IS NULL;

CREATE TABLE agents (
    agent_id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT,
    config_json TEXT,
    created_at INTEGER NOT NULL,
    last_active_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX agents_name ON agents (org_id, name);
CREATE INDEX agents_newest ON agents (org_id, created_at, agent_id);

CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES orgs ON DELETE CASCADE,
    agent_id TEXT NOT NULL,
    status TEXT NOT NULL,
    metadata_json TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    closed_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_newest ON sessions (org_id, created_at, session_id);
CREATE INDEX sessions_agent ON sessions (org_id, agent_id, created_at, session_id);
""" + "".join(
    f"""
CREATE TRIGGER {table}_{event.lower()} AFTER {event} ON {table} BEGIN
    UPDATE config_version SET version = version + 1;
END;
"""
    for table in ("orgs", "arc_instances", "api_keys")
    for event in ("INSERT", "UPDATE", "DELETE")
)

_MEMORY = """
    time INTEGER NOT NULL,
    memory_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT,
    memory_type TEXT NOT NULL,
    event_type TEXT NOT NULL,
    content TEXT NOT NULL,
    metadata_json TEXT,
    tags_csv TEXT,
    dedup_key TEXT,
    importance REAL NOT NULL,
    parent_id TEXT
"""

# journal.state: 0 pending, 1 delivered (at delivered_at, not confirmed), 2 set aside (with Arc's answer).
_JOURNAL_1 = f"""
CREATE TABLE ledger (
    node TEXT NOT NULL,
    last_time INTEGER NOT NULL,
    pending_bytes INTEGER NOT NULL
) STRICT;
INSERT INTO ledger VALUES (lower(hex(randomblob(3))), 0, 0);

CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    org_id TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    state INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    delivered_at INTEGER,
    resent INTEGER NOT NULL DEFAULT 0,
    answer TEXT,
    {_MEMORY}
) STRICT;
CREATE INDEX journal_time ON journal (org_id, time, memory_id);
CREATE INDEX journal_pending ON journal (org_id, instance_id, seq) WHERE state = 0;
CREATE INDEX journal_delivered ON journal (org_id, seq) WHERE state = 1;
CREATE INDEX journal_set_aside ON journal (org_id, seq) WHERE state = 2;

CREATE TABLE backlog (
    org_id TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE stores (
    store INTEGER PRIMARY KEY,
    org_id TEXT NOT NULL,
    database TEXT NOT NULL,
    measurement TEXT NOT NULL,
    UNIQUE (org_id, database, measurement)
) STRICT;

CREATE TABLE embedded (
    seq INTEGER PRIMARY KEY,
    store INTEGER NOT NULL,
    {_MEMORY}
) STRICT;
CREATE UNIQUE INDEX embedded_time ON embedded (store, time, memory_id);
CREATE INDEX embedded_agent ON embedded (store, agent_id, time, memory_id);
CREATE INDEX embedded_session ON embedded (store, session_id, time, memory_id) WHERE session_id IS NOT NULL;
CREATE INDEX embedded_dedup ON embedded (store, dedup_key, time, memory_id) WHERE dedup_key IS NOT NULL;

CREATE TABLE claim_tables (
    start INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE loaded_claims (
    org_id TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    PRIMARY KEY (org_id, instance_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE agent_activity (
    org_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (org_id, agent_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE key_use (
    key_id TEXT PRIMARY KEY,
    time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE closed_orgs (
    org_id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
"""

# A gap is a moment at which the journal may lack memories that Arc has: memories are confirmed by counting those of
# a span, so no span may reach across one.
#
# An answer marks a memory that was once set aside: it has lost its place in line for good, though it may be
# sent again. retry: 1 for one that shall be when there is room.
_JOURNAL_2 = """
ALTER TABLE journal ADD COLUMN retry INTEGER NOT NULL DEFAULT 0;
DROP INDEX journal_set_aside;
CREATE INDEX journal_aside ON journal (org_id, state, seq) WHERE answer IS NOT NULL;

-- With a long backlog a reader of one agent or session must not look at everything.
CREATE INDEX journal_agent ON journal (org_id, agent_id, time, memory_id);
CREATE INDEX journal_session ON journal (org_id, session_id, time, memory_id) WHERE session_id IS NOT NULL;

CREATE TABLE gaps (
    org_id TEXT NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (org_id, time)
) STRICT, WITHOUT ROWID;
"""

# An order to forget covers a memory, or what is older than `cutoff` of an agent, of a session or of the org. It is
# done when Arc has nothing of it, if it may be in_arc at all, and stays, so that nothing of it ever comes back.
_JOURNAL_3 = """
CREATE TABLE forget_orders (
    number INTEGER PRIMARY KEY,
    org_id TEXT NOT NULL,
    memory_id TEXT,
    agent_id TEXT,
    session_id TEXT,
    cutoff INTEGER NOT NULL,
    reason TEXT NOT NULL,
    made_at INTEGER NOT NULL,
    in_arc INTEGER NOT NULL,
    swept INTEGER NOT NULL,
    claims_freed INTEGER NOT NULL,
    done_at INTEGER,
    removed INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0,
    trouble TEXT
) STRICT;
CREATE INDEX forget_waiting ON forget_orders (org_id, number) WHERE done_at IS NULL;
CREATE INDEX forget_memory ON forget_orders (org_id, memory_id) WHERE memory_id IS NOT NULL;
CREATE INDEX forget_scope ON forget_orders (org_id, agent_id, session_id, cutoff) WHERE memory_id IS NULL;
CREATE INDEX forget_cutoff ON forget_orders (org_id, cutoff);
"""

# Claims are made in recent_claims, numbered as they come, and move from there to the table by key that claim_tables
# names last. A claim that was freed leaves an empty row behind.
_JOURNAL_4 = """
CREATE TABLE recent_claims (
    number INTEGER PRIMARY KEY,
    org_id TEXT NOT NULL,
    dedup_key TEXT NOT NULL,
    memory_id TEXT NOT NULL,
    time INTEGER NOT NULL
) STRICT;

ALTER TABLE claim_tables ADD COLUMN claims INTEGER NOT NULL DEFAULT 0;
ALTER TABLE claim_tables ADD COLUMN moved_up_to INTEGER NOT NULL DEFAULT 0;
"""

# Dedup keys come in no order. By blocks of rows the entries that a write makes meet in a few pages, however many
# rows there are; whoever looks for a key goes from block to block (`embedded_reads`).
_JOURNAL_5 = """
DROP INDEX embedded_dedup;
CREATE INDEX embedded_dedup ON embedded (store, seq >> 12, dedup_key) WHERE dedup_key IS NOT NULL;
"""

# A superseded key still works until it expires, but its name is its successor's.
_METADATA_2 = """
ALTER TABLE api_keys ADD COLUMN superseded_at INTEGER;
DROP INDEX api_keys_live_name;
CREATE UNIQUE INDEX api_keys_live_name ON api_keys (org_id, name)
    WHERE revoked_at IS NULL AND superseded_at IS NULL;
"""

# A key that the Go service made is known by the first bytes of its SHA-256, which stand in `digest`, and by a
# bcrypt hash. When it is first used the whole digest is known, and the hash has served its time.
_METADATA_3 = """
CREATE TABLE former_keys (
    key_id TEXT PRIMARY KEY REFERENCES api_keys ON DELETE CASCADE,
    bcrypt TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER former_keys_end AFTER UPDATE OF digest, revoked_at ON api_keys BEGIN
    DELETE FROM former_keys WHERE key_id = new.key_id AND (new.revoked_at IS NOT NULL OR new.digest <> old.digest);
END;
"""

# How long memories are kept, in microseconds; NULL for ever.
_METADATA_4 = "ALTER TABLE orgs ADD COLUMN retention INTEGER;"

METADATA = Schema(
    "metadata database", 0x4D744D64, (_METADATA_1, _METADATA_2, _METADATA_3, _METADATA_4), forerunner=refusal
)
JOURNAL = Schema("journal", 0x4D744A6E, (_JOURNAL_1, _JOURNAL_2, _JOURNAL_3, _JOURNAL_4, _JOURNAL_5))
