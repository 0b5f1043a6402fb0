import gzip
import hashlib
import http.client
import json
import math
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import arc_double
import msgspec
import pytest
from arc_double import RELEASED, VERSIONS, ArcDouble, ArcProcess
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = 3_600_000_000


def us(moment):
    """Return microseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def call(arc, path, body=None, token=None, **headers):
    """Send a request and return its status and its body, decoded if it is JSON."""
    token = arc.write_token if token is None else token
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        sent.setdefault("Authorization", f"Bearer {token}")
    request = urllib.request.Request(arc.url + path, data=body, headers=sent)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            status, answer = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, answer = error.code, error.read()
    return status, json.loads(answer) if answer.startswith(b"{") else answer


def write(arc, columns, m="m", body=None, **options):
    """Write columns (or a body as it is) and return status and error text."""
    body = msgspec.msgpack.encode({"m": m, "columns": columns}) if body is None else body
    status, answer = call(arc, "/api/v1/write/msgpack", body, **options)
    return status, answer["error"] if answer else ""


def ask(arc, sql, content_type="application/json", **options):
    """Send a statement and return status and answer."""
    return call(arc, "/api/v1/query", json.dumps({"sql": sql}).encode(), content_type=content_type, **options)


def rows(arc, sql, **options):
    """Return the rows of a statement that works."""
    status, answer = ask(arc, sql, **options)
    assert status == 200, answer
    return answer["data"]


def contents(arc, where, table="m"):
    """Return the contents of the rows that fulfil a condition, in order of time."""
    return [content for (content,) in rows(arc, f"SELECT content FROM {table} WHERE {where} ORDER BY time")]


def error_of(arc, text):
    """Return how a version words an execution error."""
    return "Query execution failed" if arc.version == "26.02.1" else text


def H(text):
    """Return text in the only safe form."""
    return f"decode(unhex('{text.encode().hex()}'))"


# The newest release by default, all versions in the slow run.
EVERY_VERSION = [
    version if version == RELEASED[-1] else pytest.param(version, marks=pytest.mark.slow) for version in VERSIONS
]


@pytest.fixture(params=EVERY_VERSION)
def arc(request):
    """Return a double of each version that shows rows at once."""
    with ArcDouble(version=request.param, max_buffer_age_ms=0) as double:
        yield double


@pytest.fixture
def buffering():
    """Return a double that flushes when it is told to, only."""
    with ArcDouble(max_buffer_age_ms=None) as double:
        yield double


def test_everything_public_is_exported():
    """Each name in the package's `__all__` is there."""
    assert all(hasattr(arc_double, name) for name in arc_double.__all__)


def test_a_double_starts_in_a_moment():
    """Starting takes less than 100 ms, so a test may have one of its own."""
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        with ArcDouble():
            taken.append(time.perf_counter() - began)
    assert min(taken) < 0.1


# Tokens and headers


@pytest.mark.parametrize(
    ("token", "status", "error"),
    [
        ("", 401, "Authentication required"),
        ("wrong", 401, "Invalid or expired token"),
        (arc_double.READ_TOKEN, 403, "Permission denied: write required"),
    ],
)
def test_a_token_that_may_not_write_is_told_so(arc, token, status, error):
    """No token, a bad one and a read-only one get Arc's exact answers."""
    body = msgspec.msgpack.encode({"m": "m", "columns": {"time": [1]}})
    assert call(arc, "/api/v1/write/msgpack", body, token) == (status, {"error": error, "success": False})


def test_authorization_beats_x_api_key(arc):
    """A bad Authorization beats a good x-api-key, which works alone."""
    assert ask(arc, "SELECT 1", token="bad", x_api_key=arc.write_token)[0] == 401
    assert ask(arc, "SELECT 1", token="", x_api_key=arc.read_token)[0] == 200


def test_health_needs_no_token_and_verify_does(arc):
    """Health is open; verify says whether a token is known."""
    status, answer = call(arc, "/health", token="")
    assert (status, answer["status"]) == (200, "ok")
    assert call(arc, "/api/v1/auth/verify")[0] == 200
    assert call(arc, "/api/v1/auth/verify", token="bad")[0] == 401


def test_databases_are_apart_and_default_is_one(arc):
    """The header names the database; without it, it is `default`."""
    write(arc, {"time": [us(NOON)], "content": ["a"]}, x_arc_database="one")
    write(arc, {"time": [us(NOON)], "content": ["b"]})
    assert rows(arc, "SELECT content FROM m", x_arc_database="one") == [["a"]]
    assert (
        rows(arc, "SELECT content FROM m")
        == rows(arc, "SELECT content FROM m", x_arc_database="default")
        == [["b"]]
    )


@pytest.mark.parametrize("name", ["1a", "a.b", "", "a" * 65])
def test_a_bad_database_name_is_refused(arc, name):
    """Database names begin with a letter and have at most 64 characters."""
    assert write(arc, {"time": [1]}, x_arc_database=name)[0] == 400
    assert ask(arc, "SELECT 1", x_arc_database=name)[0] == 400


@pytest.mark.parametrize("name", ["1a", "a.b", "", "a" * 129])
def test_a_bad_measurement_name_is_refused(arc, name):
    """Measurement names begin with a letter and have at most 128 characters."""
    assert write(arc, {"time": [1]}, name)[0] == 400


@pytest.mark.parametrize("name", ["my-notes", "pg_notes", "duckdb_notes"])
def test_some_names_can_be_written_and_not_queried(arc, name):
    """A hyphen, or a system's prefix, makes a measurement unreadable."""
    assert write(arc, {"time": [us(NOON)]}, name)[0] == 204
    status, answer = ask(arc, f"SELECT count(*) FROM {name}")
    assert status == 500 or answer["data"] == []


def test_measurement_names_are_case_sensitive(arc):
    """`M` is not `m`."""
    write(arc, {"time": [us(NOON)]}, "M")
    status, answer = ask(arc, "SELECT time FROM m")
    assert status == 500 or answer["columns"] == []


# Writes


def test_a_write_is_a_204_without_a_body(arc):
    """An accepted batch has nothing to say."""
    body = msgspec.msgpack.encode({"m": "m", "columns": {"time": [us(NOON)]}})
    assert call(arc, "/api/v1/write/msgpack", body) == (204, b"")


def test_gzip_is_known_by_its_magic_bytes(arc):
    """A compressed body needs no header."""
    body = gzip.compress(msgspec.msgpack.encode({"m": "m", "columns": {"time": [us(NOON)], "content": ["z"]}}))
    assert write(arc, None, body=body)[0] == 204
    assert contents(arc, "true") == ["z"]


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x82\xa1m", b"\x90", b"\xa1m", b"\x1f\x8bno"])
def test_a_malformed_body_is_a_400(arc, body):
    """Empty, cut off, or not a map: refused."""
    assert write(arc, None, body=body)[0] == 400


@pytest.mark.parametrize("moment", [None, "2026-01-01", True])
def test_a_time_that_is_no_number_is_a_400(arc, moment):
    """Null, text and booleans are no times."""
    assert write(arc, {"time": [us(NOON), moment]})[0] == 400


def test_unequal_lengths_are_a_400(arc):
    """All columns have one length."""
    assert write(arc, {"time": [1, 2], "content": ["a"]})[0] == 400


@pytest.mark.parametrize(
    "values", [["a", 1], [1, "a"], [True, 1], [b"a", b"b"], [["a"], ["b"]], [{}, {}], [2**63, 1]]
)
def test_values_that_arc_cannot_store_are_a_500(arc, values):
    """The whole batch fails, with a text that [02] shares with passing faults."""
    status, error = write(arc, {"time": [us(NOON), us(NOON)], "content": values})
    assert status == 500
    if arc.version == "26.02.1":
        assert error == "Failed to write records"
    else:
        assert error.startswith("Failed to write records: failed to convert columns: ")
    assert arc.rows("default", "m") == []


def test_a_body_over_the_limit_is_a_413():
    """The limit is the server's; the answer is Fiber's."""
    with ArcDouble(max_body_bytes=100) as arc:
        assert write(arc, {"time": [1], "content": ["x" * 100]}) == (413, "Request Entity Too Large")


def test_acknowledged_but_lost(arc):
    """Columns that begin with `_` or are no arrays are lost, and so is what follows the first object."""
    columns = {"time": [us(NOON)], "_hidden": ["a"], "scalar": "b", "kept": ["c"]}
    body = msgspec.msgpack.encode({"m": "m", "columns": columns}) + msgspec.msgpack.encode({"m": "n"})
    assert write(arc, None, body=body)[0] == 204
    assert arc.rows("default", "m") == [{"time": NOON, "kept": "c"}]


def test_an_empty_column_name_crashes_the_server(arc):
    """The connection breaks and nobody answers any more."""
    with pytest.raises((OSError, http.client.HTTPException)):
        write(arc, {"time": [1], "": ["a"]})
    with pytest.raises(OSError, match="refused"):
        ask(arc, "SELECT 1")
    assert not arc.running


@pytest.mark.parametrize(
    "first",
    [us(NOON) // 1_000_000, us(NOON) // 1_000, us(NOON), us(NOON) * 1_000],
    ids=["seconds", "milliseconds", "microseconds", "nanoseconds"],
)
def test_the_unit_of_time_is_guessed_from_the_first_value(arc, first):
    """The first value's size decides for the whole column."""
    write(arc, {"time": [first, first * 2]})
    assert min(row["time"] for row in arc.rows("default", "m")) == NOON
    assert max(row["time"] for row in arc.rows("default", "m")) - NOON == NOON - datetime(1970, 1, 1, tzinfo=UTC)


def test_float_times_are_cut_to_seconds(arc):
    """A fraction of a second is lost."""
    write(arc, {"time": [NOON.timestamp() + 0.75]})
    assert [row["time"] for row in arc.rows("default", "m")] == [NOON]


def test_types_come_from_the_first_value(arc):
    """A float is cut in a column that began with an int, and an int widened in one that began with a float."""
    write(arc, {"time": [us(NOON)] * 2, "cut": [1, 1.5], "wide": [0.5, 2]})
    assert rows(arc, "SELECT DISTINCT cut, typeof(wide) FROM m") == [[1, "DOUBLE"]]


def test_nulls_are_kept_or_turned_into_empty_values(arc):
    """[02] stores '', 0 and false; later versions keep null apart."""
    columns = {"time": [us(NOON), us(NOON) + 1], "t": ["a", None], "n": [1, None], "b": [True, None]}
    write(arc, columns)
    expected = ["", 0, False] if arc.version == "26.02.1" else [None, None, None]
    assert rows(arc, "SELECT t, n, b FROM m ORDER BY time DESC LIMIT 1") == [expected]


def test_a_column_of_nulls_is_left_out(arc):
    """A column that is in no file is a Binder Error."""
    write(arc, {"time": [us(NOON)], "content": [None]})
    status, answer = ask(arc, "SELECT content FROM m")
    assert status == 500
    assert answer["error"].startswith(error_of(arc, "arrow query failed: Binder Error"))


def test_nan_and_infinities_come_back_as_null(arc):
    """JSON has no word for them."""
    write(arc, {"time": [us(NOON)] * 3, "x": [math.nan, math.inf, -math.inf]})
    assert rows(arc, "SELECT x FROM m") == [[None]] * 3


def test_text_comes_back_byte_for_byte(arc):
    """Control characters, NUL and a MiB of text are text like any other; invalid UTF-8 becomes U+FFFD."""
    text = "a\x00\x1f'\"\\ \U0001f600 " + "x" * 2**20
    write(arc, {"time": [us(NOON)], "content": [text]})
    assert contents(arc, "true") == [text]
    bad = msgspec.msgpack.encode({"m": "bad", "columns": {"time": [us(NOON)], "content": ["QQ"]}})
    write(arc, None, body=bad.replace(b"QQ", b"\xff\xfe"))
    assert contents(arc, "true", "bad") == ["\ufffd\ufffd"]


def test_columns_may_come_and_go(arc):
    """Reads unite the files by name."""
    write(arc, {"time": [us(NOON)], "content": ["a"]})
    write(arc, {"time": [us(NOON) + HOUR], "content": ["b"], "extra": ["e"]})
    assert rows(arc, "SELECT content, extra FROM m ORDER BY time") == [["a", None], ["b", "e"]]


# What a 204 means


def test_acknowledged_rows_are_invisible_until_flushed(buffering):
    """The flush, here the admin's endpoint, makes them visible."""
    write(buffering, {"time": [us(NOON)], "content": ["a"]})
    assert ask(buffering, "SELECT content FROM m")[1]["columns"] == []
    assert call(buffering, "/api/v1/write/line-protocol/flush", b"")[0] == 403
    assert call(buffering, "/api/v1/write/line-protocol/flush", b"", buffering.admin_token)[0] == 200
    assert contents(buffering, "true") == ["a"]


def test_a_buffer_that_comes_of_age_is_flushed():
    """The age counts on the double's clock, which moves by hand."""
    with ArcDouble(max_buffer_age_ms=50_000) as arc:
        write(arc, {"time": [us(NOON)], "content": ["a"]})
        arc.advance(49)
        assert arc.buffered_rows == 1
        arc.advance(2)
        assert contents(arc, "true") == ["a"]


def test_batches_that_arrive_during_a_flush_are_flushed_too(arc):
    """With a short age and many writers at once, nothing stays behind in the buffer."""
    with ArcDouble(version=arc.version, max_buffer_age_ms=1) as quick, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write(quick, {"time": [us(NOON) + number]}), range(200)))
        deadline = time.monotonic() + 20
        while quick.buffered_rows and time.monotonic() < deadline:
            ask(quick, "SELECT 1")
        assert rows(quick, "SELECT count(*) FROM m") == [[200]]


def test_kill_loses_what_is_buffered_and_stop_does_not(buffering):
    """Flushed rows survive both."""
    write(buffering, {"time": [us(NOON)], "content": ["flushed"]})
    buffering.flush()
    write(buffering, {"time": [us(NOON) + 1], "content": ["buffered"]})
    buffering.kill()
    buffering.start()
    assert contents(buffering, "true") == ["flushed"]
    write(buffering, {"time": [us(NOON) + 1], "content": ["again"]})
    buffering.stop()
    buffering.start()
    assert contents(buffering, "true") == ["flushed", "again"]


def test_the_same_batch_twice_is_there_twice(arc):
    """Nothing is deduplicated."""
    for _ in range(2):
        write(arc, {"time": [us(NOON)], "content": ["a"]})
    assert contents(arc, "true") == ["a", "a"]


def test_files_lie_in_folders_by_hour(arc):
    """One batch over two hours makes two folders."""
    write(arc, {"time": [us(NOON), us(NOON) + HOUR]}, x_arc_database="db")
    folders = {str(path.parent.relative_to(arc.data)) for path in arc.data.rglob("*.parquet")}
    assert folders == {"db/m/2026/03/01/12", "db/m/2026/03/01/13"}


# Queries


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT '" + "x" * 9_992 + "'", "SQL query exceeds maximum length (10000 characters)"),
        ("SELECT 1; SELECT 2", "Multiple SQL statements are not allowed"),
        ("DROP TABLE m", "Dangerous SQL operation not allowed"),
        ("SELECT * FROM read_parquet('x')", "File I/O function not allowed in user SQL: read_parquet()"),
        *(
            (f"SELECT 1 AS {word}", "Dangerous SQL operation not allowed")
            for word in ("set", "LOAD", "pragma", "call")
        ),
    ],
)
def test_refusals_are_400s(arc, sql, error):
    """Length, number, keywords and file functions are looked at before anything runs."""
    status, answer = ask(arc, sql)
    assert (status, answer["error"]) == (400, error)
    assert (answer["success"], answer["columns"], answer["data"], answer["row_count"]) == (False, None, None, 0)


def test_ten_thousand_bytes_are_not_too_many(arc):
    """The limit counts bytes, and is inclusive."""
    assert ask(arc, "SELECT '" + "x" * 9_991 + "'")[0] == 200
    assert ask(arc, "SELECT '" + "ü" * 4_996 + "'")[0] == 400


def test_the_content_type_is_required(arc):
    """JSON must call itself JSON."""
    assert ask(arc, "SELECT 1", content_type="text/plain")[0] == 400


def test_every_sql_error_is_a_500(arc):
    """A syntax error is the server's fault, and [02] does not say which it was."""
    status, answer = ask(arc, "SELEC 1")
    assert status == 500
    assert answer["error"].startswith(error_of(arc, "arrow query failed: Parser Error"))


def test_a_missing_measurement_is_an_empty_answer(arc):
    """It has no columns and no rows, even for a count, and empties a UNION; on [02] it is a 500."""
    write(arc, {"time": [us(NOON)], "content": ["a"]})
    for sql in ("SELECT count(*) FROM nope", "SELECT time FROM m UNION ALL SELECT time FROM nope"):
        status, answer = ask(arc, sql)
        if arc.version == "26.02.1":
            assert (status, answer["error"]) == (500, "Query execution failed")
        else:
            assert (status, answer["columns"], answer["data"]) == (200, [], [])


@pytest.mark.slow
def test_there_is_no_row_limit(arc):
    """An answer is as long as it must be."""
    write(arc, {"time": [us(NOON) + n for n in range(20_000)]})
    assert len(rows(arc, "SELECT time FROM m")) == 20_000


def test_values_are_encoded_as_arc_encodes_them(arc):
    """Zeros of a time are cut, whole doubles lose their point, wide numbers and nested values are strings."""
    write(arc, {"time": [us(NOON) + 10_000_000, us(NOON) + 22_693_450], "n": [2**53 + 1, -1], "x": [3.0, 0.25]})
    assert rows(arc, "SELECT time, n, x FROM m ORDER BY time") == [
        ["2026-03-01T12:00:10Z", 2**53 + 1, 3],
        ["2026-03-01T12:00:22.69345Z", -1, 0.25],
    ]
    answer = ask(arc, "SELECT sum(1), 0.5, [1, 2], {'a': 'b'}, true, NULL, CAST(0.5 AS DOUBLE) FROM m")[1]
    assert answer["data"] == [["2", "0.5", "[1,2]", '{"a":"b"}', True, None, 0.5]]
    assert b'"data":[[3]]' in msgspec.json.encode(ask(arc, "SELECT 3.0::DOUBLE")[1])


def test_comparing_time_with_an_integer_fails(arc):
    """`time` is a TIMESTAMPTZ."""
    write(arc, {"time": [us(NOON)]})
    assert ask(arc, "SELECT time FROM m WHERE time > 5")[0] == 500


def test_a_database_in_front_of_a_table_is_refused_beside_the_header(arc):
    """Without the header it works."""
    write(arc, {"time": [us(NOON)]}, x_arc_database="db")
    assert ask(arc, "SELECT * FROM db.m", x_arc_database="db")[0] == 400
    assert len(rows(arc, "SELECT time FROM db.m")) == 1


def test_a_column_is_qualified_by_an_alias_only(arc):
    """The table's own name is gone when DuckDB sees the statement."""
    write(arc, {"time": [us(NOON)]})
    assert ask(arc, "SELECT m.time FROM m")[0] == 500
    assert len(rows(arc, "SELECT x.time FROM m AS x")) == 1


def test_limit_zero_names_the_columns(arc):
    """`SELECT * … LIMIT 0` is how one learns of them."""
    write(arc, {"time": [us(NOON)], "content": ["a"], "b": [1]})
    answer = ask(arc, "SELECT * FROM m LIMIT 0")[1]
    assert (sorted(answer["columns"]), answer["data"]) == (["b", "content", "time"], [])


def test_a_slow_query_times_out():
    """The answer is a 504."""
    with ArcDouble(query_timeout_seconds=0.05) as arc:
        many = "(SELECT unnest(generate_series(1, 300000)) AS x)"
        sql = f"SELECT sum(a.x * b.x) FROM {many} a, {many} b"
        status, answer = ask(arc, sql)
    assert (status, answer["error"]) == (504, "Query timed out")


# The rewriter


@pytest.fixture
def two(arc):
    """Return a double with the rows `a` by `ann` and `b` by `bob`."""
    write(arc, {"time": [us(NOON), us(NOON) + 1], "content": ["a", "b"], "author": ["ann", "bob"]})
    return arc


def test_read_parquet_in_a_literal_fails(two):
    """Correct quoting does not help."""
    assert ask(two, "SELECT time FROM m WHERE content = 'about read_parquet'")[0] == 500


def test_a_placeholder_in_a_literal_is_an_injection(two):
    """A literal that spells a placeholder is replaced by another literal's text."""
    assert contents(two, "content = '__STR_1__' AND author = ' OR 1=1 -- '", "m") == ["a", "b"]


def test_a_backslash_at_the_end_of_a_literal_derails_the_masking(two):
    """What follows is taken for text, and text for what follows; `ESCAPE '!'` is fine."""
    assert ask(two, r"SELECT content FROM m WHERE content <> 'x\' AND author <> 'now set x'")[0] == 400
    assert contents(two, "content LIKE 'a!_' ESCAPE '!'") == []


def test_a_raw_nul_fails(two):
    """NUL may only stand in hex."""
    assert ask(two, "SELECT content FROM m WHERE content = 'a\x00'")[0] == 500


def test_dollar_quotes_are_not_seen(two):
    """A quote inside them begins a literal for the rewriter."""
    assert ask(two, "SELECT content FROM m WHERE content <> $$it's set$$ AND author <> 'now load it'")[0] == 400


def test_a_comment_with_a_quote_swallows_the_condition(two):
    """The literal that it opens goes with the comment."""
    assert contents(two, "true -- it's\n AND content = 'a'") == ["a", "b"]


def test_the_oldest_version_refuses_keywords_in_literals(two):
    """Later versions look outside literals only."""
    assert ask(two, "SELECT content FROM m WHERE content = 'drop table x'")[0] == (
        400 if two.version == "26.02.1" else 200
    )


def test_a_bare_or_beside_like_changes_its_meaning(two):
    """The condition that follows the AND is moved to the front; parentheses hold it."""
    assert contents(two, "content LIKE 'a%' OR author = 'bob' AND content <> 'a'") == ["b"]
    assert contents(two, "(content LIKE 'a%' OR (author = 'bob' AND content <> 'a'))") == ["a", "b"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM m FULL JOIN m AS y USING (time)",
        "SELECT count(*) FROM m x, m y",
        "SELECT count(*) FROM m WHERE content IS NOT DISTINCT FROM author",
        "SELECT count(*) FROM range(3)",
        "WITH m AS (SELECT * FROM m) SELECT count(*) FROM m",
        "WITH x AS MATERIALIZED (SELECT * FROM m) SELECT count(*) FROM x",
    ],
)
def test_some_sql_is_broken(two, sql):
    """It fails, or answers with nothing at all."""
    status, answer = ask(two, sql)
    assert status == 500 or answer["data"] == []


def test_a_left_join_is_silently_an_inner_join(two):
    """Rows without a partner are lost."""
    sql = "SELECT count(*) FROM m x LEFT JOIN m y ON x.content = y.author"
    assert rows(two, sql) == [[0]]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM m WHERE EXTRACT(year FROM time) = 2026",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 2) SELECT count(*) FROM t",
    ],
)
def test_the_oldest_version_knows_less_sql(two, sql):
    """EXTRACT and recursive CTEs fail there."""
    status, answer = ask(two, sql)
    assert status == 500 if two.version == "26.02.1" else answer["data"] == [[2]]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM m WHERE content LIKE 'a%'", [[1]]),
        ("SELECT count(*) FROM m WHERE author ILIKE 'A%'", [[1]]),
        ("WITH x AS (SELECT * FROM m) SELECT count(*) FROM x", [[2]]),
        ("SELECT content FROM m UNION ALL SELECT author FROM m ORDER BY 1", [["a"], ["ann"], ["b"], ["bob"]]),
        ("SELECT author, count(*) FROM m GROUP BY ALL ORDER BY ALL", [["ann", 1], ["bob", 1]]),
        ("SELECT DISTINCT ON (author) content FROM m ORDER BY author LIMIT 1 OFFSET 1", [["b"]]),
        ("SELECT content FROM m x WHERE EXISTS (SELECT 1 FROM m y WHERE y.content > x.content)", [["a"]]),
        ("SELECT content FROM m WHERE author IN (SELECT max(author) FROM m)", [["b"]]),
        ("SELECT arg_max(content, time) FROM m", [["b"]]),
        ("SELECT count(*) FILTER (content = 'a') FROM m", [[1]]),
    ],
)
def test_much_of_duckdb_works(two, sql, expected):
    """What arc-wire.md lists as working does."""
    assert rows(two, sql) == expected


ODD = [
    "read_parquet",
    "__STR_0__",
    "a__STR_1__",
    "x\\",
    "'",
    "' OR 1=1 --",
    "drop table m",
    "set",
    "\x00",
    "/* ' */",
    "%_",
]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    text=st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]))),
    other=st.sampled_from(ODD),
)
def test_hex_is_safe_for_any_text(arc, text, other):
    """`decode(unhex('…'))` finds exactly the text, and nothing reaches another condition."""
    measurement = "m" + hashlib.sha256(f"{text}|{other}".encode()).hexdigest()[:20]
    write(
        arc,
        {"time": [us(NOON), us(NOON) + 1], "content": [text, text + "!"], "author": [other, other]},
        measurement,
    )
    where = f"content = {H(text)} AND author = {H(other)}"
    assert set(contents(arc, where, measurement)) == {text}
    assert contents(arc, f"content = {H(text + '?')} AND author = {H(' OR 1=1 -- ')}", measurement) == []
    assert len(set(contents(arc, f"contains(lower(content), lower({H(text)}))", measurement))) == 2


# The pruner


@pytest.fixture
def hours(arc):
    """Return a double with a row at each full hour from 10:00 to 14:00, one in 2019 and one two days from now."""
    moments = [NOON.replace(hour=hour) for hour in range(10, 15)]
    moments += [datetime(2019, 5, 5, tzinfo=UTC), arc.now() + timedelta(days=2)]
    names = ["10", "11", "12", "13", "14", "old", "future"]
    write(arc, {"time": [us(moment) for moment in moments], "content": names})
    arc.advance(1)
    return arc


def test_quoted_bounds_open_the_hours_between(hours):
    """A lower and an upper bound skip all other folders."""
    assert contents(hours, "time >= '2026-03-01 11:00:00' AND time < '2026-03-01 13:00:00'") == ["11", "12"]
    assert hours.queries[-1].files_opened == 2


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("time >= '2026-03-01 11:00:00' AND time <= '2026-03-01 13:00:00'", ["11", "12"]),
        ("time BETWEEN '2026-03-01 11:00:00' AND '2026-03-01 13:00:00'", ["11", "12"]),
        ("time >= '2026-03-01 13:00:00'", ["13", "14"]),
        ("time < '2026-03-01 12:00:00'", ["10", "11"]),
        ("NOT (time >= '2026-03-01 11:00:00' AND time < '2026-03-01 13:00:00')", []),
    ],
    ids=["at most", "between", "lower alone", "upper alone", "not"],
)
def test_quoted_bounds_lose_rows(hours, where, found):
    """The hour of an inclusive end, the far future, the years before 2020, and all beside NOT."""
    assert contents(hours, where) == found


def test_an_or_of_two_ranges_loses_the_second(hours):
    """The first lower and the first upper bound are taken for the range."""
    where = (
        "((time >= '2026-03-01 10:00:00' AND time < '2026-03-01 11:00:00')"
        " OR (time >= '2026-03-01 13:00:00' AND time < '2026-03-01 14:00:00'))"
    )
    assert contents(hours, where) == ["10"]


def test_the_branches_of_a_union_share_the_first_range(hours):
    """The second branch reads the files of the first."""
    branch = "SELECT content FROM m WHERE time >= '2026-03-01 {}:00:00' AND time < '2026-03-01 {}:00:00'"
    assert rows(hours, f"{branch.format(10, 11)} UNION ALL {branch.format(13, 14)}") == [["10"]]


def test_any_column_that_ends_in_time_prunes(arc):
    """A bound of `sometime` is taken for one of `time`."""
    columns = {"time": [us(NOON), us(NOON) + HOUR], "content": ["a", "b"], "sometime": ["2026-03-01 12:30:00"] * 2}
    write(arc, columns)
    where = "sometime >= '2026-03-01 12:00:00' AND sometime < '2026-03-01 13:00:00'"
    assert contents(arc, where) == ["a"]


@pytest.mark.parametrize(
    "where",
    [
        "time >= TIMESTAMPTZ '2026-03-01 11:00:00+00' AND time <= TIMESTAMPTZ '2026-03-01 13:00:00+00'",
        f"time >= make_timestamptz({us(NOON) - HOUR}) AND time <= make_timestamptz({us(NOON) + HOUR})",
        f"epoch_us(time) BETWEEN {us(NOON) - HOUR} AND {us(NOON) + HOUR}",
    ],
)
def test_exact_forms_lose_nothing_and_open_everything(hours, where):
    """They are not pruned."""
    assert contents(hours, where) == ["11", "12", "13"]
    assert hours.queries[-1].files_opened == 7


def test_a_range_without_any_folder_opens_everything_or_nothing():
    """Arc falls back on the whole measurement ([src]); `empty_range="none"` reads but one hour."""
    where = "time >= '2020-01-01' AND time < '2020-01-02'"
    for mode, files in (("all", 3), ("none", 1)):
        with ArcDouble(max_buffer_age_ms=0, empty_range=mode) as arc:
            write(arc, {"time": [us(NOON) + n * HOUR for n in range(3)], "content": ["a", "b", "c"]})
            assert contents(arc, where) == []
            assert arc.queries[-1].files_opened == files


def test_new_hours_are_seen_late_by_pruned_queries():
    """An exact bound sees the row at once, a quoted one a minute later."""
    with ArcDouble(max_buffer_age_ms=0, folder_cache_seconds=60) as arc:
        write(arc, {"time": [us(NOON)], "content": ["a"]})
        arc.advance(61)
        write(arc, {"time": [us(NOON) + HOUR], "content": ["b"]})
        pruned = "time >= '2026-03-01 10:00:00' AND time < '2026-03-01 15:00:00'"
        assert contents(arc, pruned) == ["a"]
        assert contents(arc, f"time >= make_timestamptz({us(NOON)})") == ["a", "b"]
        arc.advance(61)
        assert contents(arc, pruned) == ["a", "b"]


@pytest.mark.slow
def test_a_long_history_is_filled_and_pruned(arc):
    """`fill` makes one file an hour, of either writer's rows, and two hours open two of them."""
    until = NOON + timedelta(minutes=5)
    arc.fill("default", "m", hours=48, rows_per_hour=5, until=until)
    arc.fill("default", "m", hours=48, rows_per_hour=5, until=until, go_style=True)
    assert rows(arc, "SELECT count(*), count(memory_id), min(time), max(time) FROM m") == [
        [480, 240, "2026-02-27T12:00:00Z", "2026-03-01T11:48:00Z"]
    ]
    assert len(contents(arc, "time >= '2026-03-01 10:00:00' AND time < '2026-03-01 12:00:00'")) == 20
    assert arc.queries[-1].files_opened == 4


# Statement forms seen to work

ID = (
    "coalesce(nullif(memory_id, ''), 'mem_' || printf('%014x', epoch_us(time)) || substr(sha256(concat_ws(chr(31),"
    " agent_id, session_id, memory_type, event_type, content, dedup_key)), 1, 10))"
)


@pytest.fixture
def both(arc):
    """Return a double with four memories of ours, one of them twice, and a pair of twins of the Go service."""
    names = ["agent_id", "session_id", "memory_type", "event_type", "content", "dedup_key", "tags_csv"]
    ours = {"time": [us(NOON) + n for n in (0, 1, 2, 3, 3)], "memory_id": [memory(n) for n in (0, 1, 2, 3, 3)]}
    ours |= {name: ["x"] * 5 for name in names} | {"org_id": ["o"] * 5, "importance": [0.0, 0.25, 0.5, 0.75, 0.75]}
    ours |= {"content": ["a\x00", "B\U0001f600", "c'", "d", "d"], "tags_csv": ["one,two", "one", "two", "", ""]}
    ours |= {"event_type": ["error", "error", "general", "general", "general"]}
    go = {name: ["g", "g"] for name in names} | {"time": [us(NOON) + HOUR] * 2, "org_id": ["o"] * 2}
    write(arc, ours)
    write(arc, go | {"importance": [1.0, 1.0]})
    return arc


def memory(number):
    """Return a memory id of the writer `abcdef`."""
    return f"mem_{us(NOON) + number:014x}abcdef0000"


def test_an_identity_covers_rows_of_both_writers(both):
    """The Go service's twins are one memory, whose id Python computes alike."""
    digest = hashlib.sha256("\x1f".join("gggggg").encode()).hexdigest()[:10]
    found = rows(both, f"SELECT DISTINCT {ID} AS id FROM m WHERE org_id = {H('o')} ORDER BY id")
    assert found == [[memory(n)] for n in range(4)] + [[f"mem_{us(NOON) + HOUR:014x}{digest}"]]


def test_a_page_holds_one_row_per_identity_within_bounds(both):
    """Bounds are pruned and exact, the page is ordered, and a keyset continues it."""
    begin, end = us(NOON) + 1, us(NOON) + HOUR
    bounds = (
        "time >= '2026-03-01 10:00:00' AND time < '2026-03-01 15:00:00'"
        f" AND time >= make_timestamptz({begin}) AND time < make_timestamptz({end})"
    )
    page = (
        f"SELECT time, {ID} AS id, content FROM m WHERE org_id = {H('o')} AND {bounds}{{}} QUALIFY row_number()"
        f" OVER (PARTITION BY {ID} ORDER BY time) = 1 ORDER BY time DESC, id DESC LIMIT 2"
    )
    first = rows(both, page.format(""))
    assert [content for *_, content in first] == ["d", "c'"]
    at = f"make_timestamptz({us(NOON) + 2})"
    keyset = f" AND (time < {at} OR (time = {at} AND {ID} < {H(first[-1][1])}))"
    assert [content for *_, content in rows(both, page.format(keyset))] == ["B\U0001f600"]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (f"list_contains(string_split(tags_csv, ','), {H('two')})", ["a\x00", "c'"]),
        (f"contains(lower(content), lower({H('b😀')}))", ["B\U0001f600"]),
        (f"content = {H('a' + chr(0))}", ["a\x00"]),
        (f"agent_id IN ({H('g')}, {H('nobody')})", ["g", "g"]),
        ("importance >= CAST(0.52 AS DOUBLE)", ["d", "d", "g", "g"]),
        ("substr(memory_id, 19, 6) = 'abcdef'", ["a\x00", "B\U0001f600", "c'", "d", "d"]),
        ("(memory_id IS NULL OR memory_id = '' OR substr(memory_id, 19, 6) <> 'abcdef')", ["g", "g"]),
    ],
)
def test_filters_seen_to_work(both, where, found):
    """Tags, contents, agents, importance, and who wrote a row."""
    assert contents(both, where) == found


def test_counts_are_of_identities(both):
    """Distinct, filtered and grouped."""
    counted = f"count(DISTINCT {ID})"
    assert rows(both, f"SELECT {counted}, {counted} FILTER (event_type = 'error') FROM m") == [[5, 2]]
    assert rows(both, f"SELECT memory_type, {counted} FROM m GROUP BY memory_type ORDER BY 1") == [
        ["g", 1],
        ["x", 4],
    ]


def test_a_measurement_without_memory_id_fails_and_names_its_columns(arc):
    """On [02] only `LIMIT 0` tells it from a missing measurement."""
    write(arc, {"time": [us(NOON)], "content": ["a"]})
    status, answer = ask(arc, f"SELECT {ID} FROM m")
    assert status == 500
    assert answer["error"].startswith(error_of(arc, "arrow query failed: Binder Error"))
    assert "content" in ask(arc, "SELECT * FROM m LIMIT 0")[1]["columns"]
    assert ask(arc, "SELECT * FROM nope LIMIT 0")[0] == (500 if arc.version == "26.02.1" else 200)


def test_show_tables_ignores_the_header_on_the_oldest_version(arc):
    """There it lists the default database."""
    write(arc, {"time": [us(NOON)]}, "theirs", x_arc_database="db")
    write(arc, {"time": [us(NOON)]}, "mine")
    found = [row[1] for row in rows(arc, "SHOW TABLES", x_arc_database="db")]
    assert found == (["mine"] if arc.version == "26.02.1" else ["theirs"])


# Deletion


def remove(arc, where, token=None, **options):
    """Ask for a deletion in `m` and return status and answer."""
    body = {"database": "default", "measurement": "m", "where": where, "confirm": True, **options}
    return call(arc, "/api/v1/delete", json.dumps(body).encode(), token or arc.admin_token)


def test_delete_takes_rows_of_an_unknown_predicate_too(arc):
    """NULL counts as true; the guard is `AND col IS NOT NULL`."""
    write(arc, {"time": [us(NOON) + n for n in range(3)], "content": list("abc"), "kind": ["x", "y", "z"]})
    write(arc, {"time": [us(NOON) + 5], "content": ["unknown"], "kind": ["x"], "extra": ["e"]})
    assert (
        remove(arc, "kind = 'x' AND content <> 'a' AND content IS NOT NULL", dry_run=True)[1]["deleted_count"] == 1
    )
    assert len(contents(arc, "true")) == 4
    assert remove(arc, "kind = 'y'")[1]["deleted_count"] == 1
    assert contents(arc, "true") == ["a", "c", "unknown"]
    if arc.version != "26.02.1":
        write(arc, {"time": [us(NOON) + 8, us(NOON) + 9], "content": ["n", None], "kind": ["k", "k"]})
        remove(arc, "content = 'nobody'")
        assert rows(arc, "SELECT count(*) FROM m WHERE kind = 'k'") == [[1]]


def test_delete_misses_buffered_rows(buffering):
    """What is in memory is not rewritten."""
    write(buffering, {"time": [us(NOON)], "content": ["a"]})
    assert remove(buffering, "content = 'a'")[1]["deleted_count"] == 0
    buffering.flush()
    assert contents(buffering, "true") == ["a"]


def test_delete_by_a_bad_column_deletes_nothing_and_says_200(arc):
    """A typing error looks like success."""
    write(arc, {"time": [us(NOON)], "content": ["a"]})
    status, answer = remove(arc, "contnt = 'a'")
    assert (status, answer["deleted_count"], contents(arc, "true")) == (200, 0, ["a"])


@pytest.mark.parametrize(
    "where", ["(content = 'a')", "content = 'a;b'", "content = '--'", "content = 'please select'", ""]
)
def test_delete_refuses_parentheses_and_keywords(arc, where):
    """In literals too."""
    assert remove(arc, where)[0] == 400


def test_delete_is_for_admins_who_confirm(arc):
    """A write token may not, and `confirm` is needed."""
    assert remove(arc, "content = 'a'", arc.write_token)[0] == 403
    assert remove(arc, "content = 'a'", confirm=False)[0] == 400


# Faults


def lost(arc, columns):
    """Write, expecting no answer."""
    with pytest.raises((OSError, http.client.HTTPException)):
        write(arc, columns)


@pytest.mark.parametrize(
    ("outcome", "stored"), [("drop", 0), ("error_before", 0), ("error_after", 1), ("reset", 1)]
)
def test_a_write_can_go_wrong_in_each_way(outcome, stored):
    """Dropped though acknowledged, failed before or after storing, stored without an answer."""
    with ArcDouble(max_buffer_age_ms=0) as arc:
        arc.faults.next_writes = [outcome]
        if outcome == "reset":
            lost(arc, {"time": [us(NOON)]})
        else:
            assert write(arc, {"time": [us(NOON)]})[0] == (204 if outcome == "drop" else 500)
        assert len(arc.rows("default", "m")) == stored == arc.writes[-1].stored
        assert write(arc, {"time": [us(NOON)]})[0] == 204


def test_an_answer_may_never_come(buffering):
    """The row is stored, and the client waits until it gives up."""
    buffering.faults.next_writes = ["silence"]
    body = msgspec.msgpack.encode({"m": "m", "columns": {"time": [us(NOON)]}})
    connection = http.client.HTTPConnection("127.0.0.1", buffering.port, timeout=0.1)
    connection.request("POST", "/api/v1/write/msgpack", body, {"x-api-key": buffering.write_token})
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    assert buffering.buffered_rows == 1


def test_shares_are_drawn_from_the_seed():
    """The same seed loses the same batches."""
    outcomes = []
    for _ in range(2):
        with ArcDouble(seed=7) as arc:
            arc.faults.update({"drop_share": 0.2, "error_before_share": 0.1})
            outcomes.append([arc.faults.write_outcome() for _ in range(500)])
    assert outcomes[0] == outcomes[1]
    assert 60 < outcomes[0].count("drop") < 140
    assert 25 < outcomes[0].count("error_before") < 80


@pytest.mark.parametrize("status", [400, 413, 500])
def test_a_marked_batch_is_rejected(arc, status):
    """A content makes its batch, and only that, unacceptable; a 500 is worded as Arc words it."""
    arc.faults.reject = {"POISON": status}
    answer = write(arc, {"time": [us(NOON)], "content": ["a POISON b"]})
    assert answer[0] == status
    if status == 500:
        assert (answer[1] == "Failed to write records") == (arc.version == "26.02.1")
    assert write(arc, {"time": [us(NOON)], "content": ["fine"]})[0] == 204


@pytest.mark.parametrize("status", [401, 403])
def test_every_token_can_be_refused(arc, status):
    """Reads and writes are, health is not."""
    arc.faults.auth_status = status
    assert write(arc, {"time": [1]})[0] == ask(arc, "SELECT 1")[0] == status
    assert call(arc, "/health")[0] == 200


def test_flushed_rows_can_be_seen_late(arc):
    """The lag runs on the double's clock."""
    arc.faults.visibility_lag = 10
    write(arc, {"time": [us(NOON)], "content": ["a"]})
    status, answer = ask(arc, "SELECT content FROM m")
    assert status == 500 or answer["columns"] == []
    arc.advance(10)
    assert contents(arc, "true") == ["a"]


def test_an_io_error_passes(arc):
    """One query fails, the next does not."""
    arc.faults.io_errors = 1
    status, answer = ask(arc, "SELECT 1")
    assert status == 500
    assert answer["error"].startswith(error_of(arc, "arrow query failed: IO Error: Cannot open file"))
    assert ask(arc, "SELECT 1")[0] == 200


def test_a_server_that_is_down_refuses_and_keeps_its_buffer(buffering):
    """It comes back on the same port."""
    write(buffering, {"time": [us(NOON)]})
    buffering.faults.down = True
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", buffering.port), 1)
    buffering.faults.down = False
    assert ask(buffering, "SELECT 1")[0] == 200
    assert buffering.buffered_rows == 1


def test_a_hang_holds_queries_until_it_ends(buffering):
    """A client's timeout is what ends it for the client."""
    buffering.faults.hang_queries = True
    connection = http.client.HTTPConnection("127.0.0.1", buffering.port, timeout=0.1)
    headers = {"x-api-key": buffering.write_token, "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/query", b'{"sql": "SELECT 1"}', headers)
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    assert write(buffering, {"time": [us(NOON)]})[0] == 204
    buffering.faults.clear()
    assert ask(buffering, "SELECT 1")[0] == 200


def test_latency_is_added(buffering):
    """Answers come later by what was set."""
    buffering.faults.query_latency = 0.05
    began = time.perf_counter()
    ask(buffering, "SELECT 1")
    assert time.perf_counter() - began >= 0.05


def test_a_fault_that_is_none_is_refused(buffering):
    """A misspelt switch does not pass unnoticed."""
    with pytest.raises(AttributeError):
        buffering.faults.drop_shares = 1


def test_requests_are_recorded(buffering):
    """Queries and writes leave a record each, and can be forgotten."""
    write(buffering, {"time": [us(NOON)] * 3})
    ask(buffering, "SELECT 1")
    (written,), (asked,) = buffering.writes, buffering.queries
    assert (written.measurement, written.rows, written.status, written.stored) == ("m", 3, 204, True)
    assert (asked.sql, asked.status, asked.files_opened) == ("SELECT 1", 200, 0)
    assert (buffering.requests, buffering.concurrent, buffering.max_concurrent) == (2, 0, 1)
    buffering.clear_records()
    assert not buffering.writes
    assert not buffering.queries


# As a process


@pytest.mark.slow
def test_a_killed_process_loses_its_buffer_and_a_terminated_one_does_not(tmp_path):
    """It comes back on the same port and data, and its faults are set from outside."""
    with ArcProcess(data=tmp_path, max_buffer_age_ms=60_000) as arc:
        port = arc.port
        write(arc, {"time": [us(NOON)], "content": ["lost"]})
        assert arc.rows("default", "m") == [{"time": us(NOON), "content": "lost"}]
        arc.kill()
        arc.start()
        assert arc.port == port
        assert arc.rows("default", "m") == []
        assert arc.set_faults(down=True)["down"]
        with pytest.raises(OSError, match="refused"):
            write(arc, {"time": [us(NOON)], "content": ["refused"]})
        arc.set_faults(clear=True)
        write(arc, {"time": [us(NOON)], "content": ["kept"]})
        assert [record["stored"] for record in arc.records()["writes"]] == [True]
        assert arc.terminate() == 0
        arc.start()
        assert contents(arc, "true") == ["kept"]
        with pytest.raises((OSError, http.client.HTTPException)):
            write(arc, {"time": [1], "": ["a"]})
        assert arc.wait() == 2
