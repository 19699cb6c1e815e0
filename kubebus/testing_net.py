# mypy: disallow-untyped-calls=False
"""For tests: a TUN device and a host in memory, members in memory, links over memory, and packets to send."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from kubebus.frames import HEADER_SIZE as FRAME_HEADER
from kubebus.frames import frame_at, packet_frames
from kubebus.hostnetwork import HostNetworkError, HostSubnet
from kubebus.icmp import checksum
from kubebus.interfaces import IPAddress, IPNetwork, NodeRecord, Subscription
from kubebus.packets import HEADER_SIZE, NO_OFFLOAD, check_packet
from kubebus.tundevice import Receiver, TunCounters, TunDevice

_BATCH = 4


def temporary_path(case: SynchronousTestCase) -> Path:
    """A path where nothing is, which is removed after the test."""
    folder = tempfile.TemporaryDirectory()
    case.addCleanup(folder.cleanup)
    return Path(folder.name) / "here"


class MemoryTun:
    """A :class:`~kubebus.tundevice.TunDevice` whose kernel is the test.

    :ivar written: the payloads that the kernel got.
    """

    def __init__(self, name: str = "kb0") -> None:
        self.name = name
        self.counters = TunCounters()
        self.written: list[bytes] = []
        self.paused = self.closed = False
        self._receiver: Receiver | None = None
        self._lost: Callable[[], None] = lambda: None
        self._waiting: list[bytes] = []

    def route(self, *payloads: bytes) -> None:
        """The kernel routes packets into the device. They wait while it is paused."""
        if self.closed:
            return
        self._waiting += payloads
        self._deliver()

    def start(self, receiver: Receiver, lost: Callable[[], None]) -> None:
        self._receiver, self._lost = receiver, lost
        self._deliver()

    def vanish(self) -> None:
        """Somebody removes the device."""
        self.close()
        self._lost()

    def write(self, payload: bytes | memoryview) -> bool:
        if self.closed:
            self.counters.refused += 1
            return False
        self.written.append(bytes(payload))
        self.counters.written += 1
        self.counters.written_bytes += len(payload) - HEADER_SIZE
        return True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self._deliver()

    def close(self) -> None:
        self.closed = True

    def _deliver(self) -> None:
        while self._waiting and self._receiver is not None and not (self.paused or self.closed):
            payloads, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            self.counters.read += len(payloads)
            self.counters.read_bytes += sum(map(len, payloads)) - HEADER_SIZE * len(payloads)
            self._receiver(packet_frames(payloads))


class TunContract(SynchronousTestCase if TYPE_CHECKING else object):  # type: ignore[misc]
    """What every TUN device does. Mix it into a TestCase whose ``setUp`` makes ``device`` and sets the rest.

    :ivar send: lets the host send this many bytes of UDP data into the device, from ``here`` to ``there``.
    :ivar spin: runs the reactor until the condition is true.
    :ivar arrived: the UDP data that the host got for ``here``.
    """

    device: TunDevice
    here: str
    there: str
    send: Callable[[int], None]
    spin: Callable[[Callable[[], bool]], None]
    arrived: Callable[[], list[bytes]]

    def test_packets_come_out_whole(self) -> None:
        received: list[bytes] = []
        self.device.start(lambda frames: received.extend(frames.payloads()), self.fail)
        for size in (1, 1000):
            self.send(size)
        self.spin(lambda: len(received) == 2)
        for payload, size in zip(received, (1, 1000), strict=True):
            source, destination = check_packet(payload, 1500)
            self.assertEqual(source, ip_address(self.here).packed)
            self.assertEqual(destination, ip_address(self.there).packed)
            self.assertTrue(payload.endswith(bytes(size)))
        self.assertEqual((self.device.counters.read, self.device.counters.read_bytes), (2, 1001 + 2 * 28))

    def test_packets_go_in(self) -> None:
        payload = udp_packet(self.there, self.here, b"hello", 7000)
        self.assertTrue(self.device.write(payload))
        self.spin(lambda: self.arrived() == [b"hello"])
        self.assertEqual((self.device.counters.written, self.device.counters.written_bytes), (1, 28 + 5))

    def test_none_before_the_start_or_while_paused(self) -> None:
        received: list[bytes] = []
        self.send(1)
        self.device.pause()
        self.device.start(lambda frames: received.extend(frames.payloads()), self.fail)
        self.device.pause()
        self.send(2)
        self.assertEqual(received, [])
        self.device.resume()
        self.spin(lambda: len(received) == 2)
        self.device.resume()

    def test_closing(self) -> None:
        self.device.start(lambda frames: None, self.fail)
        self.device.close()
        self.device.close()
        self.device.resume()
        self.assertFalse(self.device.write(udp_packet(self.there, self.here)))
        self.assertEqual(self.device.counters.refused, 1)


class MemoryHostNetwork:
    """A :class:`~kubebus.hostnetwork.HostNetwork`.

    :param own: subnets of the host itself, with their devices.
    :ivar broken: while true, every change fails.
    """

    def __init__(self, own: Sequence[HostSubnet] = (), ipv6: bool = True) -> None:
        self.own = list(own)
        self.ipv6 = ipv6
        self.broken = False
        self.mtu: dict[str, int] = {}
        self.addresses: list[IPAddress] = []
        self.routes: list[IPNetwork] = []
        self.held: list[IPNetwork] = []
        self.forwarding = False

    def subnets(self, interface: str) -> Sequence[HostSubnet]:
        return list(self.own)

    def has_ipv6(self) -> bool:
        return self.ipv6

    def bring_up(self, interface: str, mtu: int) -> None:
        self._check()
        self.mtu[interface] = mtu

    def add_address(self, interface: str, address: IPAddress) -> None:
        self._check()
        self.addresses.append(address)

    def remove_address(self, interface: str, address: IPAddress) -> None:
        self._check()
        self.addresses.remove(address)

    def add_route(self, interface: str, subnet: IPNetwork) -> None:
        self._check()
        self.routes.append(subnet)

    def remove_route(self, interface: str, subnet: IPNetwork) -> None:
        self._check()
        self.routes.remove(subnet)

    def hold(self, subnet: IPNetwork) -> None:
        self._check()
        self.held.append(subnet)

    def release(self, subnet: IPNetwork) -> None:
        self._check()
        self.held.remove(subnet)

    def forward(self, interface: str, ipv6: bool) -> None:
        self._check()
        self.forwarding = True

    def restore_forwarding(self) -> None:
        self.forwarding = False

    def _check(self) -> None:
        if self.broken:
            raise HostNetworkError("the host's network cannot be changed")


class MemoryMembers:
    """A :class:`~kubebus.nodes.MemberSource`."""

    def __init__(self, *records: NodeRecord) -> None:
        self._records = {record.name: record for record in records}
        self._watchers: list[Callable[[str, NodeRecord | None], None]] = []

    def put(self, record: NodeRecord) -> None:
        self._records[record.name] = record
        for watcher in list(self._watchers):
            watcher(record.name, record)

    def remove(self, name: str) -> None:
        del self._records[name]
        for watcher in list(self._watchers):
            watcher(name, None)

    async def node(self, name: str) -> NodeRecord | None:
        return self._records.get(name)

    def subscribe(self, changed: Callable[[str, NodeRecord | None], None]) -> Subscription:
        self._watchers.append(changed)
        for record in list(self._records.values()):
            changed(record.name, record)
        return _Cancellation(lambda: self._watchers.remove(changed))


class _Cancellation:
    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel: Callable[[], None] | None = cancel

    def cancel(self) -> None:
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()


def node_record(name: str, number: int, revoked_at: float | None = None) -> NodeRecord:
    """A node with the addresses ``10.250.0.<number>`` and ``fd00:b::<number>``, and the pod subnets
    ``10.192.<number>.0/24`` and ``fd00:b:0:<number>::/64``; beyond 255 the second byte counts on."""
    return NodeRecord(
        name,
        (IPv4Address(f"10.250.{number >> 8}.{number & 255}"), IPv6Address(f"fd00:b::{number:x}")),
        (IPv4Network(f"10.{192 + (number >> 8)}.{number & 255}.0/24"), IPv6Network(f"fd00:b:0:{number:x}::/64")),
        "00" * 32,
        0.0,
        revoked_at,
    )


class MemoryWire:
    """Two transports that a test connects: bytes cross when it says so. Producers are paused on demand."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ends = (WireEnd(), WireEnd())

    def pump(self, most: int = 1000) -> None:
        """Carry bytes to and fro, and run what is due at once, until nothing more happens."""
        for _ in range(most):
            self.clock.advance(0)
            moved = [self._carry(0, 1), self._carry(1, 0)]
            if not any(moved):
                return
        raise AssertionError("the two ends never stop talking")

    def _carry(self, source: int, target: int) -> bool:
        sender, receiver = self.ends[source], self.ends[target]
        data = b"" if sender.stalled else sender.take()
        if data and receiver.protocol is not None and not receiver.gone:
            receiver.protocol.dataReceived(data)
        if sender.closing and not sender.gone and not sender.stalled:
            sender.lose()
            receiver.lose()
            return True
        return bool(data)


class WireEnd(StringTransport):
    """One end of a :class:`MemoryWire`.

    :ivar stalled: nothing written here arrives.
    :ivar batch: as :class:`~kubebus.fastpath.FastTLSTransport` says it; without it, links queue what they send.
    """

    batch = 16384

    def __init__(self) -> None:
        super().__init__()
        self.stalled = self.gone = self.aborted = False
        self.protocol: Any = None

    def connect(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.makeConnection(self)

    @property
    def closing(self) -> bool:
        return bool(self.disconnecting) or self.aborted

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def write(self, data: bytes | memoryview) -> None:
        super().write(bytes(data))

    def abortConnection(self) -> None:
        self.aborted = True

    def take(self) -> bytes:
        data: bytes = self.value()
        self.clear()
        return data

    def lose(self) -> None:
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        if not self.gone:
            self.gone = True
            self.protocol.connectionLost(Failure(ConnectionDone()))


def udp_packet(source: str, destination: str, data: bytes = b"hello", port: int = 9) -> bytes:
    """A PACKET payload with a complete UDP packet of either IP version."""
    here, there = ip_address(source), ip_address(destination)
    length = 8 + len(data)
    udp = struct.pack(">HHHH", 40000, port, length, 0) + data
    pseudo = here.packed + there.packed + struct.pack(">II", length, 17)
    udp = udp[:6] + checksum(pseudo + udp) + udp[8:]
    return NO_OFFLOAD + ip_header(here, there, 17, length) + udp


def tcp_gso_packet(source: str, destination: str, size: int = 20000, segment: int = 1400) -> bytes:
    """A PACKET payload as a kernel hands it over for a bulk TCP flow: ``size`` bytes, in segments, checksum open."""
    here, there = ip_address(source), ip_address(destination)
    tcp = struct.pack(">HHIIBBHHH", 40000, 80, 1, 1, 5 << 4, 0x10, 1000, 0, 0) + bytes(size)
    ip = ip_header(here, there, 6, len(tcp))
    kind = 1 if here.version == 4 else 4
    return struct.pack("<BBHHHH", 1, kind, len(ip) + 20, segment, len(ip), 16) + ip + tcp


def ip_header(source: IPAddress, destination: IPAddress, protocol: int, length: int) -> bytes:
    if source.version == 4:
        head = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0x4000, 64, protocol, 0, source.packed, destination.packed
        )
        return head[:10] + checksum(head) + head[12:]
    return struct.pack(">IHBB16s16s", 6 << 28, length, protocol, 64, source.packed, destination.packed)


class FrameParser:
    """Cuts a byte stream into frames. It keeps at most one incomplete frame, whose length was checked first."""

    def __init__(self) -> None:
        self._kept = b""

    @property
    def buffered(self) -> int:
        """Bytes of the incomplete frame that are here already."""
        return len(self._kept)

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Each ``(type, payload)`` that ``data`` completes. The iterator must be exhausted before the next call.

        :raises UnknownFrameType: at a frame of no known type.
        :raises FrameTooLarge: at a frame longer than its type allows.
        """
        view = memoryview(self._kept + data)
        at = 0
        while at + FRAME_HEADER <= len(view):
            kind, end = frame_at(view, at)
            if end > len(view):
                break
            yield kind, bytes(view[at + FRAME_HEADER : end])
            at = end
        self._kept = bytes(view[at:])


__all__ = [
    "FrameParser",
    "MemoryHostNetwork",
    "MemoryMembers",
    "MemoryTun",
    "MemoryWire",
    "TunContract",
    "WireEnd",
    "ip_header",
    "ip_network",
    "node_record",
    "tcp_gso_packet",
    "temporary_path",
    "udp_packet",
]
