"""What a PACKET frame may hold: a virtio-net header and one IP packet that fit each other. Pure, and hot.

The header (``struct virtio_net_hdr`` of linux/virtio_net.h, 10 bytes) is little-endian on the wire. Everything in
it steers the kernel that gets the packet, and a peer is not trusted, so every field is checked against the packet.
"""

from __future__ import annotations

import struct
from typing import Final

from kubebus.linkerrors import LinkError

HEADER_SIZE: Final = 10
NO_OFFLOAD: Final = bytes(HEADER_SIZE)
"""The header of a packet that is complete as it stands."""

NEEDS_CSUM: Final = 1
DATA_VALID: Final = 2

GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80

TCP: Final = 6
UDP: Final = 17
ICMP: Final = 1
ICMPV6: Final = 58

MIN_GSO_SIZE: Final = 32
"""The smallest segment that Linux sends is 48 bytes less 12 of options (``net.ipv4.tcp_min_snd_mss``). Anything
smaller would only make a receiver cut one frame into thousands of packets."""

MAX_UDP_SEGMENTS: Final = 128
"""Linux makes no UDP packet of more (``UDP_MAX_SEGMENTS``)."""

_HEADER = struct.Struct("<BBHHHH")
_unpack = _HEADER.unpack_from
# The length of the packet, and its addresses.
_unpack_ipv4 = struct.Struct(">H8x8s").unpack_from
_unpack_ipv6 = struct.Struct(">H2x32s").unpack_from

# IPv6 extension headers that may stand before TCP: hop-by-hop, routing, destination options.
_EXTENSIONS = frozenset((0, 43, 60))


class MalformedPacket(LinkError):
    """A packet or its virtio-net header is not one that a kernel would send. It is dropped and counted."""

    code = "malformed-packet"


def check_packet(payload: bytes, mtu: int) -> tuple[bytes, bytes]:
    """The source and destination address (4 or 16 bytes each) of a PACKET payload.

    :param mtu: the longest packet allowed, and for GSO packets the longest segment with its headers.
    :raises MalformedPacket: if anything in it is not as it must be; the message says what.
    """
    addresses = check_at(payload, 0, len(payload), mtu)
    half = len(addresses) // 2
    return addresses[:half], addresses[half:]


def check_at(buffer: bytes | memoryview, start: int, end: int, mtu: int) -> bytes:
    """What :func:`check_packet` says, of the payload between ``start`` and ``end``: its addresses, as one."""
    addresses: bytes
    size = end - start - HEADER_SIZE
    if size < 20:
        raise MalformedPacket("it is shorter than an IP header")
    first = buffer[start + HEADER_SIZE]
    version = first >> 4
    if version == 4:
        length, addresses = _unpack_ipv4(buffer, start + 12)
        transport = (first & 15) * 4
        if not 20 <= transport <= size:
            raise MalformedPacket("its IPv4 header length is wrong")
        if length != size:
            raise MalformedPacket("its IPv4 total length is wrong")
    elif version == 6:
        transport = 40
        if size < 40:
            raise MalformedPacket("its IPv6 payload length is wrong")
        length, addresses = _unpack_ipv6(buffer, start + 14)
        if length + 40 != size:
            raise MalformedPacket("its IPv6 payload length is wrong")
    else:
        raise MalformedPacket(f"its IP version is {version}")
    flags, gso, header_length, gso_size, csum_start, csum_offset = _unpack(buffer, start)
    if flags:
        if flags & ~(NEEDS_CSUM | DATA_VALID):
            raise MalformedPacket(f"virtio flags are {flags:#x}")
        if flags & NEEDS_CSUM and (csum_start < transport or csum_start + csum_offset + 2 > size):
            raise MalformedPacket("virtio csum_start and csum_offset point outside it")
    if not flags & NEEDS_CSUM and (csum_start or csum_offset or gso):
        raise MalformedPacket("virtio checksum fields are set without a checksum")
    if header_length > size:
        raise MalformedPacket("virtio hdr_len is beyond its end")
    if gso:
        _check_gso(buffer, start, size, transport, version, mtu)
    elif gso_size or header_length:
        raise MalformedPacket("virtio segment fields are set without segments")
    elif size > mtu:
        raise MalformedPacket("it is longer than the MTU")
    return addresses


def _check_gso(buffer: bytes | memoryview, start: int, size: int, transport: int, version: int, mtu: int) -> None:
    _, gso, _, gso_size, csum_start, csum_offset = _unpack(buffer, start)
    if gso == GSO_UDP_L4:
        _check_udp_gso(buffer, start, size, transport, version, mtu)
        return
    kind = gso & ~GSO_ECN
    if kind == GSO_TCPV4 and version == 4:
        protocol = buffer[start + 19]
        if buffer[start + 16] & 0x3F or buffer[start + 17]:
            raise MalformedPacket("it is a fragment with segments")
    elif kind == GSO_TCPV6 and version == 6:
        protocol, transport = _ipv6_transport(buffer, start, size)
    else:
        raise MalformedPacket(f"virtio gso_type {gso:#x} does not fit IPv{version}")
    if protocol != TCP or csum_start != transport or csum_offset != 16 or transport + 20 > size:
        raise MalformedPacket("virtio gso_type is of TCP, but it is not TCP")
    data_offset = (buffer[start + HEADER_SIZE + transport + 12] >> 4) * 4
    headers = transport + data_offset
    if data_offset < 20 or headers >= size:
        raise MalformedPacket("its TCP header length is wrong")
    if gso_size < MIN_GSO_SIZE or headers + gso_size > mtu:
        raise MalformedPacket(f"virtio gso_size {gso_size} is wrong")


def _check_udp_gso(buffer: bytes | memoryview, start: int, size: int, transport: int, version: int, mtu: int) -> None:
    _, _, _, gso_size, csum_start, csum_offset = _unpack(buffer, start)
    protocol = buffer[start + 19] if version == 4 else buffer[start + 16]
    if version == 4 and (buffer[start + 16] & 0x3F or buffer[start + 17]):
        raise MalformedPacket("it is a fragment with segments")
    headers = transport + 8
    if protocol != UDP or csum_start != transport or csum_offset != 6 or size <= headers:
        raise MalformedPacket("virtio gso_type is of UDP, but it is not UDP")
    at = start + HEADER_SIZE + transport + 4
    if buffer[at] << 8 | buffer[at + 1] != size - transport:
        raise MalformedPacket("its UDP length is wrong")
    if not gso_size or headers + gso_size > mtu or size - headers > gso_size * MAX_UDP_SEGMENTS:
        raise MalformedPacket(f"virtio gso_size {gso_size} is wrong")


def _ipv6_transport(buffer: bytes | memoryview, start: int, size: int) -> tuple[int, int]:
    """The protocol after the extension headers, and the offset of its header in the packet."""
    protocol, offset = buffer[start + HEADER_SIZE + 6], 40
    while protocol in _EXTENSIONS and offset + 8 <= size:
        at = start + HEADER_SIZE + offset
        protocol, offset = buffer[at], offset + (buffer[at + 1] + 1) * 8
    return protocol, offset


def addresses_at(buffer: bytes | memoryview, start: int) -> bytes:
    """Source and destination, as one, of a packet that the kernel made: the payload that begins at ``start``."""
    if buffer[start + HEADER_SIZE] >> 4 == 4:
        return bytes(buffer[start + 22 : start + 30])
    return bytes(buffer[start + 18 : start + 50])


def flow_of(payload: bytes) -> bytes:
    """What is equal for the packets of one flow: the addresses, and the ports where there are any.

    For a payload that :func:`check_packet` accepts, or one read from a TUN.
    """
    if payload[HEADER_SIZE] >> 4 == 4:
        return payload[22:34]
    return payload[18:54]


def swap_header(payload: bytes) -> bytes:
    """The same packet with its virtio-net header in the other byte order."""
    flags, gso, *fields = _HEADER.unpack_from(payload)
    return struct.pack(">BBHHHH", flags, gso, *fields) + payload[HEADER_SIZE:]


def is_multicast(address: bytes) -> bool:
    """Whether a destination is multicast, or IPv4's limited broadcast: none of these cross the tunnel."""
    if len(address) == 4:
        return address[0] >= 0xE0
    return address[0] == 0xFF


def is_link_local(address: bytes) -> bool:
    """Whether a source belongs to the link only: fe80::/10, the unspecified address, or IPv4's equivalents."""
    if len(address) == 4:
        return address.startswith(b"\xa9\xfe") or address == b"\0\0\0\0"
    return (address[0] == 0xFE and address[1] & 0xC0 == 0x80) or address == bytes(16)
