"""Arc's SQL rewriter: refusals and table names by regular expressions over masked SQL, as unsafe as Arc's."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arc_double.masking import mask, unmask
from arc_double.records import OLDEST

MAX_SQL_BYTES = 10_000

COMMENT = re.compile(r"--[^\n]*|/\*[\s\S]*?\*/")
DANGEROUS = re.compile(
    r"\b(?:set|reset|load|call|copy|attach|install|pragma"
    r"|detach|drop|delete|insert|update|alter|create|truncate)\b",
    re.I,
)
PHRASES = re.compile(
    r"\b(?:drop|alter|create|truncate)\s+(?:table|database|schema|view|index)\b|\bdelete\s+from\b"
    r"|\binsert\s+into\b|\bupdate\s+\w+\s+set\b|\b(?:set|reset|load|call|copy|attach|install|pragma)\s+\w+",
    re.I,
)
FILE_FUNCTION = re.compile(
    r"\b(read_\w+|parquet_\w+|glob|\w+_scan|sniff_csv)\s*\(",
    re.I,
)
DB_TABLE = re.compile(r"\b(FROM|JOIN)\s+(\w+)\.(\w+)\b", re.I)
TABLE = re.compile(r"\b(FROM|JOIN)\s+([a-zA-Z_]\w*)\b", re.I)
CTE = re.compile(
    r"\bWITH\s+(?:RECURSIVE\s+)?(\w+)(?:\s*\([^)]*\))?\s+AS\s*\(|,\s*(\w+)(?:\s*\([^)]*\))?\s+AS\s*\(", re.I
)
CTE_OLDEST = re.compile(r"\bWITH\s+(\w+)\s+AS\s*\(|,\s*(\w+)\s+AS\s*\(", re.I)
BODY_FROM = re.compile(r"\b((?:extract|trim|substring|overlay)\s*\([^()]*?)\bFROM\b", re.I)
BROKEN_JOIN = re.compile(r"\b(?:FULL|ASOF)\s+(?:OUTER\s+)?JOIN\b", re.I)
LEFT_JOIN = re.compile(r"\bLEFT\s+(?:OUTER\s+)?JOIN(?=\s+[a-zA-Z_])", re.I)
UNEQUAL = re.compile(r"\s+AND\s+(\w+\s*<>\s*__STR_\d+__)", re.I)
CLAUSE_END = re.compile(r"\b(?:GROUP BY|ORDER BY|LIMIT|QUALIFY|HAVING|UNION)\b", re.I)
SKIPPED = ("read_parquet", "information_schema", "pg_", "duckdb_")


class Refused(Exception):
    """Arc does not pass the statement on: 400."""


class Failed(Exception):
    """The statement reaches DuckDB in a form that fails: 500."""


class Missing(Exception):
    """A table of the statement has no files yet."""


@dataclass(frozen=True)
class Rewritten:
    """A statement that DuckDB can run, and how many files it names."""

    sql: str
    files: int


def check(sql: str, version: str, database_header: bool) -> None:
    """Refuse what Arc refuses before it looks at any table.

    Raises:
        Refused: The statement is too long, more than one, or holds what Arc forbids.
        Failed: It holds what makes every execution fail.
    """
    if not sql.strip():
        raise Refused("SQL query is required")
    if len(sql.encode()) > MAX_SQL_BYTES:
        raise Refused(f"SQL query exceeds maximum length ({MAX_SQL_BYTES} characters)")
    masked, literals = mask(sql)
    masked = COMMENT.sub(" ", masked)
    if ";" in masked.rstrip(" \t\r\n;"):
        raise Refused("Multiple SQL statements are not allowed")
    if DANGEROUS.search(masked) or (version == OLDEST and PHRASES.search(sql)):
        raise Refused("Dangerous SQL operation not allowed")
    if found := FILE_FUNCTION.search(masked):
        raise Refused(f"File I/O function not allowed in user SQL: {found[1]}()")
    if database_header and DB_TABLE.search(masked if version == OLDEST else BODY_FROM.sub(r"\1", masked)):
        raise Refused("Cross-database queries (db.table syntax) not allowed when x-arc-database header is set")
    if "\x00" in sql:
        raise Failed("Parser Error: syntax error at end of input")
    if any("read_parquet" in literal.lower() for literal in literals):
        raise Failed("Catalog Error: Table does not exist!")


def rewrite(
    sql: str, version: str, database: str, files_of: Callable[[str, str], Sequence[str] | None]
) -> Rewritten:
    """Put the files of its measurements in the place of a statement's table names.

    Args:
        files_of: Returns the paths to read for a database and a measurement, None when there is no such thing.

    Raises:
        Missing: `files_of` knows nothing of one of the tables.
        Failed: A join that Arc breaks.
    """
    masked, literals = mask(sql)
    masked = COMMENT.sub(" ", masked)
    if BROKEN_JOIN.search(masked):
        raise Failed("Parser Error: syntax error at or near JOIN")
    masked = LEFT_JOIN.sub("JOIN", masked)
    masked = _hoist_unequal(masked)
    if version != OLDEST:
        masked = BODY_FROM.sub(r"\1__BODY_FROM__", masked)
    names = (CTE_OLDEST if version == OLDEST else CTE).findall(masked)
    ctes = {name.lower() for pair in names for name in pair if name}
    opened = 0

    def replace(keyword, base, measurement):
        nonlocal opened
        paths = files_of(base, measurement)
        if not paths:
            raise Missing(measurement)
        opened += len(paths)
        listed = ", ".join("'{}'".format(path.replace("'", "''")) for path in paths)
        return f"{keyword} read_parquet([{listed}], union_by_name=true, hive_partitioning=false)"

    def simple(found):
        name = found[2]
        if name.lower() in ctes or name.lower().startswith(SKIPPED) or name.lower() in ("select", "lateral"):
            return found[0]
        return replace(found[1], database, name)

    masked = DB_TABLE.sub(lambda found: replace(found[1], found[2], found[3]), masked)
    masked = TABLE.sub(simple, masked)
    return Rewritten(unmask(masked.replace("__BODY_FROM__", "FROM"), literals), opened)


def _hoist_unequal(masked: str) -> str:
    """Move an `AND c <> '…'` that follows a LIKE to the front of its WHERE, as Arc does: wrong beside a bare OR."""
    where = re.search(r"\bWHERE\s+", masked, re.I)
    if not where:
        return masked
    end = CLAUSE_END.search(masked, where.end())
    clause = masked[where.end() : end.start() if end else len(masked)]
    for found in UNEQUAL.finditer(clause):
        before = clause[: found.start()]
        bare = re.sub(r"\([^()]*\)", lambda inner: " " * len(inner[0]), before)
        if re.search(r"\bI?LIKE\b", bare, re.I) and bare.count("(") == bare.count(")"):
            moved = f"{found[1]} AND {before}{clause[found.end() :]}"
            return masked[: where.end()] + moved + masked[where.end() + len(clause) :]
    return masked
