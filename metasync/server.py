"""The cloud's end of the sync: sessions for all nodes of one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from typing import Protocol as Contract

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger

from metasync.collecting import KEEP_SECONDS, StampCollector
from metasync.data import FEED_PREFIX, add_data_feeds, feed_name
from metasync.feeds import Outlet, Rate, spawn
from metasync.interfaces import Store, StoreError
from metasync.keys import NodeKeys, cursor_key, cursors_prefix, network_prefix
from metasync.lineage import Lineage
from metasync.loglimit import UNLIMITED, LogLimit
from metasync.model import Delete, KeyRange
from metasync.session import Feeds, SyncSession
from metasync.shared import SharedWatchStore
from metasync.sitefeed import add_site_source, site_among, site_scope
from metasync.source import SourceFeed
from metasync.stamping import Stamper
from metasync.target import TargetFeed
from metasync.wire import Hello


class Peer(Contract):
    """Who is at the other end, from its verified certificate."""

    @property
    def network(self) -> str: ...

    @property
    def name(self) -> str: ...


NODE_WRITES_PER_SECOND = 20.0
NODE_WRITES_BURST = 200.0
"""So often one node may change the cloud's store; what it has more is folded at its end meanwhile."""

NODE_MAX_BYTES = 8 << 20
"""The most one node may change at once."""

NODE_MAX_STAGED = 256 << 20
"""The most of one node that is put aside, to be applied as one."""

RETRY_SECONDS = 1.0
"""Between attempts while the store does not answer."""


def default_scopes(node: str) -> tuple[str, ...]:
    """Data of all nodes, and data of this node alone."""
    return "all", f"node.{node}"


def scopes_by_site(site_of: Callable[[str], str | None]) -> Callable[[str], Sequence[str]]:
    """As :func:`default_scopes`, and data of the node's site, if it has one."""

    def scopes(node: str) -> Sequence[str]:
        site = site_of(node)
        return default_scopes(node) if site is None else (*default_scopes(node), site_scope(site))

    return scopes


class SyncServerFactory(ServerFactory):
    """Makes a session for each node that opens a stream to the sync.

    ``addr.peer`` of a stream's address (``network``, ``role``, ``name``) alone decides what a node can reach: its
    own prefixes, which no message names. A node has one session: a new one ends the old one.

    :param name: this server's, to tell it from others of the same store.
    :param scopes: the scopes of application data that a node shares in, asked at each session. One of a site lets the
        node read that site's pods too.
    :param keep_deletions: seconds that the stamp of a deletion stays at least (:mod:`metasync.collecting`).
    :param limit: how many lines the log takes for one node's sake.
    """

    log = Logger()
    noisy = False

    def __init__(
        self,
        reactor: IReactorTime,
        store: Store,
        network: str,
        name: str = "server",
        scopes: Callable[[str], Sequence[str]] = default_scopes,
        keep_deletions: float = KEEP_SECONDS,
        limit: LogLimit = UNLIMITED,
    ) -> None:
        self._reactor = reactor
        self._limit = limit
        self._rates: dict[str, Rate] = {}
        self._store = SharedWatchStore(reactor, store, network_prefix(network).encode(), self._store_failed)
        self._network = network
        self._lineage = Lineage(self._store, network, name)
        self._stamper = Stamper(self._store, network, "@cloud")
        self._scopes = scopes
        self._sessions: dict[str, SyncSession] = {}
        self._granted: dict[str, tuple[str, ...]] = {}
        self._known: dict[tuple[str, str], int] = {}
        self._nodes: set[str] = set()
        self.collector = StampCollector(reactor, self._store, self._stamper, self._horizons, keep_deletions)
        self._retry: IDelayedCall | None = None
        self._stopped = False

    async def start(self) -> None:
        """Follow the store and mark its history. Sessions are made only afterwards.

        When the store is lost later, all sessions end, and this is tried again until it succeeds.

        :raises StoreError: if the store does not answer, or cannot be written.
        """
        await self._store.start()
        await self._store.recover(self._network)
        await self._stamper.start()
        await self._lineage.start()
        self.collector.start()

    @property
    def ready(self) -> bool:
        """Whether nodes are served: the store answers, and its history is marked."""
        return self._lineage.started

    def stop(self) -> None:
        """End all sessions."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._let_go()
        self._end_sessions(ConnectionAbortedError("the server stops"))

    def _let_go(self) -> None:
        self.collector.stop()
        self._known.clear()
        self._lineage.stop()
        self._stamper.stop()
        self._store.stop()

    def _store_failed(self, error: StoreError) -> None:
        """It may come back as another store, or as its own past: nothing goes on until there is a new mark."""
        self._end_sessions(error)
        self._wait_for_store(error)

    def _wait_for_store(self, error: Exception) -> None:
        self._let_go()
        if self._retry is not None or self._stopped:
            return
        self.log.error("the sync waits for the store: {error}", error=error)
        self._retry = self._reactor.callLater(RETRY_SECONDS, self._start_again)

    def _start_again(self) -> None:
        self._retry = None
        spawn(self.start(), self._wait_for_store)

    def _end_sessions(self, error: Exception) -> None:
        for session in list(self._sessions.values()):
            session.broken(error)

    def buildProtocol(self, addr: IAddress | None) -> SyncSession | None:
        peer: Peer | None = getattr(addr, "peer", None)
        role = getattr(peer, "role", None)
        if peer is None or peer.network != self._network or getattr(role, "value", role) != "node":
            self.log.warn("sync refused to {peer}: not a node of network {network}", peer=peer, network=self._network)
            return None
        if not self._lineage.started:
            if (more := self._limit.more(f"refusal of node {peer.name}")) is not None:
                self.log.info("sync refused to {peer}: the store is not ready{more}", peer=peer, more=more)
            return None
        return self._session(peer.name)

    def _session(self, node: str) -> SyncSession:
        old = self._sessions.get(node)
        if old is not None:
            old.broken(ConnectionAbortedError("the node has opened another session"))
        scopes = tuple(self._scopes(node))
        self._granted[node] = scopes
        session = SyncSession(
            self._reactor,
            f"node {node}",
            Hello(scopes=scopes),
            lambda outlet, _: self._feeds(node, scopes, outlet),
            self._ended,
            # Whoever opens session after session may not write more often than in one.
            self._rates.setdefault(node, Rate(NODE_WRITES_PER_SECOND, NODE_WRITES_BURST)),
            self._limit,
        )
        self._sessions[node] = session
        return session

    def _feeds(self, node: str, scopes: Sequence[str], outlet: Outlet) -> Feeds:
        keys = NodeKeys(self._network, node)
        desired = SourceFeed("desired", self._store, keys.desired.encode(), self._lineage, outlet)
        cursor = cursor_key(self._network, node, "reported")
        prefix = keys.reported.encode()
        reported = TargetFeed("reported", self._store, prefix, cursor, outlet, NODE_MAX_BYTES, NODE_MAX_STAGED)
        feeds = Feeds({"desired": desired}, {"reported": reported})
        add_site_source(feeds, self._network, scopes, self._store, self._lineage, outlet)
        for scope in scopes:
            add_data_feeds(feeds, scope, self._store, self._stamper, self._lineage, node, outlet, NODE_MAX_BYTES)
        return feeds

    def _ended(self, session: SyncSession, reason: Exception) -> None:
        for node, current in list(self._sessions.items()):
            if current is session:
                self._note_known(node, session)
                del self._sessions[node], self._granted[node]

    def look_again(self, node: str) -> None:
        """What the node may read may have changed, such as its site: a session that rests on another state ends.

        To be called for every node at the start: who is of a site may have its data from a neighbour.
        """
        self._nodes.add(node)
        session = self._sessions.get(node)
        if session is not None and self._granted.get(node) != tuple(self._scopes(node)):
            session.broken(ConnectionAbortedError("the node's scopes of data, or its site, have changed"))

    def forget(self, node: str) -> None:
        """A node has been removed for good: nobody waits for it any more. Should it return, all of it is compared."""
        self._nodes.discard(node)
        self._rates.pop(node, None)
        for key in [key for key in self._known if key[0] == node]:
            del self._known[key]
        cursors = Delete(KeyRange.prefix(f"{cursors_prefix(self._network)}{node}/".encode()))
        spawn(self._forget(node, cursors), lambda error: self._not_forgotten(node, error))

    async def _forget(self, node: str, cursors: Delete) -> None:
        await self._store.settle(NodeKeys(self._network, node).reported.encode())
        await self._store.txn((), [cursors])

    def _not_forgotten(self, node: str, error: Exception) -> None:
        self.log.warn("the cursors of {node} could not be deleted: {error}", node=node, error=error)

    def _note_known(self, node: str, session: SyncSession) -> None:
        """What a node is known to have of each scope."""
        for name, feed in session.feeds.sources.items():
            if name.startswith(FEED_PREFIX):
                self._known[node, name] = feed.status.synced_revision or 0

    async def _horizons(self) -> dict[str, int]:
        """By scope what every member has: every node that has ever sent something for it, or is here now; of a site,
        every node that is in it.

        A node that was not here since this server started may have anything.
        """
        for node, session in self._sessions.items():
            self._note_known(node, session)
        prefix = cursors_prefix(self._network).encode()
        cursors = await self._store.range(KeyRange.prefix(prefix), keys_only=True)
        members = set(self._known) | {(node, feed_name(scope)) for node in self._nodes for scope in self._site_of(node)}
        for kv in cursors.kvs:
            node, _, name = kv.key[len(prefix) :].decode().partition("/")
            members.add((node, name))
        horizons: dict[str, int] = {}
        for node, name in members:
            if name.startswith(FEED_PREFIX):
                scope, known = name.removeprefix(FEED_PREFIX), self._known.get((node, name), 0)
                horizons[scope] = min(horizons.get(scope, known), known)
        return horizons

    def _site_of(self, node: str) -> Sequence[str]:
        return [scope for scope in self._scopes(node) if site_among([scope]) is not None]

    def status(self) -> dict[str, Any]:
        """How the sync stands, by node: JSON-able."""
        now = float(self._reactor.seconds())
        return {
            "role": "server",
            "network": self._network,
            "nodes": {
                node: {"connected": True, "feeds": session.feeds.snapshots(now)}
                for node, session in sorted(self._sessions.items())
            },
        }
