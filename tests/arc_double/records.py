"""What the double is started with, and what it notes about the requests that it answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field

VERSIONS = ("26.02.1", "26.06.3", "26.09.1")
OLDEST = VERSIONS[0]
# What a client meets in the field: the suites of the client run over these, the double's own over all.
RELEASED = VERSIONS[:2]

READ_TOKEN = "arc-secret-key-0-reads"
WRITE_TOKEN = "arc-secret-key-0-writes"
ADMIN_TOKEN = "arc-secret-key-0-admin"
TOKENS = {READ_TOKEN: "read", WRITE_TOKEN: "read write", ADMIN_TOKEN: "read write admin"}


@dataclass(frozen=True)
class Options:
    """How one double behaves; README.md says what each means."""

    version: str = "26.06.3"
    tokens: Mapping[str, str] = field(default_factory=lambda: dict(TOKENS))
    max_buffer_age_ms: float | None = 100
    max_body_bytes: int = 1_000_000_000
    folder_cache_seconds: float = 0
    empty_range: str = "all"
    query_timeout_seconds: float = 300
    seed: int = 0

    def __post_init__(self):
        if self.version not in VERSIONS:
            raise ValueError(f"version must be one of {', '.join(VERSIONS)}")
        if self.empty_range not in ("all", "none"):
            raise ValueError("empty_range must be 'all' or 'none'")


@dataclass(frozen=True)
class QueryRecord:
    """One query: `files_opened` counts a file once for each table reference that reads it."""

    sql: str
    database: str
    status: int
    files_opened: int
    ms: float
    error: str | None


@dataclass(frozen=True)
class WriteRecord:
    """One write: `stored` says whether its rows got into the buffer, whatever was answered."""

    database: str
    measurement: str | None
    rows: int
    status: int
    stored: bool
    body_bytes: int
    error: str | None
