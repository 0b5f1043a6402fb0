"""`POST /api/v1/delete`: rewrites files, and deletes more and less than one thinks."""

import re
from typing import Any

import duckdb

from arc_double import engine
from arc_double.storage import File, Storage
from arc_double.writes import DATABASE, MEASUREMENT

REFUSED = re.compile(
    r"[();]|--|/\*|\b(?:select|drop|delete|insert|update|alter|create|truncate|union|exec|execute"
    r"|set|reset|load|call|copy|attach|install|pragma|grant|revoke)\b",
    re.I,
)
__all__ = ["DeleteRefused", "delete"]


class DeleteRefused(Exception):
    """Arc answers 400 with this text."""


def delete(storage: Storage, request: dict[str, Any]) -> dict[str, Any]:
    """Delete what a request asks for, buffered rows apart and rows of an unknown predicate (NULL) included.

    Raises:
        DeleteRefused: The request is incomplete, or its predicate holds what Arc forbids, in a literal or not.
    """
    database, measurement = request.get("database"), request.get("measurement")
    where, dry_run = request.get("where"), request.get("dry_run") is True
    if not isinstance(database, str) or not DATABASE.fullmatch(database):
        raise DeleteRefused("Invalid database name")
    if not isinstance(measurement, str) or not MEASUREMENT.fullmatch(measurement):
        raise DeleteRefused("Invalid measurement name")
    if not isinstance(where, str) or not where.strip():
        raise DeleteRefused("WHERE clause is required")
    if REFUSED.search(where):
        raise DeleteRefused("WHERE clause contains forbidden characters or keywords")
    if not dry_run and request.get("confirm") is not True:
        raise DeleteRefused("Set confirm to true to delete")
    deleted = touched = removed = 0
    with storage.lock, engine.cursor() as connection:
        for number, hour in list(storage.tables.get((database, measurement), {}).items()):
            for file in list(hour.files):
                source = engine.file_list([file.path])
                try:
                    total, kept = connection.execute(
                        f"SELECT count(*), count(*) FILTER (WHERE NOT ({where})) FROM {source}"
                    ).fetchone()
                except duckdb.Error:
                    continue
                deleted, touched = deleted + total - kept, touched + (kept < total)
                if dry_run or kept == total:
                    continue
                hour.files.remove(file)
                if kept:
                    path = storage.new_path(database, measurement, number)
                    engine.copy_to(f"SELECT * FROM {source} WHERE NOT ({where})", path)
                    hour.files.append(File(path, file.visible_at))
                removed += not kept
                file.path.unlink()
            if not hour.files:
                del storage.tables[database, measurement][number]
    return {
        "success": True,
        "deleted_count": deleted,
        "affected_files": touched,
        "rewritten_files": 0 if dry_run else touched - removed,
        "deleted_files": removed,
        "dry_run": dry_run,
        "files_processed": [],
    }
