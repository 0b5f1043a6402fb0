"""The tables. Times are microseconds since 1970; what is absent is NULL.

Texts are compared by their code points, whatever the database's locale, as SQLite does.
"""

from __future__ import annotations

# Whoever changes orgs, instances or keys locks the row of config_version first, so that these changes come one
# after another and never lock each other out. The first change of a transaction moves the version, and tells every
# node, in the moment of the commit; agents and sessions, which change all the time, do neither.
_FIRST = """
CREATE TABLE meta (
    name text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
);

CREATE TABLE journals (
    node text COLLATE "C" PRIMARY KEY,
    place text NOT NULL
);

CREATE TABLE config_version (
    version bigint NOT NULL,
    moved_by xid8
);
INSERT INTO config_version VALUES (1);

CREATE TABLE orgs (
    org_id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    created_at bigint NOT NULL,
    retention bigint
);

CREATE TABLE arc_instances (
    instance_id text COLLATE "C" PRIMARY KEY,
    org_id text COLLATE "C" NOT NULL REFERENCES orgs ON DELETE CASCADE,
    url text NOT NULL,
    database text NOT NULL,
    measurement text NOT NULL,
    sealed_api_key bytea,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    retired boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX arc_instances_bound ON arc_instances (org_id) WHERE NOT retired;
CREATE INDEX arc_instances_org ON arc_instances (org_id);

CREATE TABLE api_keys (
    key_id text COLLATE "C" PRIMARY KEY,
    org_id text COLLATE "C" NOT NULL REFERENCES orgs ON DELETE CASCADE,
    name text COLLATE "C" NOT NULL,
    digest bytea NOT NULL UNIQUE,
    permissions text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint,
    revoked_at bigint,
    superseded_at bigint
);
CREATE INDEX api_keys_org ON api_keys (org_id, created_at, key_id);
CREATE UNIQUE INDEX api_keys_live_name ON api_keys (org_id, name)
    WHERE revoked_at IS NULL AND superseded_at IS NULL;

CREATE TABLE agents (
    agent_id text COLLATE "C" PRIMARY KEY,
    org_id text COLLATE "C" NOT NULL REFERENCES orgs ON DELETE CASCADE,
    name text COLLATE "C" NOT NULL,
    description text,
    config_json text,
    created_at bigint NOT NULL,
    last_active_at bigint
);
CREATE UNIQUE INDEX agents_name ON agents (org_id, name);
CREATE INDEX agents_newest ON agents (org_id, created_at, agent_id);

CREATE TABLE sessions (
    session_id text COLLATE "C" PRIMARY KEY,
    org_id text COLLATE "C" NOT NULL REFERENCES orgs ON DELETE CASCADE,
    agent_id text COLLATE "C" NOT NULL,
    status text NOT NULL,
    metadata_json text,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    closed_at bigint
);
CREATE INDEX sessions_newest ON sessions (org_id, created_at, session_id);
CREATE INDEX sessions_agent ON sessions (org_id, agent_id, created_at, session_id);

CREATE FUNCTION config_moved() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    moved bigint;
BEGIN
    UPDATE config_version SET version = version + 1, moved_by = pg_current_xact_id()
    WHERE moved_by IS DISTINCT FROM pg_current_xact_id()
    RETURNING version INTO moved;
    IF FOUND THEN
        PERFORM pg_notify(TG_TABLE_SCHEMA, moved::text);
    END IF;
    RETURN NULL;
END;
$$;
""" + "".join(
    f"""
CREATE TRIGGER {table}_moved AFTER INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION config_moved();
"""
    for table in ("orgs", "arc_instances", "api_keys")
)

MIGRATIONS = (_FIRST,)
"""`MIGRATIONS[n]` leads from version n to n + 1."""
