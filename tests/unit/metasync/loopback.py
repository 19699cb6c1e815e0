"""The two ends of a sync over real sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import deferLater

from metasync.server import SyncServerFactory
from tests.unit.metasync.pairs import FakeAddress, FakePeer


class Loopback(ServerFactory):
    """Stands for the link: every connection is one node's. Set ``away`` to refuse, call :meth:`cut` to break."""

    noisy = False

    def __init__(self, reactor: Any, server: SyncServerFactory, node: str = "n1") -> None:
        self.server = server
        self.away = False
        self.bytes = 0
        self._reactor = reactor
        self._peer = FakePeer(name=node)
        self._connections: list[Any] = []
        self._port = reactor.listenTCP(0, self, interface="127.0.0.1")

    @property
    def endpoint(self) -> TCP4ClientEndpoint:
        return TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._port.getHost().port)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        protocol = None if self.away else self.server.buildProtocol(FakeAddress(self._peer))
        if protocol is not None:
            self._connections.append(protocol)
            self._count(protocol)
        return protocol

    def _count(self, protocol: IProtocol) -> None:
        received, made = protocol.dataReceived, protocol.makeConnection

        def data(chunk: bytes) -> None:
            self.bytes += len(chunk)
            received(chunk)

        def make(transport: Any) -> None:
            write = transport.write

            def counted(chunk: bytes) -> None:
                self.bytes += len(chunk)
                write(chunk)

            transport.write = counted
            made(transport)

        protocol.dataReceived, protocol.makeConnection = data, make  # type: ignore[method-assign,assignment]

    def cut(self) -> None:
        for protocol in self._connections:
            if protocol.transport is not None:
                protocol.transport.abortConnection()
        self._connections.clear()

    def close(self) -> Any:
        self.cut()
        return self._port.stopListening()


async def until(reactor: Any, condition: Callable[[], Any], what: str, seconds: float = 20) -> None:
    """Wait until ``condition()`` is true, or what it awaits is."""
    end = reactor.seconds() + seconds
    while True:
        found = condition()
        if hasattr(found, "__await__"):
            found = await Deferred.fromCoroutine(found)
        if found:
            return
        if reactor.seconds() > end:
            raise AssertionError(f"after {seconds} s still not: {what}")
        await deferLater(reactor, 0.02, lambda: None)
