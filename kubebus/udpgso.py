"""Several UDP packets of one flow as one GSO packet (``VIRTIO_NET_HDR_GSO_UDP_L4``), and back. Pure, and hot.

The kernel hands UDP over packet by packet. Joined at the first edge, a burst costs the router and the other edge what
one packet costs; the kernel there takes it as it is (Linux 6.2), or gets it cut again by :func:`split`.

Only packets that the kernel left the checksum of to us are joined: it computes it for each packet when it cuts them.
"""

from __future__ import annotations

import struct
from typing import Final

from kubebus.frames import HEADER_SIZE as FRAME_HEADER
from kubebus.frames import PACKET, frame_header
from kubebus.packets import GSO_UDP_L4, HEADER_SIZE, MAX_UDP_SEGMENTS, NEEDS_CSUM, UDP

_HEADER = struct.Struct("<BBHHHH")
_UDP_HEADER: Final = 8
_CSUM_OFFSET: Final = 6
_MOST: Final = 65535 - 64
"""Bytes of an IP packet, with room to spare for its headers."""

_CANDIDATE4: Final = _HEADER.pack(NEEDS_CSUM, 0, 0, 0, 20, _CSUM_OFFSET) + b"\x45"
_CANDIDATE6: Final = _HEADER.pack(NEEDS_CSUM, 0, 0, 0, 40, _CSUM_OFFSET)

# Of whole frames: the bytes before the data, and where the IP version is.
_HEADERS4: Final = FRAME_HEADER + HEADER_SIZE + 20 + _UDP_HEADER
_HEADERS6: Final = FRAME_HEADER + HEADER_SIZE + 40 + _UDP_HEADER
_LEAST: Final = _HEADERS4 + 1
_VERSION: Final = FRAME_HEADER + HEADER_SIZE

# What is equal for packets of one flow. Behind the frame's header, IPv4: the virtio-net header with the IP version and
# type of service; flags, time to live, protocol; addresses and ports. IPv6: the same up to the flow label; the rest but
# for the length.
_ipv4_key = struct.Struct("<4x12s4x4s2x12s").unpack_from
_ipv6_key = struct.Struct("<4x14s2x38s").unpack_from


def join(buffer: memoryview, bounds: list[int]) -> list[int]:
    """Join neighbours of one flow and size, among PACKET frames that lie in ``buffer`` one after the other. The last of
    those that are joined may be shorter.

    What comes after them moves up.

    :return: the new bounds.
    """
    joined: list[int] = []
    # Where the next frame goes. The run, which begins with the last of the joined: how many packets it has, and if it
    # takes more, what they have in common, how long the first is, and the room for data.
    at = begin = bounds[0]
    key: tuple[bytes, ...] | None = None
    keys = _ipv4_key
    headers = size = room = count = 0
    for end in bounds[1:]:
        length = end - begin
        data = length - headers
        if key is not None and 0 < data <= room and length <= size and keys(buffer, begin) == key:
            buffer[at : at + data] = buffer[begin + headers : end]
            at += data
            room -= data
            count += 1
            if length < size or count == MAX_UDP_SEGMENTS:
                # Only the last may be shorter.
                key = None
        else:
            if count > 1:
                _seal(buffer, joined[-1], at, headers, size)
            joined.append(at)
            if at != begin:
                buffer[at : at + length] = buffer[begin:end]
            key, count = None, 1
            if length >= _LEAST and buffer[at + FRAME_HEADER] == NEEDS_CSUM:
                keys, headers = (_ipv4_key, _HEADERS4) if buffer[at + _VERSION] >> 4 == 4 else (_ipv6_key, _HEADERS6)
                if length > headers and _may_begin(found := keys(buffer, at)):
                    key, size, room = found, length, _MOST - length
            at += length
        begin = end
    if count > 1:
        _seal(buffer, joined[-1], at, headers, size)
    joined.append(at)
    return joined


def _may_begin(key: tuple[bytes, ...]) -> bool:
    """Whether others may be joined to a packet, by what is equal for them all."""
    first = key[0]
    if len(key) == 3:
        middle = key[1]
        # UDP, and not a fragment.
        return first.startswith(_CANDIDATE4) and middle[3] == UDP and not middle[0] & 0x3F and not middle[1]
    return first.startswith(_CANDIDATE6) and first[HEADER_SIZE] >> 4 == 6 and key[1][0] == UDP


def _seal(buffer: memoryview, start: int, end: int, headers: int, size: int) -> None:
    """Make what lies there one frame: the headers of the first packet, and the data of all."""
    ip = headers - FRAME_HEADER - HEADER_SIZE - _UDP_HEADER
    header = bytes(buffer[start + FRAME_HEADER : start + headers])
    buffer[start : start + FRAME_HEADER] = frame_header(PACKET, end - start - FRAME_HEADER)
    buffer[start + FRAME_HEADER : start + headers] = _with_length(
        header, ip, ip + _UDP_HEADER, end - start - headers, GSO_UDP_L4, size - headers
    )


def split(payload: bytes) -> list[bytes]:
    """The packets that a joined one stands for. It was checked by :func:`kubebus.packets.check_packet`."""
    _, _, _, segment, ip, _ = _HEADER.unpack_from(payload)
    headers = HEADER_SIZE + ip + _UDP_HEADER
    body = payload[headers:]
    number = int.from_bytes(payload[14:16], "big")
    packets = []
    for index, start in enumerate(range(0, len(body), segment)):
        first = payload
        if payload[HEADER_SIZE] >> 4 == 4:
            first = payload[:14] + (number + index & 0xFFFF).to_bytes(2, "big") + payload[16:headers]
        data = body[start : start + segment]
        packets.append(_with_length(first, ip, 0, len(data), 0, 0) + data)
    return packets


def _with_length(first: bytes, ip: int, header_length: int, size: int, gso: int, segment: int) -> bytes:
    """The headers of ``first`` for ``size`` bytes of data. The UDP checksum is left to the kernel."""
    header = bytearray(first[: HEADER_SIZE + ip + _UDP_HEADER])
    udp_length = _UDP_HEADER + size
    _HEADER.pack_into(header, 0, NEEDS_CSUM, gso, header_length, segment, ip, _CSUM_OFFSET)
    at = HEADER_SIZE + ip
    if header[HEADER_SIZE] >> 4 == 4:
        struct.pack_into(">H", header, 12, ip + udp_length)
        struct.pack_into(">H", header, 20, 0)
        struct.pack_into(">H", header, 20, _sum(bytes(header[HEADER_SIZE:at])) ^ 0xFFFF)
        pseudo = bytes(header[22:30])
    else:
        struct.pack_into(">H", header, 14, udp_length)
        pseudo = bytes(header[18:50])
    struct.pack_into(">H", header, at + 4, udp_length)
    # What the kernel expects where it is to compute the rest: the sum of the pseudo header, not inverted.
    struct.pack_into(">H", header, at + 6, _sum(pseudo + struct.pack(">HH", UDP, udp_length)))
    return bytes(header)


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
