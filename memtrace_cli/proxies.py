"""Reverse proxies that are believed when they say for whom they ask."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Network, ip_network


class Network(str):
    """The address of a host, such as `10.0.0.1`, or of a network, such as `10.0.0.0/8`.

    Raises:
        ValueError: it is neither, or is a network with bits of a host.
    """

    def __new__(cls, text: object) -> Network:
        """Take a text that names one."""
        ip_network(str(text))
        return super().__new__(cls, text)


def as_seen(networks: Iterable[Network]) -> list[str]:
    """Return networks, also as a server sees them that listens on IPv6 and takes IPv4 along."""
    seen: list[str] = []
    for network in networks:
        parsed = ip_network(network)
        seen.append(network)
        if not isinstance(parsed, IPv6Network):
            seen.append(f"::ffff:{parsed.network_address}/{96 + parsed.prefixlen}")
    return seen
