"""UDP packets joined and split: nothing is lost, changed or reordered, and what is joined passes the check."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kubebus.frames import PacketFrames, packet_bounds, packet_frames
from kubebus.icmp import checksum
from kubebus.packets import GSO_UDP_L4, HEADER_SIZE, MAX_UDP_SEGMENTS, NEEDS_CSUM, UDP, MalformedPacket, check_packet
from kubebus.testing_net import tcp_gso_packet
from kubebus.udpgso import join as join_frames
from kubebus.udpgso import split

MTU = 1500


def join(payloads: list[bytes]) -> list[bytes]:
    """What becomes of packets that lie behind each other."""
    frames = packet_frames(payloads)
    buffer = memoryview(bytearray(frames.buffer))
    bounds = join_frames(buffer, frames.bounds)
    frames = PacketFrames(buffer[: bounds[-1]], bounds)
    # Their own headers say the same as the bounds.
    assert bounds == packet_bounds(frames.buffer, 0)
    return frames.payloads()


def pseudo_sum(addresses: bytes, length: int) -> int:
    """What the kernel leaves in the checksum field when it leaves the rest to the device."""
    return int.from_bytes(checksum(addresses + struct.pack(">HH", UDP, length)), "big") ^ 0xFFFF


def udp4(body: bytes, number: int = 7, source: int = 2, ttl: int = 64, flags: int = 0x4000) -> bytes:
    """A packet as the kernel hands it to a TUN with checksum offload."""
    length = 8 + len(body)
    addresses = bytes([10, 250, 0, source, 10, 250, 0, 9])
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, number, flags, ttl, UDP, 0) + addresses
    ip = ip[:10] + checksum(ip) + ip[12:]
    udp = struct.pack(">HHHH", 5000, 6000, length, pseudo_sum(addresses, length))
    return struct.pack("<BBHHHH", NEEDS_CSUM, 0, 0, 0, 20, 6) + ip + udp + body


def udp6(body: bytes, port: int = 5000) -> bytes:
    length = 8 + len(body)
    addresses = bytes(15) + b"\2" + bytes(15) + b"\3"
    ip = struct.pack(">IHBB", 6 << 28, length, UDP, 64) + addresses
    udp = struct.pack(">HHHH", port, 6000, length, pseudo_sum(addresses, length))
    return struct.pack("<BBHHHH", NEEDS_CSUM, 0, 0, 0, 40, 6) + ip + udp + body


def parted(payloads: list[bytes]) -> list[bytes]:
    """Everything cut again."""
    packets: list[bytes] = []
    for payload in payloads:
        packets += split(payload) if payload[1] == GSO_UDP_L4 else [payload]
    return packets


class JoinTests(SynchronousTestCase):
    def test_a_burst_becomes_one_packet_and_the_same_burst_again(self) -> None:
        for make in (lambda number: udp4(bytes([number]) * 100, number), lambda number: udp6(bytes([number]) * 100)):
            burst = [make(number) for number in range(20)]
            (joined,) = join(burst)
            check_packet(joined, MTU)
            self.assertEqual(split(joined), burst)

    def test_the_last_may_be_shorter(self) -> None:
        burst = [udp4(b"x" * 100, 1), udp4(b"y" * 100, 2), udp4(b"z" * 40, 3), udp4(b"w" * 40, 4)]
        joined = join(burst)
        self.assertEqual(len(joined), 2)
        self.assertEqual(parted(joined), burst)

    def test_what_differs_stays_apart(self) -> None:
        for other in (
            udp4(b"x" * 100, source=3),
            udp4(b"x" * 100, ttl=63),
            udp4(b"x" * 101),
            udp4(b"x" * 100, flags=0x2000),
            udp6(b"x" * 100),
            bytes(HEADER_SIZE) + udp4(b"x" * 100)[HEADER_SIZE:],
            tcp_gso_packet("10.250.0.2", "10.250.0.9", 2000),
        ):
            self.assertEqual(join([udp4(b"x" * 100), other]), [udp4(b"x" * 100), other])
        ports = [udp6(b"x", 1), udp6(b"x", 2)]
        self.assertEqual(join(ports), ports)

    def test_empty_packets_are_left_alone(self) -> None:
        self.assertEqual(join([udp4(b""), udp4(b"")]), [udp4(b""), udp4(b"")])

    def test_bounds(self) -> None:
        small = join([udp4(b"s", number) for number in range(300)])
        self.assertEqual(len(small), -(-300 // MAX_UDP_SEGMENTS))
        large = join([udp4(bytes(1400), number) for number in range(100)])
        for payload in (*small, *large):
            check_packet(payload, MTU)
            self.assertLessEqual(len(payload), HEADER_SIZE + 65535)

    def test_ipv4_options_stay_with_each_packet(self) -> None:
        """The kernel joins none that have some, but a peer may send them joined."""
        no_operations, body = bytes([1, 1, 1, 1]), bytes(range(250))

        def packet(data: bytes, number: int, gso: int = 0, header_length: int = 0, segment: int = 0) -> bytes:
            plain = udp4(data, number)[HEADER_SIZE:]
            ip = b"\x46\0" + struct.pack(">H", len(plain) + 4) + plain[4:10] + bytes(2) + plain[12:20] + no_operations
            ip = ip[:10] + checksum(ip) + ip[12:]
            return struct.pack("<BBHHHH", NEEDS_CSUM, gso, header_length, segment, 24, 6) + ip + plain[20:]

        joined = packet(body, 7, GSO_UDP_L4, 32, 100)
        check_packet(joined, MTU)
        self.assertEqual(split(joined), [packet(body[:100], 7), packet(body[100:200], 8), packet(body[200:], 9)])

    @given(st.lists(st.tuples(st.sampled_from((2, 3)), st.sampled_from((1, 2, 50, 100, 1400))), max_size=150))
    def test_any_burst(self, packets: list[tuple[int, int]]) -> None:
        # The kernel counts up the identification within what it cuts, as senders do.
        payloads = [udp4(bytes(size), number, source) for number, (source, size) in enumerate(packets)]
        joined = join(payloads)
        for payload in joined:
            check_packet(payload, MTU)
        self.assertEqual(parted(joined), payloads)


class CheckTests(SynchronousTestCase):
    """A peer may send anything."""

    def setUp(self) -> None:
        (self.joined,) = join([udp4(bytes(100), number) for number in range(10)])

    def refused(self, offset: int, value: bytes) -> None:
        damaged = self.joined[:offset] + value + self.joined[offset + len(value) :]
        self.assertRaises(MalformedPacket, check_packet, damaged, MTU)

    def test_the_good_one_passes(self) -> None:
        check_packet(self.joined, MTU)

    def test_fields_must_fit(self) -> None:
        self.refused(0, b"\0")  # no checksum wanted
        self.refused(4, b"\0\0")  # no segment size
        self.refused(4, b"\1\0")  # thousands of segments
        self.refused(4, b"\xff\xff")  # segments above the MTU
        self.refused(6, b"\x15\0")  # checksum elsewhere
        self.refused(8, b"\x10\0")  # TCP's checksum
        self.refused(16, b"\x20\0")  # a fragment
        self.refused(19, b"\x06")  # TCP
        self.refused(HEADER_SIZE + 24, b"\0\x08")  # UDP length
        self.assertRaises(MalformedPacket, check_packet, self.joined[:30], MTU)
