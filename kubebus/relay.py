# mypy: disallow-untyped-calls=False
"""Streams to a node that is connected to another router: that router passes them on.

A router opens the service ``node:<node>:<service>`` of another one, which splices it with ``<service>`` of its node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kubebus.identity import Role
from kubebus.interfaces import StreamAddress

PREFIX: Final = "node:"

_log = Logger()


def relayed(node: str, service: str) -> str:
    """The name under which another router passes a stream on."""
    return f"{PREFIX}{node}:{service}"


def relay(peer: StreamAddress, endpoint: Callable[[str, str], IStreamClientEndpoint]) -> IProtocol | None:
    """The protocol for a stream that another router wants passed on; ``None`` if it is no such stream."""
    if peer.peer.role is not Role.ROUTER or not peer.service.startswith(PREFIX):
        return None
    node, _, service = peer.service.removeprefix(PREFIX).partition(":")
    return _Near(endpoint(node, service))


@implementer(IHalfCloseableProtocol)
class _Half(Protocol):
    """One of two joined streams: what it gets, the other one sends; each end is passed on."""

    other: _Half | None = None

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            cast(Any, self.other.transport).write(data)

    def readConnectionLost(self) -> None:
        if self.other is not None:
            transport = cast(Any, self.other.transport)
            transport.unregisterProducer()
            transport.loseWriteConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        other, self.other = self.other, None
        if other is not None:
            other.other = None
            transport = cast(Any, other.transport)
            transport.unregisterProducer()
            transport.loseConnection()


class _Near(_Half):
    """The router's side. It waits until the node has taken the stream."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint
        self._connecting: Deferred[IProtocol] | None = None

    def connectionMade(self) -> None:
        cast(Any, self.transport).pauseProducing()
        self._connecting = self._endpoint.connect(Factory.forProtocol(_Half))
        self._connecting.addCallbacks(self._joined, self._refused)

    def _joined(self, far: IProtocol) -> None:
        self._connecting = None
        half = cast(_Half, far)
        self.other, half.other = half, self
        near_transport, far_transport = cast(Any, self.transport), cast(Any, half.transport)
        # Each side reads only as fast as the other one sends.
        near_transport.registerProducer(far_transport, True)
        far_transport.registerProducer(near_transport, True)
        near_transport.resumeProducing()

    def _refused(self, failure: Failure) -> None:
        self._connecting = None
        _log.debug("A stream could not be passed on: {error}", error=failure.getErrorMessage())
        cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        super().connectionLost(reason)
