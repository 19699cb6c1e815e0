"""A TLS transport that is its own reactor descriptor.

Twisted's TLS classes sit on a TCP transport, which reads, copies and buffers once more, and hand over a record at a
time. Here the descriptor, the TLS engine and the socket are one: a read takes what the socket has into a buffer that is
used again and again and hands over everything in it; a write is encrypted and sent at once.

The TCP transport that the connection was made with stays its owner: it is told to stop reading, its socket is used, and
in the end it closes it. So endpoints, ports and connection errors are Twisted's own, through public interfaces only.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    INegotiated,
    IProtocol,
    IPushProducer,
    IReadWriteDescriptor,
    ISystemHandle,
    ITransport,
)
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from kubebus.exchange import peer_name
from kubebus.fastpath.engine import CHUNK, ROOM, Buffer, Engine, EngineFactory, gathered, scratch
from kubebus.fastpath.pacing import JUDGE_EVERY, LOOK_EVERY, CongestionChoice, ReceiveLimit, UnsentLimit
from kubebus.fastpath.poll import busy_poll
from kubebus.tcpinfo import path_of

READS_PER_WAKEUP = 2
"""Full reads before the reactor may serve somebody else: 256 KiB, about a tenth of a millisecond."""

CLOSE_TIMEOUT = 10.0
"""Seconds to wait for the peer's answer to the end of TLS."""

_NOTSENT_LOWAT: int = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # Linux; Python has no name for it before 3.12.

_INT = struct.Struct("i")
# asm-generic/socket.h; MIPS has the same numbers for these.
_RCVBUFFORCE = 33
_BUF_LOCK = 72
_LARGE = 1 << 22

# Used up before the reactor serves another descriptor, so one for all.
_received = scratch(CHUNK)


class HandshakeTimeout(ConnectionLost):
    """The peer did not finish the TLS handshake in time."""


class CloseTimeout(ConnectionLost):
    """The peer did not answer the end of the TLS connection in time."""


CONGESTION = "auto"
"""The congestion control that suits the path (:class:`~kubebus.fastpath.pacing.CongestionChoice`)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that the peer may take for its handshake (``None``: somebody else watches), and to end TLS.

    :ivar congestion: the congestion control to use where the kernel has it, or :data:`CONGESTION`; ``None`` for the
        kernel's default.
    """

    handshake: float | None
    close: float
    congestion: str | None = CONGESTION


class IViewReceiver(Interface):
    """A protocol that wants received data without a copy."""

    def viewReceived(view: memoryview) -> int:
        """Like ``dataReceived``; the view is valid only until the method returns.

        How many bytes at its end the protocol wants to see again, before what follows: at most :data:`ROOM`.
        """


@implementer(ITransport, INegotiated, ISystemHandle, IPushProducer, IReadWriteDescriptor)
class FastTLSTransport:
    """The TLS transport of one connection. It behaves as Twisted's does, with these differences:

    - a producer is paused as soon as a byte waits, so that what is sent next is chosen as late as can be;
    - the handshake, and the peer's answer to :meth:`loseConnection`, have a time limit.

    ``batch`` is the number of bytes worth writing at once on the path as it is now.
    """

    disconnecting = False
    connected = False
    reading = False

    def __init__(
        self,
        reactor: Any,
        tcp: Any,
        protocol: IProtocol,
        factory: Any,
        new_engine: EngineFactory,
        limits: Limits,
    ) -> None:
        self.factory = factory
        """What Twisted's connection creators ask for the protocols to negotiate."""
        self._reactor = reactor
        self._poll = busy_poll(reactor)
        self._tcp = tcp
        self._protocol: IProtocol
        self._new_engine = new_engine
        self._limits = limits
        self._socket: socket.socket = tcp.getHandle()
        self._tls: SSL.Connection | None = None
        self._negotiated: bytes | None = None
        self._engine: Engine
        self._established = False
        self._open = False
        """What is written is encrypted and sent at once."""
        self._finished = False
        """Nothing more is read or written here; the socket is the TCP transport's again."""
        self._said_goodbye = False
        self._reason: Failure | None = None
        self._early: list[bytes] = []
        self._backlog = bytearray()
        self._writing = False
        self._limit = UnsentLimit()
        self._ahead = ReceiveLimit()
        self._choice = CongestionChoice() if limits.congestion == CONGESTION else None
        self._judge_at = self._look_at = 0.0
        self._received = 0
        self._sent = 0
        self._producer: Any = None
        self._streaming = False
        self._paused = False
        self._timer: IDelayedCall | None = None
        self._deliver: Callable[[memoryview], int]
        self._kept = b""
        """What the protocol wants to see again."""
        self.wrappedProtocol = protocol

    # Made and unmade, by the protocol that the TCP transport knows.

    def start(self, connection_for: Callable[[FastTLSTransport], SSL.Connection]) -> None:
        """Take over the socket and begin the handshake."""
        self._tls = tls = connection_for(self)
        self._engine = self._new_engine(tls)
        self._tcp.pauseProducing()
        self._tcp.setTcpNoDelay(True)
        self._control_congestion()
        self._limit_unsent()
        self.connected = True
        self.resumeProducing()
        if self._limits.handshake is not None:
            self._timer = self._reactor.callLater(self._limits.handshake, self._handshake_timed_out)
        self._protocol.makeConnection(self)
        if not self._finished:
            self._handshake()

    def lost(self, reason: Failure) -> None:
        """The TCP transport has closed the socket."""
        self._release()
        self.connected = False
        self.disconnecting = True
        self._backlog.clear()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        protocol, reason, self._reason = self._protocol, self._reason or reason, None
        # These hold the transport, and it holds them.
        self._protocol = _nobody
        self._deliver = _drop
        if self._tls is not None:
            self._tls.set_app_data(None)
        protocol.connectionLost(reason)

    @property
    def wrappedProtocol(self) -> IProtocol:
        """Who gets what is received, and the end. It may be replaced at any time, as with Twisted's TLS transport."""
        return self._protocol

    @wrappedProtocol.setter
    def wrappedProtocol(self, protocol: IProtocol) -> None:
        self._protocol = protocol
        if IViewReceiver.providedBy(protocol):
            self._deliver = protocol.viewReceived
        else:
            self._deliver = lambda plain: _copy_to(protocol, plain)

    # The reactor's side.

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return type(self._protocol).__name__

    def doRead(self) -> None:
        for _ in range(READS_PER_WAKEUP):
            try:
                count = self._socket.recv_into(_received)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._fail(CONNECTION_LOST)
                return
            if not count:
                self._end_of_file()
                return
            if self._established:
                self._receive(_received[:count])
            else:
                self._engine.feed(_received[:count])
                if not self._handshake():
                    return
                self._receive(None)
            self._received += count
            if count < CHUNK or not self.reading or self._finished:
                if self._ahead.limit is not None:
                    self._has_caught_up()
                return
        self._is_behind()

    def doWrite(self) -> None:
        if self._finished:
            return
        if self._backlog:
            del self._backlog[: self._offer(self._backlog)]
            now = self._reactor.seconds()
            if self._limit.taken(now, self._sent, drained=not self._backlog):
                self._limit_unsent()
            if now >= self._judge_at and self._choice is not None:
                self._judge_at = now + JUDGE_EVERY
                self._judge_path(self._choice)
            if self._backlog:
                return
        if self._established and not self._said_goodbye and self._producer is not None:
            if self._paused or not self._streaming:
                self._paused = False
                self._producer.resumeProducing()
            # A pull producer is asked again with each turn, so the descriptor stays with the writers.
            if self._backlog or (self._producer is not None and not self._streaming):
                return
        self._stop_writing()
        if self._established and self.disconnecting and (self._producer is None or self._said_goodbye):
            self._shutdown()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found the socket broken."""
        self._fail(reason.value or CONNECTION_LOST)

    # The protocol's side: ITransport and what goes with it.

    @property
    def batch(self) -> int:
        return self._limit.limit

    def write(self, data: Buffer) -> None:
        """Encrypt and send. A buffer is used no longer than the call takes."""
        if self._open and len(data) <= CHUNK:
            try:
                self._engine.write(data)
                self._flush()
            except SSL.Error as error:
                self._fail(error)
        elif self._finished or self._said_goodbye or (self.disconnecting and self._producer is None):
            return
        elif not self._established or self._early:
            self._early.append(bytes(data))
            self._pause_producer()
        else:
            self._encrypt(data)

    def writeSequence(self, iovec: Iterable[Buffer]) -> None:
        """Encrypt and send as one. What is long is not copied for it."""
        if not self._open:
            self.write(b"".join(iovec))
            return
        engine, written = self._engine, 0
        try:
            for data in gathered(iovec):
                engine.write(data)
                written += len(data)
                if written >= CHUNK:
                    self._flush()
                    written = 0
            self._flush()
        except SSL.Error as error:
            self._fail(error)

    def loseConnection(self) -> None:
        """Close once everything written is sent and a registered producer has finished."""
        if self.disconnecting or not self.connected:
            return
        self.disconnecting = True
        self._open = False
        if not self._established and not self._early:
            self.abortConnection()
        elif self._established and not self._backlog and self._producer is None:
            self._shutdown()

    def loseWriteConnection(self) -> None:
        """TLS as Twisted speaks it has no half-close: the peer answers an end with an end."""
        self.loseConnection()

    def abortConnection(self) -> None:
        """Close now. ``connectionLost`` follows, not before this returns; no ``dataReceived`` does."""
        if not self._finished:
            self.disconnecting = True
            self._release()
        self._tcp.abortConnection()

    def failVerification(self, reason: Failure) -> None:
        """What Twisted's connection creators call when the peer's certificate does not convince them."""
        self._reason = reason
        self.abortConnection()

    def pauseProducing(self) -> None:
        if self.reading:
            self.reading = False
            self._poll.removeReader(self)

    def resumeProducing(self) -> None:
        if not self.reading and not self._finished and self.connected:
            self.reading = True
            self._poll.addReader(self)

    def stopProducing(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError(f"{self._producer!r} is registered as the producer already; unregister it first")
        if self._finished or not self.connected:
            producer.stopProducing()
            return
        self._producer, self._streaming, self._paused = producer, streaming, False
        if not streaming:
            self._start_writing()
        elif self._backlog or self._early:
            self._pause_producer()

    def unregisterProducer(self) -> None:
        self._producer = None
        self._paused = False
        if self.disconnecting and self._established and not self._backlog and not self._finished:
            self._shutdown()

    def getHandle(self) -> SSL.Connection | None:
        """``None`` if there is none any more: see :meth:`settle`."""
        return self._tls

    def getHost(self) -> IPv4Address | IPv6Address:
        host: IPv4Address | IPv6Address = self._tcp.getHost()
        return host

    def getPeer(self) -> IPv4Address | IPv6Address:
        peer: IPv4Address | IPv6Address = self._tcp.getPeer()
        return peer

    def getPeerCertificate(self) -> Any:
        return None if self._tls is None else self._tls.get_peer_certificate()

    @property
    def negotiatedProtocol(self) -> bytes | None:
        return self._negotiated if self._tls is None else self._tls.get_alpn_proto_negotiated() or None

    def settle(self) -> None:
        """The peer has been judged by its certificate, and nobody will ask for that any more: let go of it."""
        negotiated = self.negotiatedProtocol
        if self._engine.settle() and self._tls is not None:
            self._tls.set_app_data(None)
            self._tls, self._negotiated = None, negotiated

    def getTcpNoDelay(self) -> bool:
        return bool(self._tcp.getTcpNoDelay())

    def setTcpNoDelay(self, enabled: bool) -> None:
        self._tcp.setTcpNoDelay(enabled)

    def getTcpKeepAlive(self) -> bool:
        return bool(self._tcp.getTcpKeepAlive())

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._tcp.setTcpKeepAlive(enabled)

    # Inside.

    def _handshake(self) -> bool:
        try:
            done = self._engine.handshake()
        except SSL.Error as error:
            self._flush()  # The alert that tells the peer why.
            self._fail(error)
            return False
        if self._finished:
            return False
        self._flush()
        if not done:
            return False
        self._established = True
        self._cancel_timer()
        if self._choice is not None:
            self._judge_path(self._choice)
        if IHandshakeListener.providedBy(self._protocol):
            self._protocol.handshakeCompleted()
        if not self._finished:
            self._write_early()
        return not self._finished

    def _encrypt(self, data: Buffer) -> None:
        try:
            view = memoryview(data)
            for start in range(0, len(view), CHUNK):
                self._engine.write(view[start : start + CHUNK])
                self._flush()
        except SSL.Error as error:
            self._fail(error)

    def _write_early(self) -> None:
        early, self._early = self._early, []
        for data in early:
            self._encrypt(data)
        self._open = not self.disconnecting and not self._finished
        if self._producer is not None or self.disconnecting:
            # doWrite() resumes the one, or ends the connection for the other.
            self._start_writing()

    def _receive(self, data: memoryview | None) -> None:
        """Decrypt and deliver; ``None``: what came with the end of the handshake."""
        engine = self._engine
        try:
            kept = self._kept
            plain = engine.read(kept) if data is None else engine.receive(data, kept)
            size = len(plain)
            if size > len(kept):
                left = self._deliver(plain)
                self._kept = bytes(plain[size - left :]) if left else b""
        except SSL.Error as error:
            self._flush()
            self._fail(error)
            return
        if self._finished:
            return
        self._flush()
        if engine.ended:
            self._shutdown()

    def _flush(self) -> None:
        """Send what the engine has put out."""
        while view := self._engine.output():
            size = len(view)
            if self._backlog or self._finished:
                self._backlog += view
            elif (sent := self._offer(view)) < size:
                self._backlog += view[sent:]
                self._limit.blocked(self._reactor.seconds(), self._sent)
                self._start_writing()
                self._pause_producer()
            if size < ROOM:
                return

    def _offer(self, data: Buffer) -> int:
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._fail(CONNECTION_LOST)
            return 0
        self._sent += sent
        return sent

    def _end_of_file(self) -> None:
        # Without the peer's close_notify, somebody else may have cut the connection.
        self._fail(CONNECTION_LOST)

    def _shutdown(self) -> None:
        """Say that nothing more follows; the socket is closed when the peer has said so too."""
        self.disconnecting = True
        self._open = False
        if self._finished:
            return
        self._said_goodbye = True
        try:
            both = self._engine.shutdown()
        except SSL.Error:
            both = False
        self._flush()
        if both and not self._finished and not self._backlog:
            self._release()
            self._tcp.loseConnection()
            return
        if not self.reading:
            # The peer's answer must be seen; what else comes is for nobody.
            self._deliver = _drop
            self.resumeProducing()
        if self._timer is None and not self._finished:
            self._timer = self._reactor.callLater(self._limits.close, self._close_timed_out)

    def _fail(self, error: BaseException) -> None:
        if self._finished:
            return
        if self._reason is None:
            self._reason = _failure(error)
        self.disconnecting = True
        self._release()
        # Not abortConnection(): what was sent last, an alert, may still be on its way.
        self._tcp.loseConnection()

    def _release(self) -> None:
        """Give the socket back to the TCP transport. Harmless when done already."""
        if self._finished:
            return
        self._finished = True
        self._open = False
        self._cancel_timer()
        self.reading = False
        self._poll.removeReader(self)
        self._stop_writing()

    def _handshake_timed_out(self) -> None:
        self._timer = None
        who, seconds = peer_name(self.getPeer()), self._limits.handshake
        self._reason = _failure(HandshakeTimeout(f"{who} did not finish the TLS handshake in {seconds} s"))
        self.abortConnection()

    def _close_timed_out(self) -> None:
        self._timer = None
        who, seconds = peer_name(self.getPeer()), self._limits.close
        self._reason = _failure(CloseTimeout(f"{who} did not answer the end of the TLS connection in {seconds} s"))
        self.abortConnection()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _start_writing(self) -> None:
        if not self._writing and not self._finished:
            self._writing = True
            self._poll.addWriter(self)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._poll.removeWriter(self)

    def _pause_producer(self) -> None:
        if self._producer is not None and self._streaming and not self._paused:
            self._paused = True
            self._producer.pauseProducing()

    def _is_behind(self) -> None:
        """There was more to read than one turn allows: see that it does not become much."""
        now = self._reactor.seconds()
        if self._finished or now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        try:
            (unread,) = _INT.unpack(fcntl.ioctl(self._socket, termios.FIONREAD, bytes(_INT.size)))
            path = path_of(self._socket)
            round_trip = (path and path.round_trip) or 0.0
            if self._ahead.behind(now, self._received, unread, round_trip) and self._ahead.limit is not None:
                self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, self._ahead.limit)
        except OSError:
            pass  # An old kernel, or no right to: latency under load is all that it costs.

    def _has_caught_up(self) -> None:
        if self._ahead.caught_up(self._reactor.seconds()):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _BUF_LOCK, 0)
            except OSError:
                # Before Linux 5.14 a buffer that was set once stays as set: then better too large.
                self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _LARGE)

    def _control_congestion(self) -> None:
        if self._limits.congestion is not None and self._choice is None:
            self._set_congestion(self._limits.congestion)

    def _judge_path(self, choice: CongestionChoice) -> None:
        path = path_of(self._socket)
        # An old kernel: its default is good enough.
        if path is not None and choice.judge(path.round_trip, path.sent, path.resent) and choice.name is not None:
            self._set_congestion(choice.name)

    def _set_congestion(self, name: str) -> None:
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except OSError:
            pass  # Not in this kernel, or not allowed: its default is good enough.

    def _limit_unsent(self) -> None:
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, self._limit.limit)
        except OSError:
            pass  # A kernel without it queues more; nothing else changes.


_nobody = Protocol()
_failure: Callable[[BaseException], Failure] = Failure


def _copy_to(protocol: IProtocol, plain: memoryview) -> int:
    protocol.dataReceived(bytes(plain))
    return 0


def _drop(view: memoryview) -> int:
    """Deliver to nobody."""
    return 0
