"""A long history at once: hourly files of Memtrace's rows, or of the Go service's."""

import shutil
import tempfile
from datetime import datetime
from pathlib import Path

from arc_double import engine
from arc_double.pruner import HOUR_US, micros
from arc_double.storage import File, Storage

ROW = """
    SELECT make_timestamptz(us) AS time,
           {identity}
           '{org_id}' AS org_id,
           'agent_' || r % 4 AS agent_id,
           'session_' || h % 10 AS session_id,
           'episodic' AS memory_type,
           CASE WHEN r % 10 = 0 THEN 'error' ELSE 'general' END AS event_type,
           'memory ' || r || ' of hour ' || h AS content,
           '{{}}' AS metadata_json,
           'fill,tag_' || r % 3 AS tags_csv,
           '' AS dedup_key,
           0.5::DOUBLE AS importance,
           '' AS parent_id,
           {first} + h AS _hour
    FROM (SELECT h, r, ({first} + h) * {HOUR_US} + r * {step} AS us
          FROM range({hours}) hours(h), range({rows_per_hour}) rows(r))
"""
IDENTITY = "'mem_' || printf('%014x', us) || 'f111ed' || printf('%04x', r) AS memory_id,"


def fill(
    storage: Storage,
    database: str,
    measurement: str,
    *,
    until: datetime,
    hours: int = 2000,
    rows_per_hour: int = 20,
    go_style: bool = False,
    org_id: str = "org_fill",
) -> None:
    """Write `hours` hourly files of `rows_per_hour` rows each, the last being the hour before that of `until`."""
    first = micros(until) // HOUR_US - hours
    select = ROW.format(
        identity="" if go_style else IDENTITY,
        org_id=org_id.replace("'", "''"),
        first=first,
        HOUR_US=HOUR_US,
        hours=hours,
        rows_per_hour=rows_per_hour,
        step=HOUR_US // rows_per_hour,
    )
    storage.root.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".fill-", dir=storage.root))
    try:
        with engine.cursor() as connection:
            target = str(scratch / "hours").replace("'", "''")
            connection.execute(f"COPY ({select}) TO '{target}' (FORMAT parquet, PARTITION_BY (_hour))")
        for folder in (scratch / "hours").iterdir():
            hour = int(folder.name.partition("=")[2])
            for source in folder.glob("*.parquet"):
                with storage.lock:
                    path = storage.new_path(database, measurement, hour)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    source.replace(path)
                    storage.hour(database, measurement, hour).files.append(File(path))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
