"""What the kernel knows of a TCP connection."""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

_BYTES_ACKED: Final = 120
"""Offset of ``tcpi_bytes_acked`` in ``struct tcp_info`` (linux/tcp.h), since Linux 4.1."""

_U64 = struct.Struct("=Q")


def acknowledged(transport: Any) -> int | None:
    """How many bytes the peer's kernel has acknowledged on the connection under a transport; ``None``: not known."""
    below = _socket_of(transport)
    if below is None:
        return None
    try:
        info = below.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + _U64.size)
    except OSError:
        return None
    if len(info) < _BYTES_ACKED + _U64.size:
        return None
    count: int = _U64.unpack_from(info, _BYTES_ACKED)[0]
    return count


def _socket_of(transport: Any) -> socket.socket | None:
    # Twisted's TLS transport wraps the TCP one.
    for layer in (transport, getattr(transport, "transport", None)):
        for name in ("socket", "_socket"):
            found = getattr(layer, name, None)
            if isinstance(found, socket.socket):
                return found
    return None
