"""ICMP and ICMPv6 "destination unreachable". Pure. (RFC 792, RFC 4443; when not to send: RFC 1122, 3.2.2.)"""

from __future__ import annotations

import struct
from typing import Final

from kubebus.packets import HEADER_SIZE, ICMP, ICMPV6, NO_OFFLOAD, is_link_local, is_multicast

HOST_UNREACHABLE: Final = 1
"""Code of ICMPv4 type 3."""

ADDRESS_UNREACHABLE: Final = 3
"""Code of ICMPv6 type 1."""

_V4_QUERIES: Final = frozenset((0, 8, 13, 14))
_V4_LENGTH: Final = 576
_V6_LENGTH: Final = 1280


def unreachable(payload: bytes, router4: bytes, router6: bytes | None) -> bytes | None:
    """The answer to a PACKET payload (which was checked) whose destination cannot be reached now.

    :param router4: the IPv4 address it comes from; ``router6`` the same for IPv6.
    :return: a PACKET payload for the sender, or ``None`` where none may be sent.
    """
    packet = payload[HEADER_SIZE:]
    if packet[0] >> 4 == 4:
        return _unreachable4(packet, router4)
    return None if router6 is None else _unreachable6(packet, router6)


def _unreachable4(packet: bytes, router: bytes) -> bytes | None:
    header_length = (packet[0] & 15) * 4
    source, destination = packet[12:16], packet[16:20]
    later_fragment = packet[6] & 0x1F or packet[7]
    if later_fragment or is_multicast(source) or is_multicast(destination) or is_link_local(source):
        return None
    if packet[9] == ICMP and (len(packet) <= header_length or packet[header_length] not in _V4_QUERIES):
        return None
    body = struct.pack(">BBHI", 3, HOST_UNREACHABLE, 0, 0) + packet[: _V4_LENGTH - 28]
    body = body[:2] + checksum(body) + body[4:]
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0xC0, 20 + len(body), 0, 0, 64, ICMP, 0, router, source)
    return NO_OFFLOAD + head[:10] + checksum(head) + head[12:] + body


def _unreachable6(packet: bytes, router: bytes) -> bytes | None:
    source, destination = packet[8:24], packet[24:40]
    if is_multicast(source) or is_multicast(destination) or is_link_local(source):
        return None
    # Types below 128 are errors.
    if packet[6] == ICMPV6 and (len(packet) <= 40 or packet[40] < 128):
        return None
    body = struct.pack(">BBHI", 1, ADDRESS_UNREACHABLE, 0, 0) + packet[: _V6_LENGTH - 48]
    pseudo = router + source + struct.pack(">II", len(body), ICMPV6)
    body = body[:2] + checksum(pseudo + body) + body[4:]
    return NO_OFFLOAD + struct.pack(">IHBB16s16s", 6 << 28, len(body), ICMPV6, 64, router, source) + body


def checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071) of ``data``, whose own checksum field is zero."""
    if len(data) & 1:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (total ^ 0xFFFF).to_bytes(2, "big")
