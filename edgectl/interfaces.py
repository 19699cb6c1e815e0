"""What the controller needs from the rest of the process. :mod:`kubebus.tap` provides it from the router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

from twisted.internet.interfaces import IStreamClientEndpoint


@dataclass(frozen=True, slots=True)
class EdgeNode:
    """An enrolled node. ``connected`` tells of a live link now, ``since`` (UNIX seconds) when that last changed.

    :ivar site: where it shares a LAN with others, whose pods it may take over.
    """

    name: str
    addresses: tuple[IPv4Address | IPv6Address, ...]
    pod_subnets: tuple[IPv4Network | IPv6Network, ...]
    connected: bool
    since: float
    revoked: bool = False
    site: str | None = None


class CannotAdopt(Exception):
    """A node cannot have the pod subnets that the cluster has allocated. The message says why, and what to do."""


class NodeDirectory(Protocol):
    """The enrolled nodes of one network."""

    def subscribe(self, changed: Callable[[str, EdgeNode | None], None]) -> None:
        """Call ``changed(name, node)`` for every node now, then at every change (``None``: removed for good)."""

    def endpoint(self, node: str, service: str) -> IStreamClientEndpoint:
        """Reaches a service of the node over its link; connecting fails with ``ConnectionError`` while it is away."""

    async def adopt(self, node: str, subnets: Sequence[IPv4Network | IPv6Network]) -> None:
        """Let ``subnets`` be the node's pod subnets from now on; it is told, and so are those who :meth:`subscribe`.

        :raises CannotAdopt: if that may not be.
        :raises ApiError: if it cannot be recorded now (:mod:`edgectl.errors`).
        """
