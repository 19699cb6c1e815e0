"""Several UDP packets of one flow as one GSO packet (``VIRTIO_NET_HDR_GSO_UDP_L4``), and back. Pure, and hot.

The kernel hands UDP over packet by packet. Joined at the first edge, a burst costs the router and the other edge what
one packet costs; the kernel there takes it as it is (Linux 6.2), or gets it cut again by :func:`split`.

Only packets that the kernel left the checksum of to us are joined: it computes it for each packet when it cuts them.
"""

from __future__ import annotations

import struct
from typing import Final

from kubebus.packets import GSO_UDP_L4, HEADER_SIZE, MAX_UDP_SEGMENTS, NEEDS_CSUM, UDP

_HEADER = struct.Struct("<BBHHHH")
_UDP_HEADER: Final = 8
_CSUM_OFFSET: Final = 6
_MOST: Final = 65535 - 64
"""Bytes of an IP packet, with room to spare for its headers."""

_CANDIDATE4: Final = _HEADER.pack(NEEDS_CSUM, 0, 0, 0, 20, _CSUM_OFFSET) + b"\x45"
_CANDIDATE6: Final = _HEADER.pack(NEEDS_CSUM, 0, 0, 0, 40, _CSUM_OFFSET)


def join(payloads: list[bytes]) -> list[bytes]:
    """The same packets; neighbours that are of one flow and size as one. The last of them may be shorter."""
    if len(payloads) < 2:
        return payloads
    joined: list[bytes] = []
    run: list[bytes] = []
    key: bytes | None = None
    size = room = 0
    for payload in payloads:
        this = _key(payload)
        length = len(payload)
        if this is not None and this == key and length <= size and room >= length and len(run) < MAX_UDP_SEGMENTS:
            run.append(payload)
            room -= length
            if length < size:
                # Only the last may be shorter.
                key = None
            continue
        _finish(run, joined)
        run, key, size, room = [payload], this, length, _MOST - length
    _finish(run, joined)
    return joined


def _key(payload: bytes) -> bytes | None:
    """What is equal for packets that may be joined; ``None`` for those that may not."""
    if payload.startswith(_CANDIDATE4):
        # Not a fragment, UDP, something in it.
        if payload[19] != UDP or payload[16] & 0x3F or payload[17] or len(payload) <= HEADER_SIZE + 28:
            return None
        # Type of service; flags; time to live; addresses and ports.
        return payload[11:12] + payload[16:19] + payload[22:34]
    if payload.startswith(_CANDIDATE6) and payload[HEADER_SIZE] >> 4 == 6:
        if payload[16] != UDP or len(payload) <= HEADER_SIZE + 48:
            return None
        return payload[10:14] + payload[17:54]
    return None


def _finish(run: list[bytes], joined: list[bytes]) -> None:
    if len(run) < 2:
        joined += run
        return
    first = run[0]
    ip = 20 if first[HEADER_SIZE] >> 4 == 4 else 40
    headers = HEADER_SIZE + ip + _UDP_HEADER
    segment = len(first) - headers
    body = b"".join([payload[headers:] for payload in run])
    joined.append(_with_length(first, ip, ip + _UDP_HEADER, body, GSO_UDP_L4, segment))


def split(payload: bytes) -> list[bytes]:
    """The packets that a joined one stands for. It was checked by :func:`kubebus.packets.check_packet`."""
    _, _, _, segment, ip, _ = _HEADER.unpack_from(payload)
    headers = HEADER_SIZE + ip + _UDP_HEADER
    body = payload[headers:]
    number = int.from_bytes(payload[14:16], "big")
    packets = []
    for index, start in enumerate(range(0, len(body), segment)):
        first = payload
        if ip == 20:
            first = payload[:14] + (number + index & 0xFFFF).to_bytes(2, "big") + payload[16:headers]
        packets.append(_with_length(first, ip, 0, body[start : start + segment], 0, 0))
    return packets


def _with_length(first: bytes, ip: int, header_length: int, body: bytes, gso: int, segment: int) -> bytes:
    """The headers of ``first`` on another body, with its lengths. The UDP checksum is left to the kernel."""
    header = bytearray(first[: HEADER_SIZE + ip + _UDP_HEADER])
    udp_length = _UDP_HEADER + len(body)
    _HEADER.pack_into(header, 0, NEEDS_CSUM, gso, header_length, segment, ip, _CSUM_OFFSET)
    at = HEADER_SIZE + ip
    if ip == 20:
        struct.pack_into(">H", header, 12, ip + udp_length)
        struct.pack_into(">H", header, 20, 0)
        struct.pack_into(">H", header, 20, _sum(bytes(header[10:30])) ^ 0xFFFF)
        pseudo = bytes(header[22:30])
    else:
        struct.pack_into(">H", header, 14, udp_length)
        pseudo = bytes(header[18:50])
    struct.pack_into(">H", header, at + 4, udp_length)
    # What the kernel expects where it is to compute the rest: the sum of the pseudo header, not inverted.
    struct.pack_into(">H", header, at + 6, _sum(pseudo + struct.pack(">HH", UDP, udp_length)))
    return bytes(header) + body


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
