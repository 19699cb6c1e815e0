"""Endpoints that speak TLS by :mod:`kubebus.fastpath.transport`, or by Twisted's own transport where that cannot be."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS, wrapServerTLS
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
from twisted.python.failure import Failure
from zope.interface import implementer

from kubebus.fastpath.engine import EngineFactory, choose_engine
from kubebus.fastpath.transport import FastTLSTransport

HANDSHAKE_TIMEOUT = 30.0
CLOSE_TIMEOUT = 10.0

ConnectionFor = Callable[[Any], SSL.Connection]


def wrap_server_tls(
    reactor: Any,
    creator: IOpenSSLServerConnectionCreator,
    endpoint: IStreamServerEndpoint,
    *,
    engine: EngineFactory | None = None,
    handshake_timeout: float | None = HANDSHAKE_TIMEOUT,
    close_timeout: float = CLOSE_TIMEOUT,
) -> IStreamServerEndpoint:
    """Like Twisted's ``wrapServerTLS``; the transport is the fast one where the reactor allows.

    :param endpoint: a TCP endpoint.
    :param engine: what does the TLS; the best one that works, if not given.
    :param handshake_timeout: seconds, or ``None`` for no limit.
    """
    if not IReactorFDSet.providedBy(reactor):
        return wrapServerTLS(creator, endpoint, reactor)
    new_engine = engine or choose_engine()

    def connection_for(transport: Any) -> SSL.Connection:
        connection = creator.serverConnectionForTLS(transport)
        connection.set_accept_state()
        connection.set_app_data(transport)
        return connection

    def wrap(factory: IProtocolFactory) -> _Factory:
        return _Factory(reactor, factory, connection_for, new_engine, handshake_timeout, close_timeout)

    return _ServerEndpoint(endpoint, wrap)


def wrap_client_tls(
    reactor: Any,
    creator: IOpenSSLClientConnectionCreator,
    endpoint: IStreamClientEndpoint,
    *,
    engine: EngineFactory | None = None,
    handshake_timeout: float | None = HANDSHAKE_TIMEOUT,
    close_timeout: float = CLOSE_TIMEOUT,
) -> IStreamClientEndpoint:
    """Like Twisted's ``wrapClientTLS``; see :func:`wrap_server_tls`."""
    if not IReactorFDSet.providedBy(reactor):
        return wrapClientTLS(creator, endpoint, reactor)
    new_engine = engine or choose_engine()

    def connection_for(transport: Any) -> SSL.Connection:
        connection = creator.clientConnectionForTLS(transport)
        connection.set_connect_state()
        connection.set_app_data(transport)
        return connection

    def wrap(factory: IProtocolFactory) -> _Factory:
        return _Factory(reactor, factory, connection_for, new_engine, handshake_timeout, close_timeout)

    return _ClientEndpoint(endpoint, wrap)


@implementer(IStreamServerEndpoint)
class _ServerEndpoint:
    def __init__(self, endpoint: IStreamServerEndpoint, wrap: Callable[[IProtocolFactory], _Factory]) -> None:
        self._endpoint = endpoint
        self._wrap = wrap

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        listening: Deferred[IListeningPort] = self._endpoint.listen(self._wrap(protocolFactory))
        return listening


@implementer(IStreamClientEndpoint)
class _ClientEndpoint:
    def __init__(self, endpoint: IStreamClientEndpoint, wrap: Callable[[IProtocolFactory], _Factory]) -> None:
        self._endpoint = endpoint
        self._wrap = wrap

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[Any] = self._endpoint.connect(self._wrap(protocolFactory))
        return connecting.addCallback(lambda owner: owner.wrapped)


@implementer(IProtocolFactory)
class _Factory:
    """Gives each TCP connection a :class:`_Owner`."""

    noisy = False

    def __init__(
        self,
        reactor: Any,
        wrapped: IProtocolFactory,
        connection_for: ConnectionFor,
        new_engine: EngineFactory,
        handshake_timeout: float | None,
        close_timeout: float,
    ) -> None:
        self._reactor = reactor
        self.wrappedFactory = wrapped
        self._connection_for = connection_for
        self._new_engine = new_engine
        self._handshake_timeout = handshake_timeout
        self._close_timeout = close_timeout

    def doStart(self) -> None:
        self.wrappedFactory.doStart()

    def doStop(self) -> None:
        self.wrappedFactory.doStop()

    def buildProtocol(self, addr: IAddress) -> _Owner | None:
        protocol = self.wrappedFactory.buildProtocol(addr)
        return None if protocol is None else _Owner(self, protocol)

    def start(self, tcp: Any, protocol: IProtocol) -> FastTLSTransport:
        """Take the connection over from TCP."""
        transport = FastTLSTransport(
            self._reactor, tcp, protocol, self, self._new_engine, self._handshake_timeout, self._close_timeout
        )
        transport.start(self._connection_for)
        return transport


@implementer(IProtocol)
class _Owner:
    """The protocol that the TCP transport knows: it hears of the beginning and the end, never of data."""

    def __init__(self, factory: _Factory, wrapped: IProtocol) -> None:
        self._factory = factory
        self.wrapped = wrapped
        self._transport: FastTLSTransport | None = None

    def makeConnection(self, transport: Any) -> None:
        if not isinstance(getattr(transport, "getHandle", lambda: None)(), socket.socket):
            raise TypeError(f"{transport!r} is not a TCP connection: give a TCP endpoint to be wrapped in TLS")
        try:
            self._transport = self._factory.start(transport, self.wrapped)
        except BaseException:
            transport.abortConnection()
            raise

    def connectionMade(self) -> None:
        """Part of the interface; the transport tells the wrapped protocol itself."""

    def dataReceived(self, data: bytes) -> None:
        raise AssertionError("the TCP transport reads although the TLS transport owns its socket")

    def connectionLost(self, reason: Failure) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.lost(reason)
