"""The edge's data path: one host, one link. No IO of its own; hot."""

from __future__ import annotations

from collections.abc import Iterable

from kubebus.forwarding import addresses_of
from kubebus.interfaces import IPNetwork
from kubebus.link import Link
from kubebus.packets import MalformedPacket, check_packet, is_link_local, is_multicast
from kubebus.queues import MAX_BULK
from kubebus.routes import RouteTable
from kubebus.tundevice import TunDevice


class EdgePackets:
    """Moves packets between the host and the link.

    :ivar link: the live link, or ``None``.
    :ivar foreign: packets of the host that stayed here, because their source is not the node's own: the router
        would drop them.
    :ivar malformed: packets from the router that could not be, or were not for this node.
    :ivar lost: packets that came while there was no link.
    """

    def __init__(self, mtu: int) -> None:
        self.link: Link | None = None
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
        """Whether the host had better wait: half the link's queue is full."""
        return self.link is not None and self.link.backlog > MAX_BULK // 2

    def from_host(self, payloads: list[bytes]) -> None:
        link, own = self.link, self._own.lookup
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
