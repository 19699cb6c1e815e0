"""The kubelet API of the edge nodes, on the cloud side: ``kubectl logs``, ``exec``, ``attach``, ``port-forward``.

A caller (the API server, a metrics collector) connects by TLS as to any kubelet. It is authenticated and authorized
here; its request then goes to the node over a stream, and the bytes of both sides are passed on as they are, be it
HTTP, SPDY or a WebSocket. The node serves plain HTTP/1.1 there, under the service name :data:`SERVICE`.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from edgectl.errors import ApiError
from edgectl.interfaces import NodeDirectory
from edgectl.kubelet_auth import Access, User, user_of
from edgectl.kubelet_http import BadRequest, RequestHead, cut_head, error_response
from edgectl.kubelet_places import PodPlaces

SERVICE = "kubelet/1"
"""The stream service of a node that speaks the kubelet API in plain HTTP/1.1."""

HEAD_SECONDS = 15.0
"""For handshake and head together: a caller that says nothing is not kept."""

CONNECT_SECONDS = 15.0
"""For a stream to the node, over whatever link it has."""

MAX_CONNECTIONS = 1000


class KubeletDoor:
    """What the connections to all nodes share.

    :param directory: reaches the nodes.
    :param access: judges the callers.
    :param places: says which node runs a pod; ``None``: the one that it is bound to.
    """

    def __init__(
        self, reactor: IReactorTime, directory: NodeDirectory, access: Access, places: PodPlaces | None = None
    ) -> None:
        self.reactor = reactor
        self.directory = directory
        self.access = access
        self.places = places
        self.connections: set[KubeletConnection] = set()

    def factory(self, node: str) -> KubeletFactory:
        """Makes connections to one node. Wrap it in TLS that verifies a client certificate if there is one."""
        return KubeletFactory(self, node)

    def close(self) -> None:
        """End every connection."""
        for connection in list(self.connections):
            connection.abort()


class KubeletFactory(Factory):
    noisy = False

    def __init__(self, door: KubeletDoor, node: str) -> None:
        self._door = door
        self._node = node

    def buildProtocol(self, addr: object) -> KubeletConnection | None:
        if len(self._door.connections) >= MAX_CONNECTIONS:
            return None
        return KubeletConnection(self._door, self._node)


class KubeletConnection(Protocol):
    """One caller's connection. It carries one request: what the caller may do depends on the path."""

    _log = Logger()

    def __init__(self, door: KubeletDoor, node: str) -> None:
        self._home = door
        self._node = node
        self._buffer = bytearray()
        self._head: RequestHead | None = None
        self._timer: IDelayedCall | None = None
        self._working: Deferred[None] | None = None
        self._peer: _NodeSide | None = None
        self._over = False

    def connectionMade(self) -> None:
        self._home.connections.add(self)
        self._timer = self._home.reactor.callLater(HEAD_SECONDS, self.abort)
        transport: Any = self.transport
        if hasattr(transport, "setTcpKeepAlive"):
            transport.setTcpKeepAlive(1)

    def dataReceived(self, data: bytes) -> None:
        if self._peer is not None:
            self._peer.write(data)
            return
        self._buffer += data
        if self._head is None:
            self._read_head()

    def connectionLost(self, reason: Any = None) -> None:
        self._over = True
        self._home.connections.discard(self)
        self._stop_timer()
        if self._working is not None:
            self._working.cancel()
        if self._peer is not None:
            self._peer.abort()

    def abort(self) -> None:
        self._stop_timer()
        transport: Any = self.transport
        if transport is not None:
            transport.unregisterProducer()
            transport.abortConnection()

    def node_side_done(self) -> None:
        """The node has said everything."""
        transport: Any = self.transport
        if transport is not None and not self._over:
            transport.unregisterProducer()
            transport.loseConnection()

    def _read_head(self) -> None:
        try:
            cut = cut_head(self._buffer)
        except BadRequest as error:
            self._refuse(400, "Bad Request", str(error))
            return
        if cut is None:
            return
        self._head, rest = cut
        self._buffer = bytearray(rest)
        self._stop_timer()
        transport: Any = self.transport
        transport.pauseProducing()
        self._working = Deferred.fromCoroutine(self._serve(self._head))
        self._working.addErrback(self._failed)

    async def _serve(self, head: RequestHead) -> None:
        node = self._node
        try:
            user = await self._caller(head)
            if user is None:
                return self._refuse(401, "Unauthorized", "a client certificate or a bearer token is needed")
            if not await self._allowed(user, head, node):
                return None
            if self._home.places is not None and head.pod is not None:
                node = await self._home.places.runs_on(node, *head.pod)
                if node != self._node and not await self._allowed(user, head, node):
                    return None
        except ApiError as error:
            return self._unavailable(f"the API server cannot be asked: {error}")
        await self._connect(node, head)
        return None

    async def _allowed(self, user: User, head: RequestHead, node: str) -> bool:
        if await self._home.access.allowed(user, head.verb, node, head.subresource):
            return True
        what = f"{head.verb} resource nodes/{head.subresource} of node {node!r}"
        self._refuse(403, "Forbidden", f"user {user.name!r} cannot {what}")
        return False

    async def _caller(self, head: RequestHead) -> User | None:
        transport: Any = self.transport
        peer = transport.getPeerCertificate() if hasattr(transport, "getPeerCertificate") else None
        if peer is not None:
            certificate: x509.Certificate = peer.to_cryptography()
            return user_of(certificate)
        token = head.bearer
        return await self._home.access.of_token(token) if token else None

    async def _connect(self, node: str, head: RequestHead) -> None:
        factory = Factory.forProtocol(_NodeSide)
        factory.noisy = False
        try:
            endpoint = self._home.directory.endpoint(node, SERVICE)
            side = await endpoint.connect(factory).addTimeout(CONNECT_SECONDS, self._home.reactor)
        except TimeoutError:
            return self._unavailable(f"node {node!r} did not answer in time")
        except CancelledError:
            raise
        except Exception as error:  # whatever an endpoint may raise: the node cannot be reached
            return self._unavailable(f"node {node!r} cannot be reached: {error}")
        assert isinstance(side, _NodeSide)
        if self._over:
            side.abort()
            return None
        self._peer = side
        side.join(self)
        transport: Any = self.transport
        side.write(head.rewritten() + bytes(self._buffer))
        self._buffer.clear()
        transport.resumeProducing()
        return None

    def _unavailable(self, message: str) -> None:
        """With 500: of the codes that fit, the only one whose text the API server passes on to the user."""
        self._refuse(500, "Internal Server Error", message)

    def _refuse(self, code: int, reason: str, message: str) -> None:
        self._stop_timer()
        self._log.info("kubelet API of {node}: {code} {message}", node=self._node, code=code, message=message)
        transport: Any = self.transport
        if not self._over:
            transport.write(error_response(code, reason, message))
            transport.resumeProducing()
            transport.loseConnection()

    def _failed(self, failure: Failure) -> None:
        if not self._over and not isinstance(failure.value, CancelledError):
            self._log.failure("kubelet API of {node}", failure, node=self._node)
            self._refuse(500, "Internal Server Error", "the request could not be passed on")

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


class _NodeSide(Protocol):
    """The stream to the node. It and the caller's connection are each other's producers: the slower sets the pace."""

    _caller: KubeletConnection | None = None

    def join(self, caller: KubeletConnection) -> None:
        self._caller = caller
        near: Any = self.transport
        far: Any = caller.transport
        near.registerProducer(far, True)
        far.registerProducer(near, True)

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        if self._caller is not None and self._caller.transport is not None:
            self._caller.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.node_side_done()

    def abort(self) -> None:
        self._caller = None
        transport: Any = self.transport
        if transport is not None:
            transport.unregisterProducer()
            transport.abortConnection()
