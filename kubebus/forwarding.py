"""The virtual router: which packet goes where. No IO of its own; hot.

Every subnet leads to a :class:`Port`: a node's, the host's own (what is advertised), or a pool's, which stands for
addresses that belong to nobody. A packet's source must lead to the very port that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import pairwise
from typing import Final

from kubebus.frames import HEADER_SIZE as FRAME_HEADER
from kubebus.frames import PacketFrames
from kubebus.icmp import unreachable
from kubebus.interfaces import IPAddress, IPNetwork
from kubebus.packets import MalformedPacket, addresses_at, check_at, is_multicast
from kubebus.routes import RouteTable
from kubebus.runs import Outlet, Runs

_ICMP_RATE: Final = 100.0
"""ICMP errors a second for all ports together (Linux's ``net.ipv4.icmp_msgs_per_sec`` is 1000)."""


_WAYS: Final = 4096
"""Pairs of addresses whose ports are known without a look at the routes."""


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

    def __init__(self, write: Callable[[bytes | memoryview], bool], mtu: int, clock: Callable[[], float]) -> None:
        self.host = Port("host", host=True)
        self.routes: RouteTable[Port] = RouteTable()
        self._write, self._mtu, self._clock = write, mtu, clock
        self._address4 = bytes(4)
        self._address6: bytes | None = None
        self._tokens, self._filled = _ICMP_RATE, clock()
        self._ways: dict[bytes, tuple[Port | None, Port | None]] = {}

    def set_addresses(self, addresses: Sequence[IPAddress]) -> None:
        """The router's own: they lead to the host, and ICMP errors come from them."""
        self._ways.clear()
        for address in addresses:
            self.routes.add(ip_network(address), self.host)
            if address.version == 4:
                self._address4 = address.packed
            else:
                self._address6 = address.packed

    def add(self, port: Port, subnets: Iterable[IPNetwork]) -> None:
        self._ways.clear()
        for subnet in subnets:
            self.routes.add(subnet, port)

    def remove(self, port: Port, subnets: Iterable[IPNetwork]) -> None:
        self._ways.clear()
        for subnet in subnets:
            if self.routes.get(subnet) is port:
                self.routes.remove(subnet)

    def from_link(self, port: Port, frames: PacketFrames) -> None:
        """Packets from a node, in whom nothing is trusted."""
        buffer, bounds = frames
        ways, mtu, counters = self._ways, self._mtu, port.counters
        runs = Runs(frames)
        for index, (start, end) in enumerate(pairwise(bounds)):
            begin = start + FRAME_HEADER
            try:
                addresses = check_at(buffer, begin, end, mtu)
            except MalformedPacket:
                counters.malformed += 1
                continue
            sender, target = ways.get(addresses) or self._way(addresses)
            if sender is not port:
                counters.spoofed += 1
            elif target is None:
                counters.unroutable += 1
            elif target.outlet is not None:
                runs.add(target.outlet, index)
            elif target.host:
                self._write(buffer[begin:end])
            else:
                target.counters.away += 1
                self._answer(bytes(buffer[begin:end]), port, runs)
        runs.send()

    def from_router(self, port: Port, frames: PacketFrames) -> None:
        """Packets from another router, which has checked that their sources are its own: its nodes', or its cloud's.
        They go to a node of this router or to the host, never on to a third router."""
        buffer, bounds = frames
        mtu, counters = self._mtu, port.counters
        runs = Runs(frames)
        for index, (start, end) in enumerate(pairwise(bounds)):
            begin = start + FRAME_HEADER
            try:
                addresses = check_at(buffer, begin, end, mtu)
            except MalformedPacket:
                counters.malformed += 1
                continue
            sender, target = self._ways.get(addresses) or self._way(addresses)
            if sender is not None and sender.outlet is not None and not sender.remote:
                counters.spoofed += 1
            elif target is None or target.remote:
                counters.unroutable += 1
            elif target.outlet is not None:
                runs.add(target.outlet, index)
            elif target.host:
                self._write(buffer[begin:end])
            else:
                target.counters.away += 1
                self._answer(bytes(buffer[begin:end]), port, runs)
        runs.send()

    def from_host(self, frames: PacketFrames) -> None:
        """Packets that the host's kernel routed to us; it has checked them."""
        buffer, bounds = frames
        host = self.host
        runs = Runs(frames)
        for index, (start, end) in enumerate(pairwise(bounds)):
            begin = start + FRAME_HEADER
            addresses = addresses_at(buffer, begin)
            sender, target = self._ways.get(addresses) or self._way(addresses)
            if target is None or target.host:
                if not is_multicast(addresses[len(addresses) // 2 :]):
                    host.counters.unroutable += 1
            elif sender is not None and not sender.host:
                # Edge addresses live at the edge only.
                host.counters.spoofed += 1
            elif target.outlet is not None:
                runs.add(target.outlet, index)
            else:
                target.counters.away += 1
                self._answer(bytes(buffer[begin:end]), host, runs)
        runs.send()

    def _way(self, addresses: bytes) -> tuple[Port | None, Port | None]:
        """Whose the source is and whose the destination."""
        half = len(addresses) // 2
        way = self.routes.lookup(addresses[:half]), self.routes.lookup(addresses[half:])
        if len(self._ways) >= _WAYS:
            self._ways.clear()
        self._ways[addresses] = way
        return way

    def _answer(self, payload: bytes, sender: Port, runs: Runs) -> None:
        """Tell the sender that its packet's destination is away."""
        if not self._may_answer():
            return
        answer = unreachable(payload, self._address4, self._address6)
        if answer is None:
            return
        if sender.outlet is not None:
            sender.outlet.send_packet(answer)
            runs.flush.add(sender.outlet)
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
