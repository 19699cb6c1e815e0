"""The edge's data path: one host, one link to a router, and perhaps some to nodes of the same site. Hot; no IO."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from kubebus.frames import HEADER_SIZE as FRAME_HEADER
from kubebus.frames import PacketFrames
from kubebus.interfaces import IPNetwork
from kubebus.link import Link
from kubebus.packets import MalformedPacket, addresses_at, check_at, is_link_local, is_multicast
from kubebus.queues import MAX_BULK
from kubebus.routes import RouteTable
from kubebus.runs import Runs
from kubebus.tundevice import TunDevice


@dataclass(slots=True, eq=False)
class Neighbour:
    """Another node of the site, as the data path sees it.

    :ivar sources: what its packets may come from.
    :ivar spoofed: packets of it from elsewhere; ``malformed`` those that could not be, or were not for this node.
    """

    sources: RouteTable[bool] = field(default_factory=RouteTable)
    spoofed: int = 0
    malformed: int = 0

    def allow(self, subnets: Iterable[IPNetwork]) -> None:
        """Its subnets, instead of those before."""
        self.sources = RouteTable()
        for subnet in subnets:
            self.sources.add(subnet, True)


class EdgePackets:
    """Moves packets between the host and the links.

    :ivar link: the live link to a router, or ``None``.
    :ivar direct: the live link to the node of the same site that has the (packed) address; ``None`` where there are no
        such links.
    :ivar foreign: packets of the host that stayed here, because their source is not the node's own: the router
        would drop them.
    :ivar malformed: packets from the router that could not be, or were not for this node.
    :ivar lost: packets that came while there was no link.
    """

    def __init__(self, mtu: int) -> None:
        self.link: Link | None = None
        self.direct: Callable[[bytes], Link | None] | None = None
        self.foreign = self.malformed = self.lost = 0
        self._mtu = mtu
        self._own: RouteTable[bool] = RouteTable()

    def configure(self, own: Iterable[IPNetwork], mtu: int) -> None:
        """The node's own addresses and subnets."""
        self._mtu = mtu
        self._own = RouteTable()
        for subnet in own:
            self._own.add(subnet, True)

    @property
    def congested(self) -> bool:
        """Whether the host had better wait: half the link's queue is full, and there is no other way out."""
        return self.link is not None and self.direct is None and self.link.backlog > MAX_BULK // 2

    def from_host(self, frames: PacketFrames) -> None:
        link, own, direct = self.link, self._own.lookup, self.direct
        buffer, bounds = frames
        runs = Runs(frames)
        for index in range(len(bounds) - 1):
            addresses = addresses_at(buffer, bounds[index] + FRAME_HEADER)
            half = len(addresses) // 2
            source, destination = addresses[:half], addresses[half:]
            if not own(source):
                if not (is_multicast(destination) or is_link_local(source)):
                    self.foreign += 1
                continue
            outlet = link if direct is None else direct(destination) or link
            if outlet is None:
                self.lost += 1
            else:
                runs.add(outlet, index)
        runs.send()

    def from_neighbour(self, neighbour: Neighbour, frames: PacketFrames, tun: TunDevice) -> None:
        """Packets of a node of the same site: no router has checked their sources."""
        buffer, bounds = frames
        own, mtu, allowed = self._own.lookup, self._mtu, neighbour.sources.lookup
        for start, end in pairwise(bounds):
            begin = start + FRAME_HEADER
            try:
                addresses = check_at(buffer, begin, end, mtu)
            except MalformedPacket:
                neighbour.malformed += 1
                continue
            half = len(addresses) // 2
            if not allowed(addresses[:half]):
                neighbour.spoofed += 1
            elif own(addresses[half:]):
                tun.write(buffer[begin:end])
            else:
                neighbour.malformed += 1

    def from_router(self, frames: PacketFrames, tun: TunDevice) -> None:
        buffer, bounds = frames
        own, mtu = self._own.lookup, self._mtu
        for start, end in pairwise(bounds):
            begin = start + FRAME_HEADER
            try:
                addresses = check_at(buffer, begin, end, mtu)
            except MalformedPacket:
                self.malformed += 1
                continue
            if own(addresses[len(addresses) // 2 :]):
                tun.write(buffer[begin:end])
            else:
                self.malformed += 1
