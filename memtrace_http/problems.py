"""Errors as answers: one function that maps what went wrong to a status and a sentence."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from memtrace_core.errors import (
    ArcTimeout,
    ArcUnreachable,
    Conflict,
    DuplicateMemory,
    Forbidden,
    InvalidInput,
    MemtraceError,
    NotFound,
    StorageUnavailable,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)

REQUEST_ID = "memtrace.request_id"

AnyRequest = Request[Any, Any, Any]

_log = logging.getLogger("memtrace.http")

_STATUSES: tuple[tuple[type[MemtraceError], int], ...] = (
    (InvalidInput, 400),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (TooManyRequests, 429),
    (Unavailable, 503),
    (ArcTimeout, 504),
)
_ARC_AWAY = ArcUnreachable("the organization's Arc cannot be used at the moment")
_ARC_SLOW = ArcTimeout("the organization's Arc did not answer in time")
_STORAGE_AWAY = StorageUnavailable(
    "the server cannot use its own storage at the moment", hint="the operator finds the reason in the server's log"
)
_PLACE = re.compile(r"(?P<what>.*) - at `(key in )?\$\.?(?P<where>.*)`", re.DOTALL)
_WORDS = {"str": "string", "int": "whole number", "float": "number", "bool": "boolean", "object": "object"}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The body of every error. `error` is for a person, `code` for a program."""

    error: str
    code: str = ""
    hint: str | None = None
    request_id: str | None = None
    memory_id: str | None = None


class Refusal(HTTPException):
    """A request that HTTP itself is enough to refuse."""

    def __init__(self, status_code: int, code: str, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail=error, status_code=status_code, headers=headers)
        self.code = code


def undecodable(error: Exception) -> InvalidInput:
    """Return the error for a JSON body that does not decode, naming the field where there is one."""
    if isinstance(error, RecursionError):
        return InvalidInput("the body is nested too deeply", code="invalid_json")
    if not isinstance(error, msgspec.ValidationError):
        return InvalidInput(f"the body is not valid JSON: {error}", code="invalid_json")
    text = str(error)
    where = ""
    if place := _PLACE.fullmatch(text):
        text, where = place["what"], place["where"]
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL):
        field = f"{where}.{unknown[1]}" if where else unknown[1]
        return InvalidInput(f"unknown field {field!r}", code="unknown_field")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text, re.DOTALL):
        field = f"{where}.{missing[1]}" if where else missing[1]
        return InvalidInput(f"{field} is required", code="missing_field")
    text = re.sub(r"`([^`]*)`", lambda match: _plain(match[1]), text)
    return InvalidInput(f"{where or 'the body'}: {text[:1].lower()}{text[1:]}", code="wrong_type")


def _plain(types: str) -> str:
    return " or ".join(_WORDS.get(name, name) for name in types.split(" | ") if name != "null" or types == "null")


def on_memtrace_error(request: AnyRequest, error: MemtraceError) -> Response[Problem]:
    """Answer for everything the core raises on purpose."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if status == 500:
        _log.error("request failed: %s", error, extra={"request_id": _request_id(request)})
        return _answer(request, 500, Problem(error="internal error", code="internal"))
    headers = {}
    if isinstance(error, ArcUnreachable | ArcTimeout):
        # What an Arc says may hold SQL, and is for the operator.
        _log.warning("arc: %s", error, extra={"request_id": _request_id(request)})
        error = _ARC_AWAY if isinstance(error, ArcUnreachable) else _ARC_SLOW
    if isinstance(error, StorageUnavailable):
        # Which file it is, is for the operator, too.
        _log.error("storage: %s", error, extra={"request_id": _request_id(request), "hint": error.hint})
        error = _STORAGE_AWAY
    if isinstance(error, Unavailable) and error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    memory_id = error.memory_id if isinstance(error, DuplicateMemory) else None
    problem = Problem(error=str(error), code=error.code, hint=error.hint, memory_id=memory_id)
    return _answer(request, status, problem, headers)


def on_http_exception(request: AnyRequest, error: HTTPException) -> Response[Problem]:
    """Answer for what the framework or `Refusal` raises."""
    status = error.status_code
    if isinstance(error, Refusal):
        return _answer(request, status, Problem(error=error.detail, code=error.code), error.headers)
    if status == 404:
        return _answer(request, 404, Problem(error="no such endpoint", code="no_such_endpoint"))
    if status == 405:
        return _answer(request, 405, Problem(error="method not allowed", code="method_not_allowed"), error.headers)
    if status < 500:
        return _answer(request, status, Problem(error=error.detail or "bad request", code="bad_request"))
    return on_exception(request, error)


def on_exception(request: AnyRequest, error: Exception) -> Response[Problem]:
    """Answer for a defect of ours: the details go to the log only."""
    _log.error("request failed", exc_info=error, extra={"request_id": _request_id(request)})
    return _answer(request, 500, Problem(error="internal error", code="internal"))


def _answer(
    request: AnyRequest,
    status: int,
    problem: Problem,
    headers: Mapping[str, str] | None = None,
) -> Response[Problem]:
    identified = msgspec.structs.replace(problem, request_id=_request_id(request))
    return Response(identified, status_code=status, headers=dict(headers or {}))


def _request_id(request: AnyRequest) -> str | None:
    found = request.scope.get(REQUEST_ID)
    return found if isinstance(found, str) else None
