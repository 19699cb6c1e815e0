"""The virtual router: which packet goes where. No IO of its own; hot.

Every subnet leads to a :class:`Port`: a node's, the host's own (what is advertised), or a pool's, which stands for
addresses that belong to nobody. A packet's source must lead to the very port that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final, Protocol

from kubebus.icmp import unreachable
from kubebus.interfaces import IPAddress, IPNetwork
from kubebus.packets import MalformedPacket, check_packet, is_multicast
from kubebus.routes import RouteTable

_ICMP_RATE: Final = 100.0
"""ICMP errors a second for all ports together (Linux's ``net.ipv4.icmp_msgs_per_sec`` is 1000)."""


class Outlet(Protocol):
    """Where a port's packets go: a live link."""

    def send_packet(self, payload: bytes) -> bool: ...

    def flush(self) -> None: ...


@dataclass(slots=True)
class PortCounters:
    """What was dropped of a port's own packets, and of those for it while its node was away."""

    spoofed: int = 0
    malformed: int = 0
    unroutable: int = 0
    away: int = 0


@dataclass(slots=True, eq=False)
class Port:
    """An exit of the virtual router. A node's keeps its counters while the node is away.

    ``remote``: the outlet leads to another router, which has the node.
    """

    name: str
    outlet: Outlet | None = None
    host: bool = False
    remote: bool = False
    counters: PortCounters = field(default_factory=PortCounters)


class Forwarder:
    """The virtual router's data path.

    :param write: hands a checked PACKET payload to the host's kernel.
    :param clock: the time in seconds, for limiting ICMP errors.
    """

    def __init__(self, write: Callable[[bytes], bool], mtu: int, clock: Callable[[], float]) -> None:
        self.host = Port("host", host=True)
        self.routes: RouteTable[Port] = RouteTable()
        self._write, self._mtu, self._clock = write, mtu, clock
        self._address4 = bytes(4)
        self._address6: bytes | None = None
        self._tokens, self._filled = _ICMP_RATE, clock()

    def set_addresses(self, addresses: Sequence[IPAddress]) -> None:
        """The router's own: they lead to the host, and ICMP errors come from them."""
        for address in addresses:
            self.routes.add(ip_network(address), self.host)
            if address.version == 4:
                self._address4 = address.packed
            else:
                self._address6 = address.packed

    def add(self, port: Port, subnets: Iterable[IPNetwork]) -> None:
        for subnet in subnets:
            self.routes.add(subnet, port)

    def remove(self, port: Port, subnets: Iterable[IPNetwork]) -> None:
        for subnet in subnets:
            if self.routes.get(subnet) is port:
                self.routes.remove(subnet)

    def from_link(self, port: Port, payloads: list[bytes]) -> None:
        """Packets from a node, in whom nothing is trusted."""
        lookup, known, mtu, counters = self.routes.lookup, self.routes.known, self._mtu, port.counters
        outlets: set[Outlet] = set()
        for payload in payloads:
            try:
                source, destination = check_packet(payload, mtu)
            except MalformedPacket:
                counters.malformed += 1
                continue
            if known.get(source) is not port and lookup(source) is not port:
                counters.spoofed += 1
                continue
            target = known.get(destination) or lookup(destination)
            if target is None:
                counters.unroutable += 1
            elif target.outlet is not None:
                target.outlet.send_packet(payload)
                outlets.add(target.outlet)
            elif target.host:
                self._write(payload)
            else:
                target.counters.away += 1
                self._answer(payload, port, outlets)
        for outlet in outlets:
            outlet.flush()

    def from_router(self, port: Port, payloads: list[bytes]) -> None:
        """Packets from another router, which has checked that their sources are its own: its nodes', or its cloud's.
        They go to a node of this router or to the host, never on to a third router."""
        lookup, mtu, counters = self.routes.lookup, self._mtu, port.counters
        outlets: set[Outlet] = set()
        for payload in payloads:
            try:
                source, destination = check_packet(payload, mtu)
            except MalformedPacket:
                counters.malformed += 1
                continue
            sender, target = lookup(source), lookup(destination)
            if sender is not None and sender.outlet is not None and not sender.remote:
                counters.spoofed += 1
            elif target is None or target.remote:
                counters.unroutable += 1
            elif target.outlet is not None:
                target.outlet.send_packet(payload)
                outlets.add(target.outlet)
            elif target.host:
                self._write(payload)
            else:
                target.counters.away += 1
                self._answer(payload, port, outlets)
        for outlet in outlets:
            outlet.flush()

    def from_host(self, payloads: list[bytes]) -> None:
        """Packets that the host's kernel routed to us; it has checked them."""
        lookup, known, host = self.routes.lookup, self.routes.known, self.host
        outlets: set[Outlet] = set()
        for payload in payloads:
            source, destination = addresses_of(payload)
            target = known.get(destination) or lookup(destination)
            if target is None or target.host:
                if not is_multicast(destination):
                    host.counters.unroutable += 1
                continue
            sender = lookup(source)
            if sender is not None and not sender.host:
                # Edge addresses live at the edge only.
                host.counters.spoofed += 1
            elif target.outlet is not None:
                target.outlet.send_packet(payload)
                outlets.add(target.outlet)
            else:
                target.counters.away += 1
                self._answer(payload, host, outlets)
        for outlet in outlets:
            outlet.flush()

    def _answer(self, payload: bytes, sender: Port, outlets: set[Outlet]) -> None:
        """Tell the sender that its packet's destination is away."""
        if not self._may_answer():
            return
        answer = unreachable(payload, self._address4, self._address6)
        if answer is None:
            return
        if sender.outlet is not None:
            sender.outlet.send_packet(answer)
            outlets.add(sender.outlet)
        elif sender.host:
            self._write(answer)

    def _may_answer(self) -> bool:
        now = self._clock()
        self._tokens = min(_ICMP_RATE, self._tokens + (now - self._filled) * _ICMP_RATE)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def addresses_of(payload: bytes) -> tuple[bytes, bytes]:
    """Source and destination of a packet that the kernel made."""
    if payload[10] >> 4 == 4:
        return payload[22:26], payload[26:30]
    return payload[18:34], payload[34:50]
