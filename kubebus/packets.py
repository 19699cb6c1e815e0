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
    size = len(payload) - HEADER_SIZE
    if size < 20:
        raise MalformedPacket("it is shorter than an IP header")
    version = payload[HEADER_SIZE] >> 4
    if version == 4:
        transport = (payload[10] & 15) * 4
        if not 20 <= transport <= size:
            raise MalformedPacket("its IPv4 header length is wrong")
        if payload[12] << 8 | payload[13] != size:
            raise MalformedPacket("its IPv4 total length is wrong")
        addresses = payload[22:26], payload[26:30]
    elif version == 6:
        transport = 40
        if size < 40 or (payload[14] << 8 | payload[15]) + 40 != size:
            raise MalformedPacket("its IPv6 payload length is wrong")
        addresses = payload[18:34], payload[34:50]
    else:
        raise MalformedPacket(f"its IP version is {version}")
    if payload.startswith(NO_OFFLOAD):
        if size > mtu:
            raise MalformedPacket("it is longer than the MTU")
        return addresses
    _check_header(payload, size, transport, version, mtu)
    return addresses


def _check_header(payload: bytes, size: int, transport: int, version: int, mtu: int) -> None:
    flags, gso, header_length, gso_size, csum_start, csum_offset = _unpack(payload)
    if flags & ~(NEEDS_CSUM | DATA_VALID):
        raise MalformedPacket(f"virtio flags are {flags:#x}")
    if header_length > size:
        raise MalformedPacket("virtio hdr_len is beyond its end")
    if flags & NEEDS_CSUM:
        if csum_start < transport or csum_start + csum_offset + 2 > size:
            raise MalformedPacket("virtio csum_start and csum_offset point outside it")
    elif csum_start or csum_offset or gso:
        raise MalformedPacket("virtio checksum fields are set without a checksum")
    if gso:
        _check_gso(payload, size, transport, version, mtu)
    elif gso_size or header_length:
        raise MalformedPacket("virtio segment fields are set without segments")
    elif size > mtu:
        raise MalformedPacket("it is longer than the MTU")


def _check_gso(payload: bytes, size: int, transport: int, version: int, mtu: int) -> None:
    _, gso, _, gso_size, csum_start, csum_offset = _unpack(payload)
    if gso == GSO_UDP_L4:
        _check_udp_gso(payload, size, transport, version, mtu)
        return
    kind = gso & ~GSO_ECN
    if kind == GSO_TCPV4 and version == 4:
        protocol = payload[19]
        if payload[16] & 0x3F or payload[17]:
            raise MalformedPacket("it is a fragment with segments")
    elif kind == GSO_TCPV6 and version == 6:
        protocol, transport = _ipv6_transport(payload, size)
    else:
        raise MalformedPacket(f"virtio gso_type {gso:#x} does not fit IPv{version}")
    if protocol != TCP or csum_start != transport or csum_offset != 16 or transport + 20 > size:
        raise MalformedPacket("virtio gso_type is of TCP, but it is not TCP")
    data_offset = (payload[HEADER_SIZE + transport + 12] >> 4) * 4
    headers = transport + data_offset
    if data_offset < 20 or headers >= size:
        raise MalformedPacket("its TCP header length is wrong")
    if gso_size < MIN_GSO_SIZE or headers + gso_size > mtu:
        raise MalformedPacket(f"virtio gso_size {gso_size} is wrong")


def _check_udp_gso(payload: bytes, size: int, transport: int, version: int, mtu: int) -> None:
    _, _, _, gso_size, csum_start, csum_offset = _unpack(payload)
    protocol = payload[19] if version == 4 else payload[16]
    if version == 4 and (payload[16] & 0x3F or payload[17]):
        raise MalformedPacket("it is a fragment with segments")
    headers = transport + 8
    if protocol != UDP or csum_start != transport or csum_offset != 6 or size <= headers:
        raise MalformedPacket("virtio gso_type is of UDP, but it is not UDP")
    at = HEADER_SIZE + transport + 4
    if payload[at] << 8 | payload[at + 1] != size - transport:
        raise MalformedPacket("its UDP length is wrong")
    if not gso_size or headers + gso_size > mtu or size - headers > gso_size * MAX_UDP_SEGMENTS:
        raise MalformedPacket(f"virtio gso_size {gso_size} is wrong")


def _ipv6_transport(payload: bytes, size: int) -> tuple[int, int]:
    """The protocol after the extension headers, and the offset of its header in the packet."""
    protocol, offset = payload[HEADER_SIZE + 6], 40
    while protocol in _EXTENSIONS and offset + 8 <= size:
        at = HEADER_SIZE + offset
        protocol, offset = payload[at], offset + (payload[at + 1] + 1) * 8
    return protocol, offset


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
