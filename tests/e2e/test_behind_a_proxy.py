"""Whom the log names as the client, beside a proxy that is trusted and beside one that is not."""

from __future__ import annotations

import httpx
from e2e.processes import Deployment, eventually

CLIENT = "203.0.113.7"
THE_PROXY, SOMEBODY_ELSE = "127.0.0.1", "127.0.0.2"


def test_only_a_trusted_proxy_says_who_the_client_is(deployment: Deployment) -> None:
    """Its `X-Forwarded-For` is believed from the last address on; from another peer, or unasked, it is not."""
    deployment.org()
    variables = {"MEMTRACE_SERVER_TRUSTED_PROXIES": f"192.0.2.0/24, {THE_PROXY}", "FORWARDED_ALLOW_IPS": "*"}
    with deployment.serve(variables=variables) as server:
        for peer in (THE_PROXY, SOMEBODY_ELSE):
            transport = httpx.HTTPTransport(local_address=peer)
            with httpx.Client(base_url=server.url, transport=transport, trust_env=False) as api:
                for forwarded in (CLIENT, f"6.6.6.6, {CLIENT}, 192.0.2.9", ""):
                    headers = {"x-forwarded-for": forwarded, "x-forwarded-proto": "https"}
                    assert api.get("/health", headers=headers).status_code == 200
        events = eventually(lambda: found if len(found := server.events("request")) == 6 else None)
    assert [event["client"] for event in events] == [CLIENT, CLIENT, THE_PROXY, *[SOMEBODY_ELSE] * 3]
