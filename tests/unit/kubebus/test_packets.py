"""Packets and their virtio-net headers: what a kernel sends passes, everything else does not."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kubebus.packets import (
    HEADER_SIZE,
    MalformedPacket,
    check_packet,
    flow_of,
    is_link_local,
    is_multicast,
    swap_header,
)
from kubebus.testing_net import tcp_gso_packet, udp_packet

A4, B4 = "10.250.0.2", "10.192.3.4"
A6, B6 = "fd00:b::2", "fd00:b:0:3::4"


def changed(payload: bytes, offset: int, layout: str, *values: int) -> bytes:
    data = bytearray(payload)
    struct.pack_into(layout, data, offset, *values)
    return bytes(data)


class GoodPacketTests(SynchronousTestCase):
    def test_complete_packets(self) -> None:
        for source, destination in ((A4, B4), (A6, B6)):
            payload = udp_packet(source, destination)
            addresses = ip_address(source).packed, ip_address(destination).packed
            self.assertEqual(check_packet(payload, 1500), addresses)

    def test_segments(self) -> None:
        for source, destination in ((A4, B4), (A6, B6)):
            check_packet(tcp_gso_packet(source, destination, 60000, 1400), 1500)
            check_packet(changed(tcp_gso_packet(source, destination), 1, "B", 0x81 if source == A4 else 0x84), 1500)

    def test_open_checksum(self) -> None:
        payload = changed(udp_packet(A4, B4), 0, "<BBHHHH", 1, 0, 0, 0, 20, 6)
        check_packet(payload, 1500)

    def test_checked_by_the_device(self) -> None:
        check_packet(changed(udp_packet(A4, B4), 0, "B", 2), 1500)

    def test_ipv6_extension_before_tcp(self) -> None:
        payload = tcp_gso_packet(A6, B6, 5000)
        ip, tcp = bytearray(payload[10:50]), payload[50:]
        ip[6], ip[4:6] = 60, (len(tcp) + 8).to_bytes(2, "big")
        header = struct.pack("<BBHHHH", 1, 4, 68, 1400, 48, 16)
        check_packet(header + bytes(ip) + bytes([6, 0, 1, 4, 0, 0, 0, 0]) + tcp, 1500)


class BadPacketTests(SynchronousTestCase):
    def bad(self, payload: bytes, mtu: int = 1500) -> None:
        self.assertRaises(MalformedPacket, check_packet, payload, mtu)

    def test_lengths(self) -> None:
        for payload in (udp_packet(A4, B4), udp_packet(A6, B6)):
            for size in range(len(payload)):
                self.bad(payload[:size])
            self.bad(payload + b"x")

    def test_mtu(self) -> None:
        check_packet(udp_packet(A4, B4, bytes(1472)), 1500)
        self.bad(udp_packet(A4, B4, bytes(1473)))
        check_packet(tcp_gso_packet(A4, B4, 9000, 1460), 1500)
        self.bad(tcp_gso_packet(A4, B4, 9000, 1461))

    def test_ip_versions(self) -> None:
        self.bad(changed(udp_packet(A4, B4), 10, "B", 0x55))
        self.bad(changed(udp_packet(A4, B4), 10, "B", 0x44))
        self.bad(changed(udp_packet(A4, B4), 10, "B", 0x4F))

    def test_every_virtio_field(self) -> None:
        for source, destination, kind, network in ((A4, B4, 1, 20), (A6, B6, 4, 40)):
            good = tcp_gso_packet(source, destination, 5000)
            for header in (
                (0, kind, network + 20, 1400, network, 16),  # segments without a checksum
                (4, kind, network + 20, 1400, network, 16),  # an unknown flag
                (1, 5 - kind, network + 20, 1400, network, 16),  # the other IP version
                (1, 3, network + 20, 1400, network, 16),  # UFO
                (1, 5, network + 20, 1400, network, 16),  # UDP segments
                (1, kind, 60000, 1400, network, 16),
                (1, kind, network + 20, 0, network, 16),
                (1, kind, network + 20, 8, network, 16),
                (1, kind, network + 20, 60000, network, 16),
                (1, kind, network + 20, 1400, network + 2, 16),
                (1, kind, network + 20, 1400, network, 6),
                (1, kind, network + 20, 1400, 60000, 16),
                (1, kind, network + 20, 1400, 65535, 65535),
                (0, 0, 0, 1400, 0, 0),
                (0, 0, 40, 0, 0, 0),
                (0, 0, 0, 0, 20, 0),
                (1, 0, 0, 0, 4, 6),  # a checksum in the IP header
            ):
                self.bad(changed(good, 0, "<BBHHHH", *header), 65535 if header[1] == 0 else 1500)

    def test_segments_of_what_is_not_tcp(self) -> None:
        self.bad(changed(tcp_gso_packet(A4, B4), 10 + 9, "B", 17))
        self.bad(changed(tcp_gso_packet(A6, B6), 10 + 6, "B", 17))
        self.bad(changed(tcp_gso_packet(A4, B4), 10 + 6, ">H", 0x2000))  # a fragment
        self.bad(changed(tcp_gso_packet(A4, B4), 30 + 12, "B", 0x40))
        self.bad(changed(tcp_gso_packet(A4, B4, 30), 30 + 12, "B", 0xF0))

    @given(st.binary(max_size=120))
    def test_any_bytes(self, payload: bytes) -> None:
        try:
            check_packet(payload, 1500)
        except MalformedPacket:
            pass

    @settings(max_examples=300)
    @given(
        st.sampled_from([(A4, B4), (A6, B6)]),
        st.integers(1, 3000),
        st.binary(min_size=10, max_size=10),
        st.lists(st.tuples(st.integers(10, 69), st.integers(0, 255)), max_size=2),
    )
    def test_any_header(self, pair: tuple[str, str], size: int, header: bytes, edits: list[tuple[int, int]]) -> None:
        """What passes is what the kernel may be given: every field points inside, and no segment is too long."""
        data = bytearray(header + tcp_gso_packet(*pair, size)[10:])
        for offset, value in edits:
            data[min(offset, len(data) - 1)] = value
        payload = bytes(data)
        try:
            check_packet(payload, 1500)
        except MalformedPacket:
            return
        flags, gso, header_length, gso_size, start, offset = struct.unpack_from("<BBHHHH", payload)
        length = len(payload) - HEADER_SIZE
        self.assertLessEqual(header_length, length)
        if flags & 1:
            self.assertLessEqual(start + offset + 2, length)
        if gso:
            self.assertTrue(flags & 1 and 0 < gso_size <= 1460)
        else:
            self.assertLessEqual(length, 1500)


class HelperTests(SynchronousTestCase):
    def test_byte_order(self) -> None:
        payload = tcp_gso_packet(A4, B4, 5000)
        swapped = swap_header(payload)
        self.assertEqual(struct.unpack_from(">BBHHHH", swapped), struct.unpack_from("<BBHHHH", payload))
        self.assertEqual(swapped[10:], payload[10:])
        self.assertEqual(swap_header(swap_header(payload)), payload)

    def test_flow(self) -> None:
        one = flow_of(udp_packet(A4, B4, b"a", 53))
        self.assertEqual(one, flow_of(udp_packet(A4, B4, b"b", 53)))
        self.assertNotEqual(one, flow_of(udp_packet(A4, B4, b"a", 54)))
        self.assertNotEqual(flow_of(udp_packet(A6, B6, b"", 1)), flow_of(udp_packet(A6, B6, b"", 2)))

    def test_kinds_of_addresses(self) -> None:
        for address in ("224.0.0.1", "255.255.255.255", "ff02::2"):
            self.assertTrue(is_multicast(ip_address(address).packed))
        for address in ("10.0.0.1", "fd00::1", "fe80::1"):
            self.assertFalse(is_multicast(ip_address(address).packed))
        for address in ("169.254.1.1", "fe80::1", "::", "0.0.0.0"):
            self.assertTrue(is_link_local(ip_address(address).packed))
        self.assertFalse(is_link_local(ip_address("fd00::1").packed))
