"""A database of the Go service 0.2.0, with the keys that were made with it; and the rows that it wrote to Arc."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import apsw

FILE = Path(__file__).parent / "memtrace.db"

# None of them is live.
MASTER_KEY = "27roQRJBx1Z/W17mUvJ78VTbOUzLB9/m55SUDkmU7xo="
DEFAULT_ORG, ACME = "org_default", "org_79c5891da743e9b86e23582a"
ADMIN = "mtk_t15Vi1fe6WsWgW5GX8SCeYY15wLszvrCUbumPol1QYs="
ACME_PROD = "mtk_no-IVIcWJL9WdJjhiVlovJifeqZ_mRkdT_N7DdgdmvM="
ACME_READER = "mtk_0WqT-4FpcZAyJdUYDgddGrwsTIWiOK3qZqbKWmywTFo="
ARC_KEYS = {DEFAULT_ORG: "arc-default-key-1111111111", ACME: "arc-acme-key-2222222222"}
CRAWLER = "agent_448742c6f2b4c9e2e3a4bbb7"

Content = dict[str, list[tuple[Any, ...]]]


def database(folder: Path, *changes: str) -> Path:
    """Put a copy of the database into a folder, changed by SQL, and return where it is."""
    folder.mkdir(exist_ok=True)
    path = folder / "memtrace.db"
    shutil.copyfile(FILE, path)
    for change in changes:
        connection = apsw.Connection(str(path))
        connection.execute(change)
        connection.close()
    return path


def rows(path: Path) -> Content:
    """Return every row of every table of a database, as it is after a crash of who wrote it."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs="unix")
    try:
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for (name,) in names}
    finally:
        connection.close()


def arc_row(time_us: int, content: str, **changes: Any) -> dict[str, Any]:
    """Return a memory of `org_default` as the Go service wrote it to Arc: without `memory_id`."""
    return {
        "time": time_us,
        "org_id": DEFAULT_ORG,
        "agent_id": "web_crawler",
        "session_id": "",
        "memory_type": "episodic",
        "event_type": "general",
        "content": content,
        "metadata_json": "{}",
        "tags_csv": "",
        "dedup_key": "",
        "importance": 0.0,
        "parent_id": "",
        **changes,
    }
