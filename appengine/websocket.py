"""WebSocket (RFC 6455), the server's side, without IO: what Kubernetes' channel protocols need of it."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_MAX_MESSAGE = 1 << 20


class WebSocketError(Exception):
    """The peer does not speak the protocol."""


@dataclass(frozen=True, slots=True)
class Message:
    data: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """Send :meth:`WebSocket.pong` back."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    pass


def accept_key(key: bytes) -> bytes:
    """The value of ``Sec-WebSocket-Accept``."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


class WebSocket:
    """One connection, after the handshake."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._message = bytearray()

    def feed(self, data: bytes) -> Iterator[Message | Ping | Closed]:
        """:raises WebSocketError: for what is no WebSocket, or too large."""
        self._buffer += data
        while (parsed := self._cut()) is not None:
            final, kind, payload = parsed
            if kind in (_CONTINUATION, _TEXT, _BINARY):
                self._message += payload
                if len(self._message) > _MAX_MESSAGE:
                    raise WebSocketError("a message is too long")
                if final:
                    message, self._message = bytes(self._message), bytearray()
                    yield Message(message)
            elif kind == _PING:
                yield Ping(payload)
            elif kind == _CLOSE:
                yield Closed()
            elif kind != _PONG:
                raise WebSocketError(f"frames of type {kind} are unknown")

    def _cut(self) -> tuple[bool, int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, at = buffer[1] & 0x7F, 2
        if length == 126:
            at = 4
            length = struct.unpack_from(">H", buffer, 2)[0] if len(buffer) >= 4 else 0
        elif length == 127:
            at = 10
            length = struct.unpack_from(">Q", buffer, 2)[0] if len(buffer) >= 10 else 0
        if not buffer[1] & 0x80:
            raise WebSocketError("a client's frames must be masked")
        if length > _MAX_MESSAGE:
            raise WebSocketError("a frame is too long")
        if len(buffer) < at + 4 + length:
            return None
        mask = bytes(buffer[at : at + 4])
        masked = bytes(buffer[at + 4 : at + 4 + length])
        first = buffer[0]
        del buffer[: at + 4 + length]
        stretched = (mask * (length // 4 + 1))[:length]
        plain = int.from_bytes(masked, "big") ^ int.from_bytes(stretched, "big")
        return bool(first & 0x80), first & 0x0F, plain.to_bytes(length, "big")

    def message(self, data: bytes) -> bytes:
        return _frame(_BINARY, data)

    def pong(self, ping: Ping) -> bytes:
        return _frame(_PONG, ping.data)

    def close(self) -> bytes:
        return _frame(_CLOSE, struct.pack(">H", 1000))


def _frame(kind: int, data: bytes) -> bytes:
    if len(data) < 126:
        head = struct.pack(">BB", 0x80 | kind, len(data))
    elif len(data) < 65536:
        head = struct.pack(">BBH", 0x80 | kind, 126, len(data))
    else:
        head = struct.pack(">BBQ", 0x80 | kind, 127, len(data))
    return head + data
