"""What the engine needs from the rest of the process. :mod:`appengine.tap` provides it from the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """The node's place in the network, as last learnt from a router. It is kept for boots without a cloud.

    ``pod_subnets`` are this node's own (IPv4 first, then IPv6); pods get addresses from them. ``routes`` are all
    subnets reached through the tunnel; traffic to them keeps its source address.
    """

    network: str
    node: str
    addresses: tuple[IPv4Address | IPv6Address, ...]
    pod_subnets: tuple[IPv4Network | IPv6Network, ...]
    routes: tuple[IPv4Network | IPv6Network, ...]
    interface: str
    mtu: int


class NetworkSource(Protocol):
    """Tells the engine its network configuration: the saved one at once at start, and every change."""

    def subscribe(self, changed: Callable[[NodeNetwork], None]) -> None:
        """Call ``changed`` now if the configuration is known, and whenever it changes."""
