"""A gRPC health check (grpc.health.v1.Health/Check) without a gRPC library: one request over HTTP/2.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md; frames as in RFC 9113. Response headers are not read
(so no HPACK decoder is needed): the answer's message alone tells a healthy server.
"""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_MAX_FRAME = 16384
_SERVING = 1


class GrpcUnhealthy(Exception):
    """The server does not serve, or does not answer as it should."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field, literal, never indexed, without Huffman coding (RFC 7541, section 6.2.3)."""
    return b"\x10" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    out, left = bytearray([127]), len(text) - 127
    while left >= 128:
        out.append(left % 128 + 128)
        left //= 128
    out.append(left)
    return bytes(out) + text


def request(authority: str, service: str) -> bytes:
    """Everything the client says."""
    name = service.encode()
    message = (b"\x0a" + _varint(len(name)) + name) if name else b""
    headers = b"".join(
        _literal(key, value)
        for key, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/grpc.health.v1.Health/Check"),
            (b":authority", authority.encode()),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"kube-probe/1.29"),
            (b"te", b"trailers"),
        )
    )
    body = b"\0" + struct.pack(">I", len(message)) + message
    return (
        _PREFACE
        + frame(_SETTINGS, 0, 0, b"")
        + frame(_HEADERS, _END_HEADERS, 1, headers)
        + frame(_DATA, _END_STREAM, 1, body)
    )


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)


def serving(message: bytes) -> bool:
    """Whether a HealthCheckResponse says SERVING (its field 1, an enum)."""
    return message[:1] == b"\x08" and message[1:2] == bytes([_SERVING])


class _Check(Protocol):
    def __init__(self, request: bytes, done: Deferred[None]) -> None:
        self._request = request
        self._done = done
        self._buffer = bytearray()
        self._body = bytearray()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 9:
            length = int.from_bytes(self._buffer[:3], "big")
            if length > _MAX_FRAME:
                self._finish(GrpcUnhealthy("the answer is not HTTP/2"))
                return
            if len(self._buffer) < 9 + length:
                return
            kind, flags = self._buffer[3], self._buffer[4]
            payload = bytes(self._buffer[9 : 9 + length])
            del self._buffer[: 9 + length]
            self._frame(kind, flags, payload)

    def _frame(self, kind: int, flags: int, payload: bytes) -> None:
        assert self.transport is not None
        if kind == _SETTINGS and not flags & _ACK:
            self.transport.write(frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self.transport.write(frame(_PING, _ACK, 0, payload))
        elif kind == _DATA:
            self._body += payload
            if len(self._body) >= 5:
                size = int.from_bytes(self._body[1:5], "big")
                if len(self._body) >= 5 + size:
                    healthy = serving(bytes(self._body[5 : 5 + size]))
                    self._finish(None if healthy else GrpcUnhealthy("the service does not say SERVING"))
        elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            self._finish(GrpcUnhealthy("the server refused the health check"))

    def _finish(self, error: GrpcUnhealthy | None) -> None:
        if not self._done.called:
            if error is None:
                self._done.callback(None)
            else:
                self._done.errback(error)
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._finish(GrpcUnhealthy("the connection was closed without an answer"))


async def grpc_health(reactor: Any, host: str, port: int, service: str, seconds: float) -> None:
    """Ask a server for its health.

    :raises GrpcUnhealthy: unless it says SERVING in time.
    """
    done: Deferred[None] = Deferred()
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    check = _Check(request(name, service), done)
    endpoint = HostnameEndpoint(reactor, host, port, timeout=seconds)
    timer = reactor.callLater(seconds, check._finish, GrpcUnhealthy(f"no answer within {seconds:g}s"))
    try:
        await endpoint.connect(Factory.forProtocol(lambda: check))
        await done
    except GrpcUnhealthy:
        raise
    except Exception as error:
        raise GrpcUnhealthy(str(error) or type(error).__name__) from error
    finally:
        if timer.active():
            timer.cancel()
