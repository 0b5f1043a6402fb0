import asyncio
import io
import json
import logging
import os
import re
import select
import sys
from datetime import datetime
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loguru import logger

from memtrace_cli import log_lines as module
from memtrace_cli.log_lines import Lines
from memtrace_cli.logs import configure_logs

forms = pytest.mark.parametrize("form", ["console", "json"])
HOSTILE = [
    "a b",
    "a\nb",
    "a\r\nWRN forged=1",
    "a\u2028b\u2029c\x85d\x0be\x0cf",
    'say "hi" \\ there',
    "level=error",
    "\x00\x01\x1b[31mred\x7f",
    "\ud800 alone, \udc2f too",
    "🙂 ünïcode",
    "",
    " ",
    "{0} {name} {{}}",
    "<red>markup</red>",
    "%s %d",
]
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d (DBG|INF|WRN|ERR) ")


class Capture(io.StringIO):
    """Standard error as a strict UTF-8 stream: what it cannot encode, it refuses."""

    def write(self, text):
        text.encode("utf-8", "backslashreplace")
        return super().write(text)


@pytest.fixture
def logs(monkeypatch):
    """Configure logs, and return them as they were written."""
    root = logging.getLogger()
    former, former_level = root.handlers[:], root.level

    def configure(form, level="info"):
        captured = Capture()
        monkeypatch.setattr(sys, "stderr", captured)
        captured.log_request = configure_logs(level, form)
        return captured

    yield configure
    logger.remove()
    root.handlers[:], root.level = former, former_level
    for name in ("memtrace", "uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(captured):
    """Return the lines that were written, as a reader of lines of any kind sees them, and forget them."""
    text = captured.getvalue()
    captured.seek(0)
    captured.truncate()
    assert "Logging error" not in text
    assert text.endswith("\n")
    return text[:-1].split("\n")


def test_a_console_line_is_time_level_message_and_fields(logs):
    """The console form is the one of the published sample lines."""
    captured = logs("console")
    logger.bind(url="http://arc:8000").warning("legacy [arc] config detected — migrating to DB")
    (line,) = lines(captured)
    assert LINE.match(line)
    assert line.endswith(" WRN legacy [arc] config detected — migrating to DB url=http://arc:8000")


def test_a_json_line_is_one_object(logs):
    """The json form has time, level and message, and the fields beside them."""
    captured = logs("json")
    logger.bind(url="http://arc:8000", count=3).warning("migrating")
    (line,) = lines(captured)
    event = json.loads(line)
    assert datetime.fromisoformat(event.pop("time")).tzinfo is not None
    assert event == {"level": "warn", "message": "migrating", "url": "http://arc:8000", "count": 3}


def test_a_json_lines_time_is_rfc_3339(logs):
    """Programs that read the log find the time in the one form that all of them know."""
    captured = logs("json")
    logger.info("hello")
    (line,) = lines(captured)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+([+-]\d\d:\d\d|Z)", json.loads(line)["time"])


def values(line, form):
    """Return a line's message and its field `value`, as a parser of the form reads them."""
    if form == "json":
        event = json.loads(line)
        return event["message"], event["value"]
    message, _, rest = LINE.sub("", line).partition(" value=")
    value = json.loads(rest.removesuffix(" last=1")) if rest.startswith('"') else rest.removesuffix(" last=1")
    assert rest.endswith(" last=1")
    assert rest.startswith('"') or " " not in value
    return message, value


def shown(text):
    """Return what is shown of a value: lone surrogates are escaped."""
    return text.encode(errors="backslashreplace").decode()


@forms
@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_value_stays_a_value_on_one_line(logs, form, text):
    """Whatever a field holds, the line stays one line that a parser reads back."""
    captured = logs(form)
    logger.bind(value=text, last=1).info("hello")
    (line,) = lines(captured)
    assert values(line, form) == ("hello", shown(text))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("\u2028").via("a line separator that json.dumps leaves as it is")
@given(st.text(st.characters(exclude_categories=[])))
@forms
def test_any_text_stays_on_one_line(logs, form, text):
    """Arbitrary Unicode, lone surrogates and control characters included, never breaks the log or raises."""
    captured = logs(form)
    logger.bind(value=text, last=1).info("hello")
    logger.info("{}", text)
    line, other = lines(captured)
    assert values(line, form) == ("hello", shown(text))
    assert form == "console" or json.loads(other)["message"] == shown(text)


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x08\x08b", "a\x00b", "a\tb\x7f"])
def test_a_message_cannot_steer_the_terminal(logs, text):
    """Control characters in a message, as a hostile Arc's error may hold them, are not written as such."""
    captured = logs("console")
    logger.info("{}", text)
    (line,) = lines(captured)
    assert line.isprintable()


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x08\x00b", "\x7f", "\x9b31m"])
def test_a_value_cannot_steer_the_terminal(logs, text):
    """Control characters in a field are escaped in the console form."""
    captured = logs("console")
    logger.bind(value=text).info("hello")
    (line,) = lines(captured)
    assert line.isprintable()


@pytest.mark.parametrize("text", ["plain", "a=b", "a b", '"'])
def test_a_value_is_quoted_exactly_when_it_needs_to_be(logs, text):
    """A plain value stands as it is; one with a space, a quote or an equals sign is quoted."""
    captured = logs("console")
    logger.bind(value=text).info("hello")
    (line,) = lines(captured)
    assert line.endswith("value=plain" if text == "plain" else "value=" + json.dumps(text, ensure_ascii=False))


def fail(text):
    """Raise an error from a few frames down, with a local that is a secret."""
    secret = "mtk_hidden_in_a_local"  # noqa: F841
    raise RuntimeError(text)


@forms
def test_an_exception_is_told_once_and_without_variables(logs, form):
    """A traceback is part of its event, and shows no variable's value: it might be a secret."""
    captured = logs(form)
    try:
        fail("first\nsecond")
    except RuntimeError:
        logger.exception("request failed")
    written = lines(captured)
    text = "\n".join(written)
    assert "mtk_hidden_in_a_local" not in text.replace('secret = "mtk_hidden_in_a_local"', "")
    if form == "json":
        (line,) = written
        event = json.loads(line)
        assert event["level"] == "error"
        assert event["exception"].startswith("Traceback (most recent call last):")
        assert event["exception"].endswith("RuntimeError: first\nsecond")
    else:
        assert written[0].endswith(" ERR request failed")
        assert written[1] == "Traceback (most recent call last):"
        assert written[-2:] == ["RuntimeError: first", "second"]


@forms
def test_an_exception_with_a_lone_surrogate_is_logged(logs, form):
    """A traceback whose text no encoder takes is written all the same."""
    captured = logs(form)
    try:
        fail("\ud800")
    except RuntimeError:
        logger.exception("request failed")
    text = "\n".join(lines(captured))
    assert "RuntimeError" in text
    assert "request failed" in text


@forms
def test_the_standard_librarys_loggers_come_out_in_our_form(logs, form):
    """What the core logs through `logging`, with its fields, looks like every other line."""
    captured = logs(form)
    extra = {"org": "org_a", "failures": 2, "unknown": "left out"}
    logging.getLogger("memtrace.delivery").warning("delivery failed: %s", "100% {bad} <b>", extra=extra)
    (line,) = lines(captured)
    if form == "json":
        event = json.loads(line)
        assert (event["level"], event["message"]) == ("warn", "delivery failed: 100% {bad} <b>")
        assert (event["org"], event["failures"], "unknown" in event) == ("org_a", 2, False)
    else:
        assert LINE.match(line)
        assert line.endswith(" WRN delivery failed: 100% {bad} <b> org=org_a failures=2")


@forms
def test_what_nobody_knows_is_left_out(logs, form):
    """An error without a hint is logged without one."""
    captured = logs(form)
    logging.getLogger("memtrace").error("storage: gone", extra={"request_id": "r1", "hint": None})
    (line,) = lines(captured)
    assert "hint" not in line
    assert "r1" in line


@forms
def test_an_exception_of_the_standard_librarys_loggers_is_kept(logs, form):
    """`exc_info` crosses the bridge."""
    captured = logs(form)
    try:
        fail("boom")
    except RuntimeError as error:
        logging.getLogger("memtrace.http").error("request failed", exc_info=error)
    text = "\n".join(lines(captured))
    assert "RuntimeError: boom" in text
    assert len(text.splitlines()) == 1 or form == "console"


LEVELS = ["debug", "info", "warn", "error"]


@pytest.mark.parametrize("source", ["loguru", "logging"])
@pytest.mark.parametrize("level", LEVELS)
def test_only_what_is_at_least_of_the_level_is_written(logs, level, source):
    """The level of the settings holds for our own lines and for those that come over the bridge."""
    captured = logs("json", level)
    speaker = logger if source == "loguru" else logging.getLogger("memtrace.delivery")
    for name in LEVELS:
        getattr(speaker, "warning" if name == "warn" else name)(name)
    assert [json.loads(line)["message"] for line in lines(captured)] == LEVELS[LEVELS.index(level) :]


@pytest.mark.parametrize("name", ["uvicorn.error", "asyncio"])
def test_libraries_are_quiet_about_their_routine(logs, name):
    """uvicorn and asyncio only come through from warnings on, also at level debug."""
    captured = logs("json", "debug")
    logging.getLogger(name).info("started")
    logging.getLogger(name).warning("trouble")
    assert [json.loads(line)["message"] for line in lines(captured)] == ["trouble"]


@forms
def test_the_request_log_tells_method_path_status_latency_org_client_and_ids(logs, form):
    """One line a request, with fields that a program can use; what is not known has no field."""
    captured = logs(form)
    log = captured.log_request
    log("GET", "/api/v1/memories/a b", 200, 0.01234, "org_a", "req-1", "2001:db8::7", "4bf9")
    log("GET", "/nowhere", 404, 0.5, None, "req-2", None, None)
    first, second = lines(captured)
    if form == "json":
        event = json.loads(first)
        del event["time"]
        assert event == {
            "level": "info",
            "message": "request",
            "method": "GET",
            "path": "/api/v1/memories/a b",
            "status": 200,
            "latency_ms": 12.34,
            "org": "org_a",
            "request_id": "req-1",
            "client": "2001:db8::7",
            "trace_id": "4bf9",
        }
        assert not {"org", "client", "trace_id"} & set(json.loads(second))
    else:
        fields = 'method=GET path="/api/v1/memories/a b" status=200 latency_ms=12.34 org=org_a request_id=req-1'
        assert first.endswith(f" INF request {fields} client=2001:db8::7 trace_id=4bf9")
        assert second.endswith(" INF request method=GET path=/nowhere status=404 latency_ms=500.0 request_id=req-2")


def test_logs_go_to_stderr_and_nowhere_else(logs, capfd):
    """Standard output is for data: no log line ever appears there, and configuring twice writes nothing twice."""
    logs("console")
    captured = logs("console")
    logger.info("hello")
    assert len(lines(captured)) == 1
    assert capfd.readouterr() == ("", "")


def test_requests_are_logged_once_a_turn_of_the_loop_and_in_order(logs):
    """What a turn has answered is written together, before any later line, and nothing waits longer than that."""
    captured = logs("json")
    at_once = []

    async def body():
        for number in range(3):
            captured.log_request("GET", "/", 200, 0.1, None, f"r-{number}", None, None)
        at_once.append(captured.getvalue())
        await asyncio.sleep(0)
        at_once.append(captured.getvalue().count("\n"))
        captured.log_request("GET", "/", 200, 0.1, None, "r-3", None, None)
        logger.info("later")

    asyncio.run(body())
    assert at_once == ["", 3]
    events = [json.loads(line) for line in lines(captured)]
    assert [event.get("request_id") for event in events] == ["r-0", "r-1", "r-2", "r-3", None]


def test_a_log_that_cannot_be_written_fails_no_request(logs):
    """When stderr is closed, requests go on unlogged."""
    captured = logs("console")
    captured.close()
    complaints = []

    async def body():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        captured.log_request("GET", "/", 200, 0.1, None, "r", None, None)
        await asyncio.sleep(0)

    asyncio.run(body())
    assert complaints == []


@pytest.mark.parametrize("level", ["warn", "error"])
def test_requests_are_no_warnings(logs, level):
    """At a level above info there is no request log."""
    captured = logs("console", level)
    captured.log_request("GET", "/", 200, 0.1, None, "r", None, None)
    assert captured.getvalue() == ""


def test_lines_that_are_written_together_reach_a_pipe_whole(monkeypatch):
    """What is written at once ends with a line and is no more than a pipe takes whole, a longer line apart."""
    texts = []
    no_file = mock.Mock(side_effect=io.UnsupportedOperation)
    monkeypatch.setattr(sys, "stderr", mock.Mock(write=texts.append, fileno=no_file))
    lines = [letter * length for letter, length in (("a", 2000), ("ü", 1500), ("c", 9), ("d", 5000), ("e", 7))]

    async def body():
        log = Lines()
        for line in lines:
            log.write_soon(line)
        await asyncio.sleep(0)

    asyncio.run(body())
    assert [text.split("\n")[:-1] for text in texts] == [lines[:1], lines[1:3], lines[3:4], lines[4:]]
    assert all(len(text.encode()) <= select.PIPE_BUF for text in texts if "d" not in text)


def test_a_log_that_nobody_reads_holds_up_nobody(monkeypatch):
    """Lines wait for a pipe that is full, further ones are dropped and counted, and then all goes on in order."""
    monkeypatch.setattr(module, "MOST_WAITING", 100)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    reading, writing = os.pipe()
    told = []

    async def body():
        log = Lines("{} dropped".format)
        with os.fdopen(writing, "w") as stderr:
            monkeypatch.setattr(sys, "stderr", stderr)
            for number in range(1_000):  # far more than a pipe holds
                log.write_soon(f"{number} " + "x" * 1_000)
                await asyncio.sleep(0)
            log.write("of an event")
            while "of a later event" not in "".join(told):
                told.append((await asyncio.to_thread(os.read, reading, 1 << 16)).decode())
                if not log._waiting:
                    log.write_soon("of a later event")

    with os.fdopen(reading):
        asyncio.run(asyncio.wait_for(body(), 20))
    lines = "".join(told).splitlines()
    (dropped,) = [int(line.split()[0]) for line in lines if line.endswith(" dropped")]
    shown = [int(line.split()[0]) for line in lines if line.endswith("xxx")]
    assert shown == list(range(len(shown)))
    assert len(shown) + dropped == 1_001
    assert lines[-2:] == [f"{dropped} dropped", "of a later event"]


def test_a_line_beside_one_of_another_thread_is_written(capsys):
    """A thread that has counted the lines it is about to write leaves none behind for ever."""

    async def body():
        log = Lines()
        log._waiting.append("of another thread")
        log.write_soon("of a request")
        await asyncio.sleep(0)

    asyncio.run(body())
    assert capsys.readouterr().err == "of another thread\nof a request\n"
