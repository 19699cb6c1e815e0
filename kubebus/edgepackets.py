"""The edge's data path: one host, one link to a router, and perhaps some to nodes of the same site. Hot; no IO."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kubebus.forwarding import addresses_of
from kubebus.interfaces import IPNetwork
from kubebus.link import Link
from kubebus.packets import MalformedPacket, check_packet, is_link_local, is_multicast
from kubebus.queues import MAX_BULK
from kubebus.routes import RouteTable
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

    def from_host(self, payloads: list[bytes]) -> None:
        link, own = self.link, self._own.lookup
        if self.direct is not None:
            payloads = self._directly(payloads, self.direct)
        if link is None:
            self.lost += len(payloads)
            return
        for payload in payloads:
            source, destination = addresses_of(payload)
            if own(source):
                link.send_packet(payload)
            elif not (is_multicast(destination) or is_link_local(source)):
                self.foreign += 1
        link.flush()

    def _directly(self, payloads: list[bytes], direct: Callable[[bytes], Link | None]) -> list[bytes]:
        """Send to nodes of the same site what is for them; the rest."""
        own, rest, links = self._own.lookup, [], set()
        for payload in payloads:
            source, destination = addresses_of(payload)
            neighbour = direct(destination)
            if neighbour is None or not own(source):
                rest.append(payload)
            else:
                neighbour.send_packet(payload)
                links.add(neighbour)
        for each in links:
            each.flush()
        return rest

    def from_neighbour(self, neighbour: Neighbour, payloads: list[bytes], tun: TunDevice) -> None:
        """Packets of a node of the same site: no router has checked their sources."""
        own, mtu, allowed = self._own.lookup, self._mtu, neighbour.sources.lookup
        for payload in payloads:
            try:
                source, destination = check_packet(payload, mtu)
            except MalformedPacket:
                neighbour.malformed += 1
                continue
            if not allowed(source):
                neighbour.spoofed += 1
            elif own(destination):
                tun.write(payload)
            else:
                neighbour.malformed += 1

    def from_router(self, payloads: list[bytes], tun: TunDevice) -> None:
        own, mtu = self._own.lookup, self._mtu
        for payload in payloads:
            try:
                _, destination = check_packet(payload, mtu)
            except MalformedPacket:
                self.malformed += 1
                continue
            if own(destination):
                tun.write(payload)
            else:
                self.malformed += 1
