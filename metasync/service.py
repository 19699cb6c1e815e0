"""What an edge node runs for its metadata: the sync, the compaction of its store, the local API of its applications."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger

from metasync.client import SyncClientService
from metasync.compaction import Compactable, CompactionService
from metasync.interfaces import Store
from metasync.tokens import NamespaceTokens

if TYPE_CHECKING:
    from twisted.web.server import Site

GATEWAY_SOCKET = "gateway.sock"
_SECRET = "gateway.key"


class EdgeMetadata(MultiService):
    """:param folder: the node's own, for the gateway's socket and the secret of its tokens.
    :param late: what serves a web site that is made when somebody connects: many devices have no application that does.
    :param addresses: ``(IP address, port)`` pairs on which applications reach the gateway over TCP: that of the node
        on its container network, if it is switched on there.
    :ivar sync: tells the status; :ivar tokens: issues tokens.
    """

    def __init__(
        self,
        reactor: Any,
        store: Store,
        endpoint: IStreamClientEndpoint,
        network: str,
        node: str,
        folder: Path,
        late: Callable[[Callable[[], Site]], IProtocolFactory],
        addresses: Sequence[tuple[str, int]] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sync = SyncClientService(reactor, endpoint, store, network, node)
        self.tokens = NamespaceTokens(_secret(folder / _SECRET))
        children: list[Service] = [self.sync]
        if isinstance(store, Compactable):  # the embedded store; another compacts itself
            children.append(CompactionService(reactor, store, self.sync.unsynced))
        places: list[Path | tuple[str, int]] = [folder / GATEWAY_SOCKET, *addresses]
        children.extend(_Listener(reactor, late(partial(self._site, store, network, place)), place) for place in places)
        for child in children:
            child.setServiceParent(self)  # type: ignore[no-untyped-call]

    def _site(self, store: Store, network: str, place: Path | tuple[str, int]) -> Site:
        # Loaded when somebody uses it.
        from metasync.gateway import gateway_site

        return gateway_site(store, network, self.tokens, scopes=self.sync.scopes, trusted=isinstance(place, Path))


class _Listener(Service):
    """Serves a site on a UNIX socket that is root's alone, or on a TCP port."""

    log = Logger()

    def __init__(self, reactor: Any, site: IProtocolFactory, place: Path | tuple[str, int]) -> None:
        self._reactor = reactor
        self._site = site
        self._place = place
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        if isinstance(self._place, Path):
            self._place.unlink(missing_ok=True)
            self._port = self._reactor.listenUNIX(str(self._place), self._site, mode=0o600)
        else:
            address, number = self._place
            self._port = self._reactor.listenTCP(number, self._site, interface=address)
        self.log.info("applications reach their data at {place}", place=self._place)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()  # type: ignore[no-untyped-call]
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None


def _secret(path: Path) -> bytes:
    """The node's secret for tokens, made when it is first needed."""
    if not path.exists():
        fresh = path.with_name(path.name + ".new")
        with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    return path.read_bytes()
