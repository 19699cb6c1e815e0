"""Frames of the link: ``type:u8 length:u24 payload``, big-endian. Sans-IO.

The payload of a ``PACKET`` is a 10-byte little-endian virtio-net header and an IP packet (:mod:`kubebus.packets`),
of ``CONTROL`` a JSON object (:mod:`kubebus.control`), of ``STREAM`` see :mod:`kubebus.streams`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

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


class FrameParser:
    """Cuts a byte stream into frames. It buffers at most one incomplete frame, whose length was checked first."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes of the incomplete frame that are here already."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Each ``(type, payload)`` that ``data`` completes.

        The iterator must be exhausted (or closed, at the end of the link) before the next call.

        :raises UnknownFrameType: at a frame of no known type.
        :raises FrameTooLarge: at a frame longer than its type allows.
        """
        buffer = self._buffer
        buffer += data
        position, available = 0, len(buffer)
        try:
            while available - position >= HEADER_SIZE:
                kind = buffer[position]
                start = position + HEADER_SIZE
                size = buffer[position + 1] << 16 | buffer[position + 2] << 8 | buffer[position + 3]
                limit = LIMITS.get(kind)
                if limit is None:
                    raise UnknownFrameType(f"frame type {kind} is not known")
                if size > limit:
                    raise FrameTooLarge(f"a {NAMES[kind]} frame of {size} bytes; at most {limit} are allowed")
                if available - start < size:
                    break
                position = start + size
                yield kind, bytes(memoryview(buffer)[start:position])
        finally:
            del buffer[:position]
