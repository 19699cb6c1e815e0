"""Two ends of a sync in one process, joined by a memory transport or a real socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.test.iosim import FakeTransport, IOPump, connect
from zope.interface import implementer

from metasync.client import SyncClientService
from metasync.interfaces import Store
from metasync.memory import MemoryStore
from metasync.model import Delete, KeyRange, Put
from metasync.server import SyncServerFactory


@dataclass(frozen=True)
class FakePeer:
    network: str = "default"
    name: str = "n1"
    role: str = "node"


@implementer(IAddress)
@dataclass(frozen=True)
class FakeAddress:
    peer: Any
    service: str = "sync"


@implementer(IStreamClientEndpoint)
class PumpedEndpoint:
    """Connects to a server factory over a memory transport. Set ``away`` to refuse, ``frozen`` to carry nothing."""

    def __init__(self, server: SyncServerFactory, peer: FakePeer) -> None:
        self.server = server
        self.peer = peer
        self.away = False
        self.frozen = False
        self.pumps: list[IOPump] = []
        self.wire = 0
        self.connects = 0

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        self.connects += 1
        if self.away:
            return fail(ConnectionRefusedError("away"))
        server = self.server.buildProtocol(FakeAddress(self.peer))
        if server is None:
            return fail(ConnectionRefusedError("refused"))
        client: Any = protocolFactory.buildProtocol(IPv4Address("TCP", "1.2.3.4", 1))
        transports = [FakeTransport(server, True), FakeTransport(client, False)]
        pump = connect(server, transports[0], client, transports[1])
        self.pumps.append(pump)
        return succeed(client)

    def cut(self) -> None:
        """The link goes down: both ends lose it."""
        for pump in self.pumps:
            for io in (pump.clientIO, pump.serverIO):
                if not io.disconnected:
                    io.disconnectReason = ConnectionResetError("cut")
                    io.reportDisconnect()
        self.pumps.clear()

    def pump(self) -> bool:
        moved = False
        if self.frozen:
            return False
        for pump in list(self.pumps):
            self.wire += sum(map(len, (*pump.clientIO.stream, *pump.serverIO.stream)))
            moved = bool(pump.pump()) or moved
        return moved


class Pair:
    """A cloud and one node over memory stores, on one clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cloud, self.edge = MemoryStore(self.clock), MemoryStore(self.clock)
        self.server = self._server()
        self.endpoint = PumpedEndpoint(self.server, FakePeer())
        self.client = self.make_client()

    def _server(self) -> SyncServerFactory:
        server = SyncServerFactory(self.clock, self.cloud, "default")
        now(server.start())
        return server

    def serve(self, store: MemoryStore) -> None:
        """The cloud has another store from now on."""
        self.cloud = store
        self.server = self.endpoint.server = self._server()

    def make_client(self) -> SyncClientService:
        return SyncClientService(self.clock, self.endpoint, self.edge, "default", "n1", jitter=lambda: 0.0)

    def settle(self, seconds: float = 0.0) -> None:
        """Let everything happen that is under way, then let time pass."""
        self._quiet()
        for _ in range(5):  # a delta may wait a little for more
            self.clock.advance(0.02)
            self._quiet()
        while seconds > 0:
            step = min(1.0, seconds)
            self.clock.advance(step)
            seconds -= step
            self._quiet()

    def _quiet(self) -> None:
        idle = 0
        while idle < 3:
            self.clock.advance(0)
            idle = 0 if self.endpoint.pump() else idle + 1


def now(awaitable: Any) -> Any:
    """The result of a coroutine that finishes at once."""
    results: list[Any] = []
    Deferred.fromCoroutine(awaitable).addBoth(results.append)
    (result,) = results
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result


def put(store: Store, **values: str) -> int:
    """``desired_a="1"`` puts ``1`` at ``…/n1/desired/a``."""
    revision: int = now(store.txn((), [Put(_key(name), value.encode()) for name, value in values.items()])).revision
    return revision


def delete(store: Store, *names: str) -> None:
    now(store.txn((), [Delete.single(_key(name)) for name in names]))


def _key(name: str) -> bytes:
    return f"/kubebus/default/nodes/n1/{name.replace('_', '/')}".encode()


def contents(store: Store, prefix: str = "") -> dict[str, str]:
    """What stands below the node's prefix, by key."""
    root = f"/kubebus/default/nodes/n1/{prefix}".encode()
    found = now(store.range(KeyRange.prefix(root)))
    return {kv.key[len(root) :].decode(): kv.value.decode() for kv in found.kvs}
