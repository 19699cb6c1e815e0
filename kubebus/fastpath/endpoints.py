"""Factories and endpoints that speak TLS by :mod:`kubebus.fastpath.transport`.

Over anything but a TCP socket on a reactor of descriptors (a transport of tests, TLS in TLS) they use Twisted's TLS.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorFDSet,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from kubebus.fastpath.engine import EngineFactory, choose_engine
from kubebus.fastpath.records import choose_server_engine
from kubebus.fastpath.transport import CLOSE_TIMEOUT, CONGESTION, FastTLSTransport, Limits

HANDSHAKE_TIMEOUT = 30.0
_LIMITS = Limits(HANDSHAKE_TIMEOUT, CLOSE_TIMEOUT)


def client_limits(congestion: str | None = CONGESTION) -> Limits:
    """Usual limits with a congestion control (see :class:`Limits`)."""
    return Limits(HANDSHAKE_TIMEOUT, CLOSE_TIMEOUT, congestion)


def wrap_server_tls(
    reactor: Any,
    creator: IOpenSSLServerConnectionCreator,
    endpoint: IStreamServerEndpoint,
    *,
    engine: EngineFactory | None = None,
    limits: Limits = _LIMITS,
) -> IStreamServerEndpoint:
    """Like Twisted's ``wrapServerTLS``.

    :param engine: what does the TLS; the best one that works, if not given.
    """
    return _ServerEndpoint(endpoint, lambda factory: server_factory(reactor, creator, factory, engine, limits))


def wrap_client_tls(
    reactor: Any,
    creator: IOpenSSLClientConnectionCreator,
    endpoint: IStreamClientEndpoint,
    *,
    engine: EngineFactory | None = None,
    limits: Limits = _LIMITS,
) -> IStreamClientEndpoint:
    """Like Twisted's ``wrapClientTLS``; see :func:`wrap_server_tls`."""
    return _ClientEndpoint(endpoint, lambda factory: client_factory(reactor, creator, factory, engine, limits))


def server_factory(
    reactor: Any,
    creator: IOpenSSLServerConnectionCreator,
    wrapped: IProtocolFactory,
    engine: EngineFactory | None = None,
    limits: Limits = _LIMITS,
) -> TLSFactory:
    """Gives each TCP connection TLS, and a protocol of ``wrapped`` over it; none, where ``wrapped`` builds none."""

    def connection_for(transport: Any) -> SSL.Connection:
        connection = creator.serverConnectionForTLS(transport)
        connection.set_accept_state()
        connection.set_app_data(transport)
        return connection

    fallback = TLSMemoryBIOFactory(creator, False, wrapped, reactor)
    return TLSFactory(reactor, wrapped, connection_for, fallback, engine or choose_server_engine(), limits)


def client_factory(
    reactor: Any,
    creator: IOpenSSLClientConnectionCreator,
    wrapped: IProtocolFactory,
    engine: EngineFactory | None = None,
    limits: Limits = _LIMITS,
) -> TLSFactory:
    """See :func:`server_factory`."""

    def connection_for(transport: Any) -> SSL.Connection:
        connection = creator.clientConnectionForTLS(transport)
        connection.set_connect_state()
        connection.set_app_data(transport)
        return connection

    fallback = TLSMemoryBIOFactory(creator, True, wrapped, reactor)
    return TLSFactory(reactor, wrapped, connection_for, fallback, engine or choose_engine(), limits)


@implementer(IStreamServerEndpoint)
class _ServerEndpoint:
    def __init__(self, endpoint: IStreamServerEndpoint, wrap: Callable[[IProtocolFactory], TLSFactory]) -> None:
        self._endpoint = endpoint
        self._wrap = wrap

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        listening: Deferred[IListeningPort] = self._endpoint.listen(self._wrap(protocolFactory))
        return listening


@implementer(IStreamClientEndpoint)
class _ClientEndpoint:
    def __init__(self, endpoint: IStreamClientEndpoint, wrap: Callable[[IProtocolFactory], TLSFactory]) -> None:
        self._endpoint = endpoint
        self._wrap = wrap

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[Any] = self._endpoint.connect(self._wrap(protocolFactory))
        return connecting.addCallback(lambda owner: owner.wrapped)


@implementer(IProtocolFactory)
class TLSFactory:
    """See :func:`server_factory`."""

    noisy = False

    def __init__(
        self,
        reactor: Any,
        wrapped: IProtocolFactory,
        connection_for: Callable[[Any], SSL.Connection],
        fallback: TLSMemoryBIOFactory,
        engine: EngineFactory,
        limits: Limits,
    ) -> None:
        self.wrappedFactory = wrapped
        self._reactor = reactor
        self._connection_for = connection_for
        self._fallback = fallback
        self._engine = engine
        self._limits = limits

    def doStart(self) -> None:
        self.wrappedFactory.doStart()

    def doStop(self) -> None:
        self.wrappedFactory.doStop()

    def buildProtocol(self, addr: IAddress) -> _Owner | None:
        protocol = self.wrappedFactory.buildProtocol(addr)
        return None if protocol is None else _Owner(self, protocol)

    def take_over(self, transport: Any, protocol: IProtocol) -> FastTLSTransport | None:
        """Take a connection over from TCP; ``None`` if it is none, or not on a reactor of descriptors."""
        handle = getattr(transport, "getHandle", lambda: None)()
        if not isinstance(handle, socket.socket) or handle.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if not IReactorFDSet.providedBy(self._reactor):
            return None
        return FastTLSTransport(self._reactor, transport, protocol, self, self._engine, self._limits)

    def start(self, transport: FastTLSTransport) -> None:
        transport.start(self._connection_for)

    def twisted(self, protocol: IProtocol) -> IProtocol:
        """Twisted's TLS for a protocol."""
        return self._fallback.protocol(self._fallback, protocol)


@implementer(IProtocol)
class _Owner:
    """The protocol that the TCP transport knows: it hears of the beginning and the end.

    It never hears of data, but where Twisted's TLS does the work.
    """

    __slots__ = ("_factory", "_fallback", "_transport", "wrapped")

    def __init__(self, factory: TLSFactory, wrapped: IProtocol) -> None:
        self._factory = factory
        self.wrapped = wrapped
        self._transport: FastTLSTransport | None = None
        self._fallback: IProtocol | None = None

    def makeConnection(self, transport: Any) -> None:
        self._transport = self._factory.take_over(transport, self.wrapped)
        if self._transport is None:
            self._fallback = self._factory.twisted(self.wrapped)
            self._fallback.makeConnection(transport)
            return
        try:
            self._factory.start(self._transport)
        except BaseException:
            transport.abortConnection()
            raise

    def connectionMade(self) -> None:
        """Part of the interface; the TLS transport tells the wrapped protocol itself."""

    def dataReceived(self, data: bytes) -> None:
        assert self._fallback is not None, "the TCP transport reads although the TLS transport owns its socket"
        self._fallback.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        if self._fallback is not None:
            self._fallback.connectionLost(reason)
        elif self._transport is not None:
            self._transport.lost(reason)
