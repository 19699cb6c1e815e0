"""A cloud and several nodes over memory stores, on one clock, for application data."""

from __future__ import annotations

from twisted.internet.task import Clock

from metasync.client import SyncClientService
from metasync.conflict import unpack_loser
from metasync.keys import data_prefix
from metasync.memory import MemoryStore
from metasync.model import Delete, KeyRange, Put
from metasync.server import SyncServerFactory, scopes_by_site
from metasync.stamping import DataKeys
from tests.unit.metasync.pairs import FakePeer, PumpedEndpoint, now

DATA = data_prefix("default").encode()
KEYS = DataKeys("default")
KEEP = 1.0
"""Seconds that stamps of deletions stay, when :meth:`World.collect` is called."""


class World:
    """Stores by name: ``cloud`` and the nodes.

    :ivar sites: by node; what the registry says. The server looks at each session.
    """

    def __init__(self, *nodes: str, sites: dict[str, str | None] | None = None) -> None:
        self.clock = Clock()
        self.sites: dict[str, str | None] = sites or {}
        self.stores = {name: MemoryStore(self.clock, max_txn_ops=1000) for name in ("cloud", *nodes)}
        scopes = scopes_by_site(self.sites.get)
        self.server = SyncServerFactory(self.clock, self.stores["cloud"], "default", scopes=scopes, keep_deletions=KEEP)
        now(self.server.start())
        self.endpoints = {name: PumpedEndpoint(self.server, FakePeer(name=name)) for name in nodes}
        self.clients = {
            name: SyncClientService(
                self.clock,
                endpoint,
                self.stores[name],
                "default",
                name,
                jitter=lambda: 0.0,
                longest_wait=2.0,
                keep_deletions=KEEP,
            )
            for name, endpoint in self.endpoints.items()
        }
        for client in self.clients.values():
            client.startService()
        self.settle(1)

    def stop(self) -> None:
        for client in self.clients.values():
            client.stopService()
        self.settle()

    def write(self, side: str, **values: str | None) -> None:
        """``all_x="1"`` puts ``1`` at ``all/x``; ``None`` deletes. All in one transaction."""
        ops = [
            Delete.single(self.key(name)) if value is None else Put(self.key(name), value.encode())
            for name, value in values.items()
        ]
        now(self.stores[side].txn((), ops))

    def key(self, name: str) -> bytes:
        return DATA + name.replace("_", "/").encode()

    def contents(self, side: str, scope: str = "all") -> dict[str, str]:
        prefix = DATA + scope.encode() + b"/"
        found = now(self.stores[side].range(KeyRange.prefix(prefix)))
        return {kv.key[len(prefix) :].decode(): kv.value.decode() for kv in found.kvs}

    def collect(self, side: str) -> int:
        """Remove the stamps of deletions that are old enough and known to all. How many."""
        collector = self.server.collector if side == "cloud" else self.clients[side].collector
        count: int = now(collector.collect())
        return count

    def stamps(self, side: str) -> int:
        found = now(self.stores[side].range(KeyRange.prefix(KEYS.stamps)))
        return len(found.kvs)

    def losers(self, side: str, name: str) -> list[tuple[str, bytes | None]]:
        """The origin (without its store's identity) and value of what lost at a key."""
        found = now(self.stores[side].range(KeyRange.single(KEYS.conflicts + name.replace("_", "/").encode())))
        losers = [unpack_loser(kv.value) for kv in found.kvs]
        return [(origin.partition(":")[0], value) for origin, value in losers]

    def cut(self, node: str) -> None:
        self.endpoints[node].away = True
        self.endpoints[node].cut()
        self.quiet()

    def mend(self, node: str) -> None:
        self.endpoints[node].away = False

    def settle(self, seconds: float = 3) -> None:
        self.quiet()
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(0.25)
            self.quiet()

    def quiet(self) -> None:
        idle = 0
        while idle < 3:
            self.clock.advance(0)
            moved = [endpoint.pump() for endpoint in self.endpoints.values()]
            idle = 0 if any(moved) else idle + 1

    @property
    def wire(self) -> int:
        return sum(endpoint.wire for endpoint in self.endpoints.values())
