"""Where the API server finds the kubelet API of each edge node: one listener, TLS as each node.

A caller connects to the *node's* address, as to any kubelet, and is told apart by it. For that the packets must end
here: see :mod:`edgectl.kubelet_redirect`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from edgectl.interfaces import EdgeNode, NodeDirectory
from edgectl.kubelet import KubeletDoor
from edgectl.kubelet_auth import Access
from edgectl.kubelet_places import PodPlaces, Reader
from edgectl.kubelet_redirect import IPAddress, original_destination
from edgectl.kubelet_tls import KubeletCredentials, ServingCertificate, ServingContexts


class KubeletService(Service):
    """Serves the kubelet API of every node of the directory.

    :param endpoint: where to listen: reached, by redirection or directly, under each node's own address.
    :param given: the serving certificate of a node, where another CA than that of ``credentials`` has issued one.
    :param pods: reads pods, to find those that another node of a site has taken over.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        directory: NodeDirectory,
        access: Access,
        credentials: KubeletCredentials,
        given: Callable[[EdgeNode], ServingCertificate | None] = lambda _: None,
        pods: Reader | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._directory = directory
        self._nodes: dict[str, EdgeNode] = {}
        places = PodPlaces(pods, self._nodes) if pods is not None else None
        self._door = KubeletDoor(reactor, directory, access, places)
        self._contexts = ServingContexts(reactor, credentials, given)
        self._names: dict[IPAddress, str] = {}
        self._listening: Deferred[None] | None = None
        self._port: IListeningPort | None = None

    @property
    def connections(self) -> int:
        return len(self._door.connections)

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._directory.subscribe(self._changed)
        self._listening = self._endpoint.listen(_Doormen(self)).addCallbacks(self._open, self._no_port)

    async def _close(self) -> None:
        if self._listening is not None:
            await self._listening
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        self._door.close()

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._close())

    def tls_for(self, address: IPAddress) -> TLSMemoryBIOFactory | None:
        """What answers at a node's address."""
        node = self._nodes.get(self._names.get(address, ""))
        if node is None or node.revoked:
            return None
        return TLSMemoryBIOFactory(self._contexts.of(node), False, self._door.factory(node.name))

    def _changed(self, name: str, node: EdgeNode | None) -> None:
        old = self._nodes.pop(name, None)
        for address in old.addresses if old is not None else ():
            self._names.pop(address, None)
        if node is None:
            self._contexts.forget(name)
            return
        self._nodes[name] = node
        self._names.update(dict.fromkeys(node.addresses, name))

    def _open(self, port: IListeningPort) -> None:
        self._port = port

    def _no_port(self, failure: Any) -> None:
        self._log.failure("the kubelet API of the edge nodes cannot be served: logs and exec will fail", failure)


class _Doormen(Factory):
    noisy = False

    def __init__(self, service: KubeletService) -> None:
        self.service = service

    def buildProtocol(self, addr: Any) -> _Doorman:
        return _Doorman(self.service, addr)


class _Doorman(Protocol):
    """Looks at where a connection was headed, and hands it to the TLS of that node."""

    def __init__(self, service: KubeletService, addr: Any) -> None:
        self._service = service
        self._addr = addr

    def connectionMade(self) -> None:
        transport: Any = self.transport
        address = original_destination(transport.getHandle())
        factory = self._service.tls_for(address) if address is not None else None
        protocol = factory.buildProtocol(self._addr) if factory is not None else None
        if protocol is None:
            transport.abortConnection()
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)  # type: ignore[no-untyped-call]
