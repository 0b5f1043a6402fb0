"""An Arc server for tests: Arc's wire, traps included, with a real DuckDB behind it (see README.md)."""

from arc_double.double import ArcDouble
from arc_double.faults import Faults
from arc_double.process import ArcProcess
from arc_double.records import ADMIN_TOKEN, READ_TOKEN, RELEASED, VERSIONS, WRITE_TOKEN, QueryRecord, WriteRecord

__all__ = [
    "ADMIN_TOKEN",
    "READ_TOKEN",
    "RELEASED",
    "VERSIONS",
    "WRITE_TOKEN",
    "ArcDouble",
    "ArcProcess",
    "Faults",
    "QueryRecord",
    "WriteRecord",
]
