"""Frames of the link: ``type:u8 length:u24 payload``, big-endian. Sans-IO.

The payload of a ``PACKET`` is a 10-byte little-endian virtio-net header and an IP packet (:mod:`kubebus.packets`),
of ``CONTROL`` a JSON object (:mod:`kubebus.control`), of ``STREAM`` see :mod:`kubebus.streams`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, NamedTuple

from kubebus.linkerrors import FrameTooLarge, LocalProtocolError, UnknownFrameType

CONTROL: Final = 1
STREAM: Final = 2
PACKET: Final = 3

HEADER_SIZE: Final = 4

MAX_STREAM_DATA: Final = 16 * 1024
"""The most data bytes of one STREAM frame: about one TLS record, so that nothing waits long behind it."""

LIMITS: Final = {
    # A hello with a thousand advertised subnets takes about 40 KB.
    CONTROL: 64 * 1024,
    # Its data and at most 16 bytes of header.
    STREAM: MAX_STREAM_DATA + 16,
    # virtio-net header and the longest IPv4 packet; GSO packets of the kernel are no longer.
    PACKET: 10 + 65535,
}
"""The most payload bytes a frame of each type may have."""

NAMES: Final = {CONTROL: "CONTROL", STREAM: "STREAM", PACKET: "PACKET"}


def frame_header(kind: int, size: int) -> bytes:
    """The four bytes before a payload of ``size`` bytes.

    :raises LocalProtocolError: if the payload is too long for its type.
    """
    if size > LIMITS[kind]:
        raise LocalProtocolError(f"a {NAMES[kind]} frame of {size} bytes; at most {LIMITS[kind]} are allowed")
    return (kind << 24 | size).to_bytes(4, "big")


def frame(kind: int, payload: bytes) -> bytes:
    return frame_header(kind, len(payload)) + payload


_head: Final = struct.Struct(">I").unpack_from
_PACKET: Final = PACKET << 24
_MAX_PACKET: Final = LIMITS[PACKET]


class PacketFrames(NamedTuple):
    """PACKET frames that lie one after the other in a buffer, which is somebody else's as soon as a call with them is
    over.

    Frame ``i`` is ``buffer[bounds[i]:bounds[i + 1]]``, and its payload begins :data:`HEADER_SIZE` bytes later.
    """

    buffer: memoryview
    bounds: list[int]

    def payloads(self, first: int = 0, last: int | None = None) -> list[bytes]:
        """Copies of them all, or of those from ``first`` up to ``last``."""
        buffer, bounds = self.buffer, self.bounds
        if last is None:
            last = len(bounds) - 1
        return [bytes(buffer[bounds[index] + HEADER_SIZE : bounds[index + 1]]) for index in range(first, last)]


def packet_frames(payloads: Iterable[bytes]) -> PacketFrames:
    """The frames of these payloads.

    :raises LocalProtocolError: if one is too long.
    """
    frames = [frame(PACKET, payload) for payload in payloads]
    return PacketFrames(memoryview(b"".join(frames)), [0, *accumulate(map(len, frames))])


def packet_bounds(view: memoryview, at: int) -> list[int]:
    """Where the PACKET frames begin that lie whole in ``view`` from ``at`` on, and where the last one ends. Hot.

    :raises FrameTooLarge: at one that is longer than it may be.
    """
    bounds = [at]
    available = len(view)
    while at + HEADER_SIZE <= available:
        size = _head(view, at)[0] ^ _PACKET
        if size > _MAX_PACKET:
            if size >> 24:
                break
            raise _too_large(PACKET, size)
        at += HEADER_SIZE + size
        if at > available:
            break
        bounds.append(at)
    return bounds


def frame_at(view: memoryview, at: int) -> tuple[int, int]:
    """The type of the frame whose header is at ``at``, and where it ends, perhaps behind the view.

    :raises UnknownFrameType: if it is of no known type.
    :raises FrameTooLarge: if it is longer than its type allows.
    """
    (head,) = _head(view, at)
    kind, size = head >> 24, head & 0xFFFFFF
    limit = LIMITS.get(kind)
    if limit is None:
        raise UnknownFrameType(f"frame type {kind} is not known")
    if size > limit:
        raise _too_large(kind, size)
    return kind, at + HEADER_SIZE + size


def _too_large(kind: int, size: int) -> FrameTooLarge:
    return FrameTooLarge(f"a {NAMES[kind]} frame of {size} bytes; at most {LIMITS[kind]} are allowed")
