# mypy: disallow-untyped-calls=False
"""The one public port: TLS 1.3, then by ALPN to whoever speaks that protocol, with the peer's verified identity."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from cryptography import x509
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IListeningPort,
    IProtocol,
    IPushProducer,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from kubebus.ca import key_hash
from kubebus.exchange import peer_name
from kubebus.fastpath import CONGESTION, FastTLSTransport, Limits, server_factory
from kubebus.identity import InvalidIdentity, PeerIdentity, identity_of
from kubebus.interfaces import RegistryError
from kubebus.loglimit import LogLimit
from kubebus.tlsconfig import JOIN, LINK, ServerTLS, explain
from kubebus.tokens import Refused

Handler = Callable[[PeerIdentity | None, IAddress], IProtocol]
"""Makes the protocol for one connection: of a member, whose identity is verified, or (joining) of nobody yet."""

Check = Callable[[PeerIdentity, str], Awaitable[object]]
"""Raises :class:`kubebus.tokens.Refused` unless the member with that key hash is welcome (``Members.check``)."""

Farewell = Callable[[Refused], bytes]
"""The bytes that tell a refused member why, in the protocol it speaks."""

HANDSHAKE_SECONDS = 10.0
MAX_PENDING = 1024
# While a peer is judged, it is not read from; this much may have come with its handshake.
_MAX_EARLY = 128 * 1024
_TELL_SECONDS = 1.0


class ListenerFactory(ServerFactory):
    """Makes a :class:`_Greeter` for each connection.

    While there are too many strangers, the oldest makes room for the newest: who is slow on purpose loses first.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        handlers: Mapping[bytes, Handler],
        check: Check,
        *,
        farewells: Mapping[bytes, Farewell],
        handshake_seconds: float,
        max_pending: int,
    ) -> None:
        self.reactor = reactor
        self.handlers = handlers
        self.check = check
        self.farewells = farewells
        self.handshake_seconds = handshake_seconds
        self.max_pending = max_pending
        # Connections of peers that have not shown who they are: in their handshake, or joining. In order of arrival.
        self.strangers: dict[_Greeter, None] = {}
        self.limit = LogLimit(reactor.seconds)
        self._given_up = 0
        self._told_at = float("-inf")

    def buildProtocol(self, addr: IAddress | None) -> _Greeter:
        assert addr is not None
        if len(self.strangers) >= self.max_pending:
            self._give_up(next(iter(self.strangers)))
        return _Greeter(self, addr)

    def _give_up(self, stranger: _Greeter) -> None:
        stranger.abort()
        self.strangers.pop(stranger, None)
        self._given_up += 1
        now = self.reactor.seconds()
        if now - self._told_at >= _TELL_SECONDS:
            self.log.warn(
                "Too many connections are in their handshake, or joining: gave up the oldest {count}, the last from "
                "{peer}",
                count=self._given_up,
                peer=stranger.peer,
            )
            self._told_at, self._given_up = now, 0


@implementer(IHandshakeListener)
class _Greeter(Protocol):
    """One connection until its peer is known; then it only passes on between the transport and the handler."""

    def __init__(self, factory: ListenerFactory, addr: IAddress) -> None:
        self._factory = factory
        self._addr = addr
        self._identity: PeerIdentity | None = None
        self._timeout: IDelayedCall | None = None
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._handler: IProtocol | None = None
        self._closed = False
        self._problem: str | None = None
        self._shaken = False

    @property
    def _tls(self) -> TLSMemoryBIOProtocol:
        return cast(TLSMemoryBIOProtocol, self.transport)

    @property
    def peer(self) -> str:
        """Who it is, as far as that is known."""
        address = peer_name(self._addr)
        return address if self._identity is None else f"{self._identity} ({address})"

    def connectionMade(self) -> None:
        self._factory.strangers[self] = None
        seconds = self._factory.handshake_seconds
        self._timeout = self._factory.reactor.callLater(seconds, self._too_slow)

    def handshakeCompleted(self) -> None:
        self._shaken = True
        admitting = Deferred.fromCoroutine(self._admit())
        if not admitting.called:
            # The registry is asked. Mostly it answers at once, and the reactor need not know.
            cast(IPushProducer, self.transport).pauseProducing()
        admitting.addErrback(self._failed)

    async def _admit(self) -> None:
        protocol = self._tls.negotiatedProtocol
        handler = self._factory.handlers.get(protocol or b"")
        if protocol is None or handler is None:
            self._refuse(self._problem or "it offered no application protocol (ALPN)")
            return
        identity: PeerIdentity | None = None
        if protocol != JOIN:
            try:
                identity = await self._identify()
            except Refused as refused:
                self._refuse(str(refused), self._factory.farewells.get(protocol), refused)
                return
            except (InvalidIdentity, RegistryError) as error:
                self._refuse(str(error))
                return
        if not self._closed:
            if identity is not None:
                self._factory.strangers.pop(self, None)
            transport: object = self.transport
            if protocol == LINK and isinstance(transport, FastTLSTransport):
                # There are many links, and they last. Whose they are is known now.
                transport.settle()
            self._hand_over(handler(identity, self._addr))

    async def _identify(self) -> PeerIdentity:
        certificate: x509.Certificate | None = self._tls.getHandle().get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise InvalidIdentity("it showed no certificate")
        identity = self._identity = identity_of(certificate)
        await self._factory.check(identity, key_hash(certificate.public_key()))
        return identity

    def _hand_over(self, handler: IProtocol) -> None:
        self._cancel_timeout()
        self._handler = handler
        handler.makeConnection(self._tls)
        early, self._early = self._early, []
        for data in early:
            handler.dataReceived(data)
        if not self._closed:
            if self not in self._factory.strangers:
                # From here on the handler is asked directly: every packet would pass through here.
                self._tls.wrappedProtocol = handler
            cast(IPushProducer, self.transport).resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        if self._handler is not None:
            self._handler.dataReceived(data)
            return
        self._early_bytes += len(data)
        if self._early_bytes > _MAX_EARLY:
            self._refuse("it sent too much before it was admitted")
        elif not self._closed:
            self._early.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        decided = self._closed or self._handler is not None
        self._closed = True
        self._factory.strangers.pop(self, None)
        self._cancel_timeout()
        self._early.clear()
        if self._handler is not None:
            self._handler.connectionLost(reason)
        elif not decided:
            self._tell("No TLS connection with {peer}: {why}", self._problem or explain(reason))

    def _tell(self, what: str, why: str) -> None:
        more = self._factory.limit.more(what)
        if more is not None:
            self._factory.log.warn(what + "{more}", peer=self.peer, why=why, more=more)

    def handshake_problem(self, problem: str) -> None:
        """The TLS layer found something wrong; it closes the connection itself."""
        self._problem = problem

    def _too_slow(self) -> None:
        self._timeout = None
        seconds = f"{self._factory.handshake_seconds:g} s"
        if self._shaken:
            self._refuse(f"the registry did not answer within {seconds}, so its certificate could not be checked")
        else:
            self._refuse(f"it was not done with its handshake after {seconds}")
        self._tls.abortConnection()

    def _refuse(self, why: str, farewell: Farewell | None = None, refused: Refused | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        self._tell("Refused {peer}: {why}", why)
        if farewell is not None and refused is not None:
            self._tls.write(farewell(refused))
        # It is not read from any more, so closing must not wait for its answer for ever: the time-out still runs.
        cast(IPushProducer, self.transport).resumeProducing()
        self._early.clear()
        self._tls.loseConnection()

    def _failed(self, failure: Failure) -> None:
        self._factory.log.failure("Admitting {peer} failed", failure, peer=self.peer)
        self.abort()

    def abort(self) -> None:
        self._closed = True
        self._tls.abortConnection()

    def _cancel_timeout(self) -> None:
        timeout, self._timeout = self._timeout, None
        if timeout is not None:
            timeout.cancel()


class Listener(Service):
    """Listens while it runs.

    :param handlers: by ALPN. All but joining need a client certificate of this network that ``check`` accepts.
    :param farewells: by ALPN, what to send to a member that ``check`` refuses.
    :param congestion: the congestion control of the connections; ``None`` for the kernel's default.
    :param failed: called if the port cannot be had. Nothing else works then, so it should end the process.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        tls: ServerTLS,
        handlers: Mapping[bytes, Handler],
        check: Check,
        failed: Callable[[Failure], object],
        *,
        farewells: Mapping[bytes, Farewell] = {},
        handshake_seconds: float = HANDSHAKE_SECONDS,
        max_pending: int = MAX_PENDING,
        congestion: str | None = CONGESTION,
    ) -> None:
        self.factory = ListenerFactory(
            reactor,
            handlers,
            check,
            farewells=farewells,
            handshake_seconds=handshake_seconds,
            max_pending=max_pending,
        )
        # Handshakes have their time limit here.
        limits = Limits(handshake=None, close=handshake_seconds, congestion=congestion)
        self._tls_factory = server_factory(reactor, tls, self.factory, limits=limits)
        self._endpoint = endpoint
        self._failed = failed
        self._listening: Deferred[IListeningPort] | None = None
        self.port: IListeningPort | None = None

    def startService(self) -> None:
        super().startService()
        self._listening = self._endpoint.listen(self._tls_factory)
        self._listening.addCallbacks(self._is_listening, self._failed)

    def _is_listening(self, port: IListeningPort) -> None:
        self.port = port
        self.log.info("Listening on {host}", host=peer_name(port.getHost()))

    def stopService(self) -> Deferred[None] | None:
        """Stop listening. Connections that were handed over are their handlers' to close."""
        super().stopService()
        for greeter in list(self.factory.strangers):
            greeter.abort()
        port, self.port = self.port, None
        if port is None:
            return None
        stopped: Deferred[None] = maybeDeferred(port.stopListening)  # type: ignore[call-overload]
        return stopped
