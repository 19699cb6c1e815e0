"""What the kernel knows of a TCP connection."""

from __future__ import annotations

import socket
import struct
from typing import Any, Final, NamedTuple

# Offsets in struct tcp_info (linux/tcp.h): tcpi_total_retrans, tcpi_bytes_acked (since Linux 4.1), tcpi_segs_out (4.2),
# and tcpi_min_rtt (4.6) in microseconds.
_TOTAL_RETRANS: Final = 100
_BYTES_ACKED: Final = 120
_SEGS_OUT: Final = 136
_MIN_RTT: Final = 148

_NO_RTT: Final = 0xFFFFFFFF
"""``tcpi_min_rtt`` before the first round trip was measured."""

_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")


class Path(NamedTuple):
    """The path of a connection.

    :ivar round_trip: seconds, the shortest seen lately; ``None`` before the first was measured.
    :ivar sent: segments, since the connection was made, and ``resent`` those of them that were sent again.
    """

    round_trip: float | None
    sent: int
    resent: int


def path_of(connection: socket.socket) -> Path | None:
    """The path of a connection; ``None`` if this kernel does not tell."""
    info = _info(connection, _MIN_RTT + _U32.size)
    if info is None:
        return None
    microseconds, sent, resent = (_U32.unpack_from(info, at)[0] for at in (_MIN_RTT, _SEGS_OUT, _TOTAL_RETRANS))
    return Path(None if microseconds == _NO_RTT else microseconds / 1e6, sent, resent)


def acknowledged(transport: Any) -> int | None:
    """How many bytes the peer's kernel has acknowledged on the connection under a transport; ``None``: not known."""
    below = _socket_of(transport)
    if below is None:
        return None
    info = _info(below, _BYTES_ACKED + _U64.size)
    if info is None:
        return None
    count: int = _U64.unpack_from(info, _BYTES_ACKED)[0]
    return count


def _info(connection: socket.socket, size: int) -> bytes | None:
    """The first ``size`` bytes of ``struct tcp_info``; ``None`` if this kernel has less."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    except OSError:
        return None
    return info if len(info) == size else None


def _socket_of(transport: Any) -> socket.socket | None:
    # Twisted's TLS transport wraps the TCP one.
    for layer in (transport, getattr(transport, "transport", None)):
        for name in ("socket", "_socket"):
            found = getattr(layer, name, None)
            if isinstance(found, socket.socket):
                return found
    return None
