"""Whether memories hold the claims of their dedup keys, as their tables tell."""

from __future__ import annotations

import apsw

from memtrace_sqlite.claim_filter import table_of


def unclaimed(connection: apsw.Connection) -> list[tuple[str, str]]:
    """Return the orgs and ids of memories of the embedded store that do not hold the claim of their key.

    A copy of such a memory would be stored, whenever it comes: this sees a claim that was lost before one does. Of
    what Arc has an order may free claims that are not its own, so that nothing can be said of that.
    """
    starts = connection.execute("SELECT start FROM claim_tables")
    claims = " UNION ALL ".join(
        f"SELECT org_id, dedup_key, memory_id, time FROM {table}"
        for table in ("recent_claims", *(table_of(start) for (start,) in starts))
    )
    # Of several claims to a key the youngest counts.
    found = connection.execute(
        f"""
        WITH held AS MATERIALIZED (
            SELECT org_id, dedup_key, memory_id, max(time) FROM ({claims}) WHERE memory_id <> '' GROUP BY 1, 2
        )
        SELECT org_id, embedded.memory_id
        FROM embedded JOIN stores USING (store) LEFT JOIN held USING (org_id, dedup_key)
        WHERE dedup_key IS NOT NULL AND held.memory_id IS NOT embedded.memory_id
        """
    )
    return [(str(org_id), str(memory_id)) for org_id, memory_id in found]
