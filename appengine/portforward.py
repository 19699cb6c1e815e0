"""Port forwarding of the kubelet API: SPDY streams in pairs, joined to connections made inside the pod's network."""

from __future__ import annotations

import ctypes
import os
import socket
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from appengine.kubelethttp import HttpError, Request, switching
from appengine.node import Node
from appengine.spdy import GoneAway, Opened, Pinged, Received, Reset, Spdy

_PROTOCOL = "portforward.k8s.io"
_CONNECT_SECONDS = 10.0
_MAX_EARLY = 1 << 20
_CLONE_NEWNET = 0x40000000


class Connection(Protocol):
    transport: Any

    def end(self, data: bytes = b"") -> None: ...


def connect_inside(pid: int, port: int) -> socket.socket:
    """A connection to a port on the loopback of another process's network namespace. Blocks; call it in a thread.

    :raises OSError: if nothing listens there.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # A socket stays in the namespace in which it was made, so the thread need not.
            if libc.setns(theirs, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "entering the pod's network namespace")
            try:
                sockets = [socket.socket(family) for family in (socket.AF_INET, socket.AF_INET6)]
            finally:
                if libc.setns(own, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "leaving the pod's network namespace")
        finally:
            os.close(theirs)
    finally:
        os.close(own)
    error: OSError | None = None
    for attempt, host in zip(sockets, ("127.0.0.1", "::1"), strict=True):
        if error is None or attempt.family == socket.AF_INET6:
            try:
                attempt.settimeout(_CONNECT_SECONDS)
                attempt.connect((host, port))
                attempt.setblocking(False)
                for other in sockets:
                    if other is not attempt:
                        other.close()
                return attempt
            except OSError as failed:
                error = error or failed
    for attempt in sockets:
        attempt.close()
    raise error or OSError("no connection")


class _Inside(TwistedProtocol):
    """The connection in the pod."""

    def __init__(self, forward: PortForwarding, stream: int) -> None:
        self.forward = forward
        self.stream = stream

    def connectionMade(self) -> None:
        self.forward.joined(self)

    def dataReceived(self, data: bytes) -> None:
        self.forward.write(self.forward.spdy.data(self.stream, data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.forward.left(self)


class _InsideFactory(Factory):
    noisy = False

    def __init__(self, forward: PortForwarding, stream: int) -> None:
        self._inside = _Inside(forward, stream)

    def buildProtocol(self, addr: IAddress | None) -> _Inside:
        return self._inside


class PortForwarding:
    """One caller; every connection it forwards is a pair of streams, ``data`` and ``error``."""

    _log = Logger()

    def __init__(self, node: Node, pid: int, request: Request, connection: Connection) -> None:
        offered = [p.strip() for v in request.headers.get("x-stream-protocol-version", []) for p in v.split(",")]
        if request.header("upgrade").upper() != "SPDY/3.1" or _PROTOCOL not in offered:
            raise HttpError(400, f"port forwarding needs an upgrade to SPDY/3.1 with {_PROTOCOL}")
        self._node = node
        self._pid = pid
        self._connection = connection
        self.spdy = Spdy()
        self._errors: dict[str, int] = {}
        self._data: dict[int, str] = {}
        self._inside: dict[int, _Inside] = {}
        self._early: dict[int, bytearray] = {}
        self._finished: set[int] = set()
        self._over = False
        self.write(switching("SPDY/3.1", {"X-Stream-Protocol-Version": _PROTOCOL}))

    def write(self, data: bytes) -> None:
        if self._connection.transport is not None:
            self._connection.transport.write(data)

    def received(self, data: bytes) -> None:
        for event in self.spdy.feed(data):
            if isinstance(event, Opened):
                self._opened(event)
            elif isinstance(event, Received):
                self._received(event.stream, event.data, event.finished)
            elif isinstance(event, Reset):
                self._received(event.stream, b"", True)
            elif isinstance(event, Pinged):
                self.write(self.spdy.pong(event))
            elif isinstance(event, GoneAway):
                self._connection.end()

    def lost(self) -> None:
        self._over = True
        for inside in list(self._inside.values()):
            if inside.transport is not None:
                inside.transport.abortConnection()  # type: ignore[attr-defined]

    def _opened(self, event: Opened) -> None:
        kind, port = event.headers.get("streamtype"), event.headers.get("port", "")
        pair = event.headers.get("requestid", port)
        if kind not in ("error", "data") or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            self.write(self.spdy.reset(event.stream))
            return
        self.write(self.spdy.reply(event.stream))
        if kind == "error":
            self._errors[pair] = event.stream
            return
        self._data[event.stream] = pair
        self._early[event.stream] = bytearray()
        work = Deferred.fromCoroutine(self._connect(event.stream, int(port)))
        work.addErrback(lambda failed: self._refused(event.stream, int(port), failed))

    async def _connect(self, stream: int, port: int) -> None:
        inside = await self._node.files.run(connect_inside, self._pid, port)
        try:
            if not self._over:
                self._node.reactor.adoptStreamConnection(inside.fileno(), inside.family, _InsideFactory(self, stream))
        finally:
            inside.close()

    def _refused(self, stream: int, port: int, failed: Failure) -> None:
        if not isinstance(failed.value, OSError):
            self._log.failure("forwarding port {port} failed", failed, port=port)
        pair = self._data.pop(stream, "")
        self._early.pop(stream, None)
        error = self._errors.pop(pair, None)
        if error is not None:
            message = f"an error occurred forwarding to port {port} in the pod: {failed.getErrorMessage()}"
            self.write(self.spdy.data(error, message.encode(), True))
        self.write(self.spdy.data(stream, b"", True))

    def joined(self, inside: _Inside) -> None:
        self._inside[inside.stream] = inside
        assert inside.transport is not None
        early = self._early.pop(inside.stream, bytearray())
        inside.transport.write(bytes(early))
        if inside.stream in self._finished:
            inside.transport.loseConnection()

    def left(self, inside: _Inside) -> None:
        self._inside.pop(inside.stream, None)
        pair = self._data.pop(inside.stream, "")
        error = self._errors.pop(pair, None)
        self.write(self.spdy.data(inside.stream, b"", True))
        if error is not None:
            self.write(self.spdy.data(error, b"", True))

    def _received(self, stream: int, data: bytes, finished: bool) -> None:
        if stream not in self._data:
            return
        inside = self._inside.get(stream)
        if inside is None:
            early = self._early.get(stream)
            if early is not None:
                if len(early) + len(data) > _MAX_EARLY:
                    raise ValueError("too much data before the connection in the pod is made")
                early += data
        elif inside.transport is not None and data:
            inside.transport.write(data)
        if finished:
            self._finished.add(stream)
            if inside is not None and inside.transport is not None:
                half = getattr(inside.transport, "loseWriteConnection", None)
                half() if half is not None else inside.transport.loseConnection()
