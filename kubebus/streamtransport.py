"""Streams as ordinary Twisted transports and endpoints: the rim around :mod:`kubebus.streams`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IPullProducer,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kubebus.identity import PeerIdentity
from kubebus.interfaces import NodeAway, StreamAddress
from kubebus.streams import Stream, StreamEvents, Streams

_HIGH_WATER: Final = 64 * 1024
"""A producer is paused while so many bytes wait; Twisted's own ``FileDescriptor.bufferSize``."""

_LINGER: Final = 30.0
"""Seconds that the peer has to end its side after we closed ours; then the stream is reset."""

_log = Logger()


@implementer(ITransport, IConsumer, IPushProducer)
class StreamTransport:
    """One stream, as the transport of a protocol.

    It behaves as a TCP connection does: ``loseConnection`` sends what was written first, ``loseWriteConnection``
    closes one direction (a protocol that is :class:`IHalfCloseableProtocol` is told of the peer's), and
    ``abortConnection`` closes at once.
    """

    disconnecting = False
    disconnected = False
    connected = True

    def __init__(self, clock: IReactorTime, host: StreamAddress, peer: StreamAddress) -> None:
        self._clock = clock
        self._host, self._peer = host, peer
        self._stream: Stream | None = None
        self._protocol: IProtocol | None = None
        self._producer: IPushProducer | IPullProducer | None = None
        self._streaming = False
        self._producer_paused = False
        self._reading = True
        self._held: list[bytes] = []
        self._end_held = False
        self._closed_held = False
        self._writing_ended = False
        self._linger: IDelayedCall | None = None

    # -- What the link's side calls

    def attach(self, stream: Stream, protocol: IProtocol) -> None:
        self._stream, self._protocol = stream, protocol

    def accepted(self) -> None:
        """The stream is open on both sides: the protocol begins."""
        self._guard(lambda: cast(IProtocol, self._protocol).makeConnection(self))

    def data(self, data: bytes) -> None:
        if self.disconnecting:
            # Closed here while the peer goes on sending: as TCP does, send what was written, then say that nobody
            # listens. Until then the window stops the peer.
            if self._open_stream.end_sent:
                self._open_stream.reset("the other side is closed")
        elif self._reading and not self._held:
            self._deliver(data)
        else:
            self._held.append(data)

    def ended(self) -> None:
        if self._held or not self._reading:
            self._end_held = True
        else:
            self._read_ended()

    def write_ended(self) -> None:
        half_closeable = _half_closeable(self._protocol)
        if half_closeable is not None and not self.disconnecting:
            self._guard(half_closeable.writeConnectionLost)

    def closed(self, reason: str | None) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if reason is None and self._held and not self.disconnecting:
            # All is here, but the protocol has paused: it gets the rest first.
            self._closed_held = True
            return
        self._held.clear()
        if reason is None or self.disconnecting:
            self._connection_lost(ConnectionDone())
        else:
            self._connection_lost(ConnectionLost(reason))

    def writable(self, queued: int) -> None:
        if self._producer is not None and queued <= _HIGH_WATER // 2:
            if not self._streaming:
                if queued == 0:
                    self._producer.resumeProducing()
            elif self._producer_paused:
                self._producer_paused = False
                self._producer.resumeProducing()

    # -- ITransport

    def write(self, data: bytes) -> None:
        stream = self._stream
        if stream is None or self.disconnected:
            return
        stream.write(data)
        if self._streaming and not self._producer_paused and stream.queued > _HIGH_WATER:
            self._producer_paused = True
            cast(IPushProducer, self._producer).pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self.disconnecting or self.disconnected:
            return
        self.disconnecting = True
        if self._producer is None:
            self._finish()

    def loseWriteConnection(self) -> None:
        self._writing_ended = True
        if self._producer is None:
            self._open_stream.end()

    def abortConnection(self) -> None:
        if self.disconnected:
            return
        self._clock.callLater(0, self._abort)

    def getPeer(self) -> IAddress:
        return self._peer

    def getHost(self) -> IAddress:
        return self._host

    # -- IPushProducer, for what comes from the peer

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self._reading or self.disconnected:
            return
        self._reading = True
        self._clock.callLater(0, self._release)

    def stopProducing(self) -> None:
        self._reading = False
        self.loseConnection()

    # -- IConsumer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError(f"{producer!r} cannot be registered while {self._producer!r} is")
        if self.disconnected:
            producer.stopProducing()
            return
        self._producer, self._streaming, self._producer_paused = producer, streaming, False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer, self._streaming = None, False
        if self.disconnected:
            return
        if self.disconnecting:
            self._finish()
        elif self._writing_ended:
            self._open_stream.end()

    # -- Within

    @property
    def _open_stream(self) -> Stream:
        assert self._stream is not None, "a stream transport that is not attached"
        return self._stream

    def _deliver(self, data: bytes) -> None:
        protocol = cast(IProtocol, self._protocol)
        self._guard(lambda: protocol.dataReceived(data))
        self._open_stream.consumed(len(data))

    def _release(self) -> None:
        while self._held and self._reading and not self.disconnected:
            self._deliver(self._held.pop(0))
        if self._end_held and not self._held and self._reading and not self.disconnected:
            self._end_held = False
            self._read_ended()
        if self._closed_held and not self._held:
            self._connection_lost(ConnectionDone())

    def _read_ended(self) -> None:
        if self.disconnected:
            return
        half_closeable = _half_closeable(self._protocol)
        if half_closeable is None:
            self.loseConnection()
        else:
            self._guard(half_closeable.readConnectionLost)

    def _finish(self) -> None:
        """Send what is queued and the end; the protocol hears when that is done."""
        stream = self._open_stream
        stream.end()
        if not stream.over:
            self._linger = self._clock.callLater(_LINGER, self._linger_over)

    def _linger_over(self) -> None:
        self._linger = None
        if self._open_stream.end_sent:
            self._open_stream.reset("the other side is closed")
        else:
            # It still has data to send: slow, not forgotten.
            self._linger = self._clock.callLater(_LINGER, self._linger_over)

    def _abort(self) -> None:
        if not self.disconnected:
            self._connection_lost(ConnectionAborted())
            self._open_stream.reset("aborted")

    def _connection_lost(self, reason: Exception) -> None:
        if self.disconnected:
            return
        self.disconnected, self.connected = True, False
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        protocol = cast(IProtocol, self._protocol)
        try:
            protocol.connectionLost(Failure(reason))  # type: ignore[no-untyped-call]
        except Exception:
            _log.failure("A service failed as its stream to {peer} closed", peer=self._peer)

    def _guard(self, call: Callable[[], object]) -> None:
        """A service that fails loses its stream, and nobody else is disturbed."""
        try:
            call()
        except Exception:
            _log.failure("A service failed on its stream to {peer}; the stream is closed", peer=self._peer)
            self._abort()


def _half_closeable(protocol: object) -> Any:
    """The protocol, if it tells the two directions apart. (mypy takes every adaptation for a success.)"""
    return cast(Any, IHalfCloseableProtocol)(protocol, None)


class _Opening:
    """A stream that this side opened, until the peer decides."""

    def __init__(self, link: LinkStreams, service: str, factory: IProtocolFactory) -> None:
        self._link, self._service, self._factory = link, service, factory
        self.transport: StreamTransport | None = None
        self.stream: Stream | None = None
        self._cancelled = False
        self.done: Deferred[IProtocol] = Deferred(self._cancel)

    def accepted(self) -> None:
        peer = StreamAddress(self._link.peer, self._service)
        stream = cast(Stream, self.stream)
        try:
            protocol = self._factory.buildProtocol(peer)
        except Exception:
            self.done.errback()
            stream.reset("the client failed")
            return
        if protocol is None:
            self.done.errback(_refused("the factory gave no protocol"))
            stream.reset("the client has no use for it")
            return
        transport = StreamTransport(self._link.clock, StreamAddress(self._link.host, self._service), peer)
        transport.attach(stream, protocol)
        stream.events = self.transport = transport
        transport.accepted()
        self.done.callback(protocol)

    def data(self, data: bytes) -> None:
        raise AssertionError("data on a stream that is not accepted")

    def ended(self) -> None:
        raise AssertionError("the end of a stream that is not accepted")

    def write_ended(self) -> None:
        raise AssertionError("the end of a stream that is not accepted")

    def writable(self, queued: int) -> None:
        raise AssertionError("a stream that is not accepted was written to")

    def closed(self, reason: str | None) -> None:
        if self.done.called or self._cancelled:
            return
        if self._link.is_over:
            error: Exception = NodeAway(f"{self._link.peer} went away")
        else:
            error = _refused(f"{self._link.peer} refused a stream to {self._service!r}: {reason}")
        self.done.errback(error)

    def _cancel(self, _: Deferred[IProtocol]) -> None:
        # The Deferred itself fails with CancelledError.
        self._cancelled = True
        cast(Stream, self.stream).reset("cancelled")


def _refused(why: str) -> ConnectError:
    return ConnectError(string=why)  # type: ignore[no-untyped-call]


class LinkStreams:
    """The streams of one live link, with its two ends' names.

    :ivar multiplexer: what the link feeds with frames and asks for them.
    """

    def __init__(
        self,
        clock: IReactorTime,
        host: PeerIdentity,
        peer: PeerIdentity,
        dialler: bool,
        services: ServiceTable,
        wake: Callable[[], None],
    ) -> None:
        self.clock, self.host, self.peer = clock, host, peer
        self.is_over = False
        self.multiplexer = Streams(dialler, self._accept, wake)
        self._services = services

    def connect(self, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        opening = _Opening(self, service, factory)
        opening.stream = self.multiplexer.open(service, opening)
        return opening.done

    def close(self, reason: str) -> None:
        """The link is over."""
        if not self.is_over:
            self.is_over = True
            self.multiplexer.close(reason)

    def _accept(self, service: str, stream: Stream) -> StreamEvents | str:
        peer = StreamAddress(self.peer, service)
        protocol = self._services.build(peer)
        if isinstance(protocol, str):
            return protocol
        transport = StreamTransport(self.clock, StreamAddress(self.host, service), peer)
        transport.attach(stream, protocol)
        return transport


class ServiceTable:
    """The services that one side offers on all its links.

    :ivar fallback: asked for streams to services that nobody serves.
    """

    def __init__(self) -> None:
        self._factories: dict[str, IProtocolFactory] = {}
        self.fallback: Callable[[StreamAddress], IProtocol | None] = lambda peer: None

    def serve(self, service: str, factory: IProtocolFactory) -> None:
        """Offer ``service``.

        :raises ValueError: if it is offered already.
        """
        if service in self._factories:
            raise ValueError(f"stream service {service!r} is served already")
        self._factories[service] = factory

    def build(self, peer: StreamAddress) -> IProtocol | str:
        """A protocol for a new stream from ``peer``, or why there is none."""
        factory = self._factories.get(peer.service)
        if factory is None:
            other = self.fallback(peer)
            return other if other is not None else f"there is no service {peer.service[:80]!r}"
        try:
            protocol = factory.buildProtocol(peer)
        except Exception:
            _log.failure("Service {peer.service} failed to take a stream of {peer.peer}", peer=peer)
            return "the service failed"
        return protocol if protocol is not None else "the service is not available"


@implementer(IStreamClientEndpoint)
class StreamEndpoint:
    """Connects to a service at the other end of whatever link there is at that time.

    :param find: gives the live link's streams and the service's name there, or raises :class:`NodeAway`.
    """

    def __init__(self, find: Callable[[], tuple[LinkStreams, str]]) -> None:
        self._find = find

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        protocolFactory.doStart()
        try:
            streams, service = self._find()
            done = streams.connect(service, protocolFactory)
        except NodeAway as error:
            done = Deferred()
            done.errback(error)
        return done
