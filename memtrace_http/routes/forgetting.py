"""Forgetting memories: one, or all of an agent or of a session."""

from __future__ import annotations

from litestar import delete

from memtrace_core.forgotten import ForgetOrder
from memtrace_core.model import Permission
from memtrace_http.edge import path_text
from memtrace_http.endpoints import Endpoint, declare
from memtrace_http.requests import HttpRequest, services_of
from memtrace_http.schemas import ForgottenAnswer


@delete(
    "/api/v1/memories/{reference:str}",
    status_code=200,
    opt=declare(
        Endpoint(
            summary="Forget a memory, by its memory_id",
            permission=Permission.ADMIN,
            answers={200: (ForgottenAnswer,)},
            problems=(404, 503),
        )
    ),
)
async def forget_memory(request: HttpRequest) -> ForgottenAnswer:
    """Forget one memory."""
    memory_id = path_text(str(request.path_params["reference"]))
    return _answer(await services_of(request).forgetting.memory(request.user.org_id, memory_id))


@delete(
    "/api/v1/agents/{agent_id:str}/memories",
    status_code=200,
    opt=declare(
        Endpoint(
            summary="Forget all that an agent has stored so far",
            permission=Permission.ADMIN,
            answers={200: (ForgottenAnswer,)},
            problems=(400, 503),
        )
    ),
)
async def forget_agent(request: HttpRequest) -> ForgottenAnswer:
    """Forget an agent's memories; a registered agent stays."""
    agent_id = path_text(str(request.path_params["agent_id"]))
    return _answer(await services_of(request).forgetting.agent(request.user.org_id, agent_id))


@delete(
    "/api/v1/sessions/{session_id:str}/memories",
    status_code=200,
    opt=declare(
        Endpoint(
            summary="Forget all that was stored in a session so far",
            permission=Permission.ADMIN,
            answers={200: (ForgottenAnswer,)},
            problems=(400, 503),
        )
    ),
)
async def forget_session(request: HttpRequest) -> ForgottenAnswer:
    """Forget a session's memories; a session that was created stays."""
    session_id = path_text(str(request.path_params["session_id"]))
    return _answer(await services_of(request).forgetting.session(request.user.org_id, session_id))


def _answer(order: ForgetOrder) -> ForgottenAnswer:
    return ForgottenAnswer(status="forgotten", removed=order.removed, pending_in_arc=order.done_at is None)


HANDLERS = [forget_memory, forget_agent, forget_session]
