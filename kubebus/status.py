"""What outsiders are told of the network's state: frozen, and ready for JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from kubebus.interfaces import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """A live link. Times are UNIX seconds, ``rtt`` seconds; bytes are those of frames, before TLS.

    ``dropped`` are packets that found the queue full; ``backlog`` the bytes that wait now.
    """

    address: str
    since: float
    last_seen: float
    rtt: float | None
    received_bytes: int
    sent_bytes: int
    dropped: int
    backlog: int
    streams: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node, as a router sees it. ``since`` is when it came or went, ``router`` the one it is connected to; it has a
    ``link`` only at that one.

    Of its packets ``spoofed`` had a source not its own, ``malformed`` could not be, ``unroutable`` had no known
    destination; ``away`` were for it while it was away.
    """

    name: str
    addresses: tuple[IPAddress, ...]
    pod_subnets: tuple[IPNetwork, ...]
    connected: bool
    revoked: bool
    router: str | None
    since: float
    last_seen: float | None
    spoofed: int
    malformed: int
    unroutable: int
    away: int
    link: LinkStatus | None


@dataclass(frozen=True, slots=True)
class TunStatus:
    """The TUN device. Seen from the host, ``read`` is what it sent into the tunnel."""

    name: str
    mtu: int
    read: int
    read_bytes: int
    written: int
    written_bytes: int
    refused: int


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """Another router of the network: where links to it go, and its own addresses in the network."""

    name: str
    addresses: tuple[str, ...]
    own: tuple[IPAddress, ...]
    connected: bool
    rtt: float | None


@dataclass(frozen=True, slots=True)
class RouterStatus:
    network: str
    router: str
    addresses: tuple[IPAddress, ...]
    pools: tuple[IPNetwork, ...]
    advertised: tuple[IPNetwork, ...]
    refused: tuple[str, ...]
    tun: TunStatus
    routers: tuple[PeerStatus, ...]
    nodes: tuple[NodeStatus, ...]


@dataclass(frozen=True, slots=True)
class EdgeStatus:
    """An edge node's own view. ``error`` is why the last link ended, or could not begin."""

    network: str
    node: str
    connected: bool
    router: str | None
    since: float
    error: str | None
    addresses: tuple[IPAddress, ...]
    pod_subnets: tuple[IPNetwork, ...]
    routes: tuple[IPNetwork, ...]
    refused: tuple[str, ...]
    tun: TunStatus | None
    link: LinkStatus | None
    foreign: int
    """Packets of this host that did not go into the tunnel, because their source is not the node's own."""
    malformed: int
    """Packets from the router that could not be, or were not for this node."""
    lost: int
    """Packets that came while there was no link."""


@dataclass(frozen=True, slots=True)
class NeighbourStatus:
    """Another node of the site. ``error`` is why there is no link.

    ``spoofed`` are packets of it whose source was not its own, ``malformed`` those that could not be, or were not for
    this node.
    """

    name: str
    endpoints: tuple[str, ...]
    connected: bool
    error: str | None
    spoofed: int
    malformed: int
    link: LinkStatus | None


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """``revision`` is that of the roster (0: none is known yet), ``endpoints`` where this node listens."""

    name: str | None
    revision: int
    endpoints: tuple[str, ...]
    neighbours: tuple[NeighbourStatus, ...]


def as_json(status: Any) -> Any:
    """The status as objects, lists, strings and numbers, for :func:`json.dumps`."""
    if dataclasses.is_dataclass(status):
        return {field.name: as_json(getattr(status, field.name)) for field in dataclasses.fields(status)}
    if isinstance(status, (tuple, list)):
        return [as_json(item) for item in status]
    if isinstance(status, (IPv4Address, IPv4Network, IPv6Address, IPv6Network)):
        return str(status)
    return status
