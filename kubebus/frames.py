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
    """Cuts a byte stream into frames. It buffers at most one incomplete frame, whose length was checked first.

    A payload is copied once out of what is fed, or twice where it is spread over several calls.
    """

    def __init__(self) -> None:
        # Of the incomplete frame: its header as far as it is here, or its kind, payload, and the bytes that it lacks.
        self._header = b""
        self._kind = 0
        self._payload = bytearray()
        self._missing = 0

    @property
    def buffered(self) -> int:
        """Bytes of the incomplete frame that are here already."""
        return len(self._payload) + (HEADER_SIZE if self._missing else len(self._header))

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
        """Each ``(type, payload)`` that ``data`` completes.

        The iterator must be exhausted (or closed, at the end of the link) before the next call, and before ``data``
        changes.

        :raises UnknownFrameType: at a frame of no known type.
        :raises FrameTooLarge: at a frame longer than its type allows.
        """
        view = memoryview(data)
        position, available = 0, len(view)
        if self._missing:
            if available < self._missing:
                self._payload += view
                self._missing -= available
                return
            position = self._missing
            payload = b"".join((self._payload, view[:position]))
            self._payload, self._missing = bytearray(), 0
            yield self._kind, payload
        elif self._header:
            view = memoryview(self._header + view)
            self._header, available = b"", len(view)
        while available - position >= HEADER_SIZE:
            kind = view[position]
            start = position + HEADER_SIZE
            size = view[position + 1] << 16 | view[position + 2] << 8 | view[position + 3]
            limit = LIMITS.get(kind)
            if limit is None:
                raise UnknownFrameType(f"frame type {kind} is not known")
            if size > limit:
                raise FrameTooLarge(f"a {NAMES[kind]} frame of {size} bytes; at most {limit} are allowed")
            position = start + size
            if position > available:
                self._kind, self._missing = kind, position - available
                self._payload += view[start:]
                return
            yield kind, bytes(view[start:position])
        self._header = bytes(view[position:])
