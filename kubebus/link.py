"""One end of a link, on any ordinary transport: frames in and out, timers, back-pressure.

What the frames mean is decided by :class:`~kubebus.session.LinkSession`, the streams, and the link's handler.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Final, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITCPTransport, ITransport
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from kubebus.control import Hello, LinkConfig
from kubebus.fastpath import IViewReceiver
from kubebus.frames import CONTROL, HEADER_SIZE, PACKET, PacketFrames, frame, frame_at, packet_bounds, packet_frames
from kubebus.identity import InvalidIdentity, PeerIdentity
from kubebus.linkerrors import LinkError, LinkRefused, RemoteProtocolError, TransportLost
from kubebus.queues import BATCH, LinkQueues, QueueCounters
from kubebus.session import ConfigChanged, Effect, Ended, Greeted, LinkSession, Send, Side, Timing, Up
from kubebus.status import LinkStatus
from kubebus.streamtransport import LinkStreams, ServiceTable
from kubebus.tcpinfo import acknowledged
from kubebus.tlsconfig import explain

_CLOSE_TIMEOUT: Final = 1.0
"""Seconds for the last words of a link; then the connection is aborted."""

_LONG: Final = 16 * 1024
"""Bytes from which on a transport may do better with the pieces than with their copy in one."""

_MAX_ANSWERS: Final = 1024
"""Control and window frames that may wait for a peer which asks and does not read."""


_MAX_RUNS: Final = 16
"""Runs of packets, with other frames between them, that are handled one by one in a read; each may cost a system call.
The packets of a peer that makes more are handled together, after everything else."""


class LinkHandler(Protocol):
    """Who owns a link. ``link_lost`` is called exactly once, and last."""

    def link_greeted(self, link: Link, hello: Hello) -> None:
        """Router only: call ``link.accept`` or ``link.close``, now or later."""

    def link_up(self, link: Link, hello: Hello) -> None: ...

    def link_configured(self, link: Link, config: LinkConfig) -> None:
        """Edge only: the router changed the node's configuration."""

    def link_packets(self, link: Link, frames: PacketFrames) -> None:
        """PACKET frames, whose payloads are unchecked."""

    def link_drained(self, link: Link) -> None:
        """The peer takes data again after a pause, and the queues have been served."""

    def link_lost(self, link: Link, error: LinkError) -> None: ...


@implementer(IPushProducer, IViewReceiver)
class Link(TwistedProtocol):
    """The protocol of ALPN ``kubebus/1``.

    :param host: this side's own identity.
    :param wants_config: whether an edge is told its configuration; a router that dials another one is not.
    :param identify: gives the peer's verified identity; asked when its hello is here, so after the handshake.
    :ivar peer: who it is, once the link is up.
    :ivar streams: the streams, once the link is up.
    :ivar closed: fires when the connection is gone, a moment after ``link_lost``.
    """

    def __init__(
        self,
        clock: IReactorTime,
        side: Side,
        host: PeerIdentity,
        identify: Callable[[ITransport], PeerIdentity],
        services: ServiceTable,
        handler: LinkHandler,
        timing: Timing | None = None,
        agent: str = "",
        wants_config: bool = True,
    ) -> None:
        self.session = LinkSession(side, clock.seconds(), agent, timing=timing or Timing(), wants_config=wants_config)
        self.peer: PeerIdentity | None = None
        self.streams: LinkStreams | None = None
        self.received_bytes = self.sent_bytes = 0
        self.closed: Deferred[None] = Deferred()
        self._clock, self._host, self._identify = clock, host, identify
        self._services, self._handler = services, handler
        # Of an incomplete frame, from a transport that does not keep it for us.
        self._kept = b""
        self._queues = LinkQueues(self._next_stream_frames, clock.seconds)
        self._paused = False
        # While frames are handled, what they cause to be sent is flushed once, at the end.
        self._busy = False
        self._timer: IDelayedCall | None = None
        self._flush_call: IDelayedCall | None = None

    @property
    def backlog(self) -> int:
        """Bytes of packets that wait here."""
        return self._queues.packet_bytes

    @property
    def counters(self) -> QueueCounters:
        return self._queues.counters

    @property
    def remote_address(self) -> object:
        """The address at the other end of the connection."""
        return self._transport.getPeer()

    # -- For the owner

    def accept(self, epoch: int, config: LinkConfig | None) -> None:
        """Router: let the greeted edge in; another router has no configuration."""
        self._do(self.session.accept(epoch, config, self._clock.seconds()))

    def configure(self, config: LinkConfig) -> None:
        """Router: tell the edge its changed configuration."""
        self._do(self.session.configure(config))

    def close(self, error: LinkError) -> None:
        """End the link; the peer is told why. ``link_lost`` is called before this returns."""
        self._do(self.session.close(error))

    def send_packet(self, payload: bytes) -> bool:
        """Queue a PACKET payload for the next :meth:`flush`, or count it as dropped. Hot."""
        return self._queues.put_packet(payload)

    def send_frames(self, frames: PacketFrames, first: int, last: int) -> None:
        """Send these frames from ``first`` up to ``last``, from where they lie if nothing has to wait here; else queue
        them, and flush. Hot."""
        buffer, bounds = frames
        batch = getattr(self.transport, "batch", 0)
        queues = self._queues
        if batch and not self._has_any:
            sent = first
            while sent < last and not self._paused and not self.session.has_ended:
                start = bounds[sent]
                # Little on a slow path: what is written can be overtaken no more.
                begun, sent = sent, max(bisect_right(bounds, start + batch, sent, last + 1) - 1, sent + 1)
                size = bounds[sent] - start
                self.sent_bytes += size
                queues.passed(sent - begun, size)
                self.transport.write(buffer[start : start + size])  # type: ignore[union-attr,arg-type]
            if sent > first and self.session.sent_data(self._clock.seconds()):
                self._arm()
            if sent == last:
                return
            first = sent
        for payload in frames.payloads(first, last):
            queues.put_packet(payload)
        self.flush()

    def flush(self) -> None:
        """Write as much as the transport takes now, in order of service."""
        queues, session = self._queues, self.session
        if self.transport is None or session.has_ended:
            return
        sent_data = False
        while not self._paused:
            # Little on a slow path: what is written can be overtaken no more.
            parts, has_data, more = queues.next_batch(min(BATCH, getattr(self.transport, "batch", BATCH)))
            if parts:
                sent_data |= has_data
                size = sum(map(len, parts))
                self.sent_bytes += size
                if size < _LONG:
                    self.transport.write(b"".join(parts))
                else:
                    self.transport.writeSequence(parts)
            if not more:
                break
        if sent_data and session.sent_data(self._clock.seconds()):
            self._arm()

    # -- IProtocol

    def connectionMade(self) -> None:
        transport = self._transport
        if ITCPTransport.providedBy(transport) or hasattr(transport, "setTcpNoDelay"):
            cast(ITCPTransport, transport).setTcpNoDelay(True)
        # A transport that was lost in between stops its producer at once.
        cast(ITCPTransport, transport).registerProducer(self, True)  # type: ignore[attr-defined]
        self.session.started = self.session.last_received = self._clock.seconds()
        self._do(self.session.start())
        self._arm()

    def dataReceived(self, data: bytes) -> None:
        if self._kept:
            data = self._kept + data
        kept = self.viewReceived(memoryview(data))
        self._kept = data[len(data) - kept :]

    def viewReceived(self, view: memoryview) -> int:
        """What :class:`kubebus.fastpath.IViewReceiver` says: the transport needs to make no copy."""
        session = self.session
        if session.has_ended:
            return 0
        now = self._clock.seconds()
        session.received(now)
        self._busy = True
        kept = 0
        try:
            kept = self._frames(view, now)
        except RemoteProtocolError as error:
            self._do(session.close(error))
        finally:
            self._busy = False
        self.received_bytes += len(view) - kept
        if self._has_any:
            self.flush()
        return kept

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._do(self.session.lost(TransportLost(f"the connection was lost: {explain(reason)}")))
        self._cancel_timer()
        self.closed.callback(None)

    # -- IPushProducer: the transport says when it has room

    def pauseProducing(self) -> None:
        self._paused = True
        self._queues.block()

    def resumeProducing(self) -> None:
        self._paused = False
        self._queues.unblock()
        self.flush()
        if not self._paused and not self.session.has_ended:
            self._handler.link_drained(self)

    def stopProducing(self) -> None:
        self.pauseProducing()

    # -- Within

    @property
    def _has_any(self) -> bool:
        """Whether there is anything to send."""
        return self._queues.hold_any or (self.streams is not None and self.streams.multiplexer.has_any)

    @property
    def _transport(self) -> ITransport:
        assert self.transport is not None
        return self.transport

    def _frames(self, view: memoryview, now: float) -> int:
        """Handle the frames that are here; how many bytes at the end are of one that is not whole."""
        at, size, session = 0, len(view), self.session
        runs = 0
        late: list[bytes] = []
        while at + HEADER_SIZE <= size:
            if view[at] == PACKET:
                bounds = packet_bounds(view, at)
                if bounds[-1] == at:
                    break
                at = bounds[-1]
                session.received_data(now)
                frames = PacketFrames(view, bounds)
                runs += 1
                if runs <= _MAX_RUNS:
                    self._handler.link_packets(self, frames)
                else:
                    late += frames.payloads()
            else:
                kind, end = frame_at(view, at)
                if end > size:
                    break
                self._other_frame(kind, bytes(view[at + HEADER_SIZE : end]), now)
                at = end
            if session.has_ended:
                return 0
        if late:
            self._handler.link_packets(self, packet_frames(late))
        return size - at

    def _other_frame(self, kind: int, payload: bytes, now: float) -> None:
        if kind == CONTROL:
            self._do(self.session.control_received(payload, now))
        else:
            self.session.received_data(now)
            if self.streams is not None:
                self.streams.multiplexer.frame_received(payload)
        if not self.session.has_ended:
            self._check_answers()

    def _check_answers(self) -> None:
        waiting = self._queues.control_frames
        if self.streams is not None:
            waiting += self.streams.multiplexer.urgent_frames
        if waiting > _MAX_ANSWERS:
            # Being paused is no fault; asking for more and more answers without reading them is.
            if not self._paused:
                self._busy = False
                self.flush()
                self._busy = True
                return
            raise RemoteProtocolError(f"{waiting} answers wait, and the peer does not read them")

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(payload=payload):
                    self._queues.put_control(frame(CONTROL, payload))
                case Greeted(hello=hello):
                    self._handler.link_greeted(self, hello)
                case Up(hello=hello):
                    self._up(hello)
                case ConfigChanged(config=config):
                    self._handler.link_configured(self, config)
                case Ended(error=error):
                    self._end(error)
                    return
        # Also after the answer to a heartbeat: the next one is due before an answer would have been missed.
        self._arm()
        if effects:
            self._flush_unless_busy()

    def _up(self, hello: Hello) -> None:
        try:
            self.peer = self._identify(self._transport)
        except InvalidIdentity as error:
            self.close(LinkRefused(str(error)))
            return
        dialler = self.session.side is Side.EDGE
        self.streams = LinkStreams(self._clock, self._host, self.peer, dialler, self._services, self._wake)
        self._handler.link_up(self, hello)

    def _end(self, error: LinkError) -> None:
        """The session is over: say what it still had to say, and close."""
        self._cancel_timer()
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        last_words = self._queues.take_control()
        self._queues.clear()
        transport = self.transport
        if transport is not None and not isinstance(error, TransportLost):
            transport.write(last_words)
            # TLS waits for ever with loseConnection() while a producer is registered.
            transport.unregisterProducer()  # type: ignore[attr-defined]
            transport.loseConnection()
            self._timer = self._clock.callLater(_CLOSE_TIMEOUT, self._abort)
        if self.streams is not None:
            self.streams.close(str(error))
        self._handler.link_lost(self, error)

    def _abort(self) -> None:
        self._timer = None
        abort = getattr(self._transport, "abortConnection", None)
        if abort is not None:
            abort()

    def _next_stream_frames(self, budget: int) -> list[bytes]:
        return [] if self.streams is None else self.streams.multiplexer.next_frames(budget)

    def _wake(self) -> None:
        """Streams have something to send: soon, so that more can join it."""
        if not self._busy and self._flush_call is None and not self.session.has_ended:
            self._flush_call = self._clock.callLater(0, self._flush_woken)

    def _flush_woken(self) -> None:
        self._flush_call = None
        self.flush()

    def _flush_unless_busy(self) -> None:
        if not self._busy:
            self.flush()

    # The timer is never moved when traffic flows: when it fires early, it finds the real deadline.

    def _arm(self) -> None:
        if self.session.has_ended:
            return
        wait = max(0.0, self.session.deadline() - self._clock.seconds())
        if self._timer is None:
            self._timer = self._clock.callLater(wait, self._tick)
        elif self._timer.getTime() > self._clock.seconds() + wait:
            self._timer.reset(wait)

    def _tick(self) -> None:
        self._timer = None
        self._do(self.session.tick(self._clock.seconds(), acknowledged(self.transport)))
        self._arm()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def link_status(link: Link, address: str, since: float, last_seen: float) -> LinkStatus:
    return LinkStatus(
        address,
        since,
        last_seen,
        link.session.rtt,
        link.received_bytes,
        link.sent_bytes,
        link.counters.dropped,
        link.backlog,
        0 if link.streams is None else len(link.streams.multiplexer),
    )
