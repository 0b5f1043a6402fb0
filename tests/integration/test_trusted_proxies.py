from pathlib import Path

import pytest
import uvicorn
from builders import run

from memtrace_cli.server import Server
from memtrace_cli.settings import load_settings

CLIENT = "203.0.113.7"


def client_of(peer, forwarded, trusted):
    """Return whom a server takes for the client when a peer sends these `X-Forwarded-For` headers."""
    settings = load_settings(None, {"MEMTRACE_SERVER_TRUSTED_PROXIES": trusted}, system_file=Path("none")).settings
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["client"][0])

    config: uvicorn.Config = Server(app, settings.server, on_started=lambda: None).config
    config.load()
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded]
    scope = {"type": "http", "scheme": "http", "headers": headers, "client": (peer, 1)}
    run(config.loaded_app(scope, None, None))
    return seen[0]


@pytest.mark.parametrize(
    ("trusted", "peer"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("192.0.2.1, 10.0.0.0/8", "10.1.2.3"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("fd00::/8", "fd12::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
    ],
)
def test_a_trusted_proxy_tells_for_whom_it_asks(trusted, peer):
    """A proxy is known by its address or network in any way to write it, and as IPv4 on a socket for IPv6."""
    assert client_of(peer, [CLIENT], trusted) == CLIENT


@pytest.mark.parametrize(
    ("trusted", "peer"),
    [
        ("", "127.0.0.1"),
        ("", "::1"),
        ("10.0.0.0/8", "127.0.0.1"),
        ("10.0.0.0/8", "11.0.0.1"),
        ("10.0.0.0/8", "::ffff:11.0.0.1"),
        ("192.0.2.1", "192.0.2.2"),
        ("192.0.2.1", "::ffff:192.0.2.2"),
        ("fd00::/8", "fe80::1"),
    ],
)
def test_nobody_else_is_believed(monkeypatch, trusted, peer):
    """Another peer is the client, whatever it says; by default that is everybody, and no other variable counts."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert client_of(peer, [CLIENT], trusted) == peer


@pytest.mark.parametrize(
    "forwarded",
    [
        [f"6.6.6.6, {CLIENT}"],
        [f"10.0.0.9, {CLIENT}"],
        [f"{CLIENT}, 10.0.0.9"],
        ["6.6.6.6", CLIENT],
        [f"' OR 1=1, unknown, {CLIENT}, 10.0.0.9,10.0.0.10"],
        [f"{CLIENT}:4711"],
    ],
)
def test_what_a_client_says_itself_does_not_count(forwarded):
    """The last address in the chain that is no trusted proxy counts: those before it anybody may have written."""
    assert client_of("10.0.0.1", forwarded, "10.0.0.0/8") == CLIENT


@pytest.mark.parametrize("forwarded", [[], [""], [" , "]])
def test_a_proxy_that_tells_nothing_is_the_client(forwarded):
    """Without an address in the header the peer is all that is known."""
    assert client_of("10.0.0.1", forwarded, "10.0.0.0/8") == "10.0.0.1"
