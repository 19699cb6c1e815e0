"""The edge's end of the sync: one session, kept going."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import random
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from metasync.collecting import KEEP_SECONDS, StampCollector
from metasync.data import add_data_feeds, feed_name
from metasync.feeds import Outlet, spawn
from metasync.interfaces import Store
from metasync.keys import NodeKeys, cursor_key, sync_prefix
from metasync.lineage import Lineage
from metasync.model import KeyRange, Put
from metasync.opening import stageable
from metasync.session import Feeds, SyncSession
from metasync.sitefeed import add_site_target, leave_other_sites, site_among
from metasync.source import SourceFeed
from metasync.stamping import Stamper
from metasync.target import TargetFeed
from metasync.wire import Hello

FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0
"""Seconds between attempts: doubled at every failure, less up to a half at random."""
STORE_WAIT = 20.0
"""The same where the cloud was reached, or not even asked: then it is a store that fails, on that side or on this, and
that passes. An etcd elects a new leader within seconds."""

_LASTED = 30.0
"""A session that lasted so long was a success."""


class SyncClientService(Service):
    """Mirrors ``desired`` and the site's pods down, ``reported`` up, and the node's scopes of data both ways.

    It does so whenever it can connect.

    :param store: the node's own. It is complete without the service.
    :param jitter: a number from 0 to 1, at random.
    :param longest_wait: the longest pause between attempts, in seconds.
    :param keep_deletions: seconds that the stamp of a deletion stays at least (:mod:`metasync.collecting`).
    :ivar lineage: marks the store's history; :ivar stamper: stamps its data.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        store: Store,
        network: str,
        node: str,
        *,
        jitter: Callable[[], float] = random,
        longest_wait: float = LONGEST_WAIT,
        keep_deletions: float = KEEP_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._store = store
        self._network = network
        self._node = node
        self._jitter = jitter
        self._longest_wait = longest_wait
        self.lineage = Lineage(store, network, node)
        self.stamper = Stamper(store, network, node)
        self.collector = StampCollector(reactor, store, self.stamper, self._horizons, keep_deletions)
        self._neighbours_have: Callable[[str], int] = lambda scope: 0
        self._session: SyncSession | None = None
        self._last: list[dict[str, Any]] = []
        self._synced = 0
        self._scopes: tuple[str, ...] = ("all", f"node.{node}")
        self._error: str | None = None
        self._away = False
        self._since = float(reactor.seconds())
        self._task: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self.collector.start()
        self._task = Deferred.fromCoroutine(self._run())
        self._task.addErrback(self._crashed)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()  # type: ignore[no-untyped-call]
        self.lineage.stop()
        self.stamper.stop()
        self.collector.stop()
        task, self._task = self._task, None
        if self._session is not None:
            self._session.broken(ConnectionAbortedError("the node stops"))
        if task is not None:
            task.cancel()
        return task

    def _crashed(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.log.failure("the sync of node {node} has crashed", failure, node=self._node)

    async def _run(self) -> None:
        wait = FIRST_WAIT
        while self.running:
            began = self._reactor.seconds()
            reason = await self._attempt()
            if not self.running:
                return
            longest = self._longest_wait if self._away else min(self._longest_wait, STORE_WAIT)
            wait = FIRST_WAIT if self._reactor.seconds() - began >= _LASTED else min(wait * 2, longest)
            pause = wait * (1 - self._jitter() / 2)
            self.log.info("sync is down ({reason}); next attempt in {pause:.1f} s", reason=reason, pause=pause)
            await deferLater(self._reactor, pause, lambda: None)

    async def _attempt(self) -> Exception:
        """One session, from connecting to its end. Returns why it ended."""
        ended: Deferred[Exception] = Deferred()

        def over(session: SyncSession, reason: Exception) -> None:
            self.unsynced()
            self._last, self._session = session.feeds.snapshots(session.seconds()), None
            self._since = session.seconds()
            ended.callback(reason)

        def build() -> SyncSession:
            return SyncSession(self._reactor, "the cloud", Hello(), self._feeds, over)

        self._away = False
        try:
            if not self.lineage.started:
                await stageable(self._store).recover(self._network)
                await self.lineage.start()
                await self._load_scopes()
            if not self.stamper.started:
                await self.stamper.start()
            self._away = True
            session = await self._endpoint.connect(_factory(build))
            self._away = False
            assert isinstance(session, SyncSession)
        except CancelledError:
            raise
        except Exception as error:
            self._error = str(error) or type(error).__name__
            return error
        if not ended.called:
            self._session, self._since, self._error = session, session.seconds(), None
        reason = await ended
        self._error = str(reason)
        return reason

    def _feeds(self, outlet: Outlet, scopes: Sequence[str]) -> Feeds:
        keys = NodeKeys(self._network, self._node)
        reported = SourceFeed("reported", self._store, keys.reported.encode(), self.lineage, outlet)
        cursor = cursor_key(self._network, self._node, "desired")
        desired = TargetFeed("desired", self._store, keys.desired.encode(), cursor, outlet)
        if set(scopes) != set(self._scopes):
            self._scopes = tuple(scopes)
            spawn(self._save_scopes(), self._not_saved)
        spawn(leave_other_sites(self._store, self._network, self._node, scopes), outlet.broken)
        feeds = Feeds({"reported": reported}, {"desired": desired})
        add_site_target(feeds, self._network, self._node, scopes, self._store, outlet)
        for scope in scopes:
            add_data_feeds(feeds, scope, self._store, self.stamper, self.lineage, self._node, outlet)
        return feeds

    @property
    def connected(self) -> bool:
        return self._session is not None

    @property
    def ready(self) -> bool:
        """Whether the store's history is marked and its data stamped, so that it can be synced with anybody."""
        return self.lineage.started and self.stamper.started

    def scopes(self) -> tuple[str, ...]:
        """The scopes of application data that this node shares in, as last heard from the cloud."""
        return self._scopes

    async def _load_scopes(self) -> None:
        found = (await self._store.range(KeyRange.single(self._scopes_key))).kvs
        if found:
            self._scopes = tuple(json.loads(found[0].value))

    async def _save_scopes(self) -> None:
        await self._store.txn((), [Put(self._scopes_key, json.dumps(self._scopes).encode())])

    @property
    def _scopes_key(self) -> bytes:
        return f"{sync_prefix(self._network)}scopes".encode()

    def _not_saved(self, error: Exception) -> None:
        self.log.warn("the scopes of node {node} could not be saved: {error}", node=self._node, error=error)

    def share(self, neighbours_have: Callable[[str], int]) -> None:
        """Neighbours have data of this node as well.

        :param neighbours_have: the revision of the node's store up to which all of them have a scope's; 0 if that is
            not known of each.
        """
        self._neighbours_have = neighbours_have

    async def _horizons(self) -> dict[str, int]:
        """By scope what all others have of this node's: the cloud, while it is there, and of a site the neighbours."""
        sources = self._session.feeds.sources if self._session is not None else {}
        found: dict[str, int] = {}
        for scope in self._scopes:
            feed = sources.get(feed_name(scope))
            if feed is not None:
                known = feed.status.synced_revision or 0
                found[scope] = known if site_among([scope]) is None else min(known, self._neighbours_have(scope))
        return found

    def unsynced(self) -> int:
        """The revision of the node's store up to which the cloud has everything (0: nothing is known)."""
        if self._session is not None and self._session.feeds.sources:
            synced = [feed.status.synced_revision or 0 for feed in self._session.feeds.sources.values()]
            self._synced = max(self._synced, min(synced))
        return self._synced

    def status(self) -> dict[str, Any]:
        """How the sync stands: JSON-able. ``connected`` has been so for ``sinceSeconds``."""
        session = self._session
        now = float(self._reactor.seconds())
        return {
            "role": "node",
            "network": self._network,
            "node": self._node,
            "connected": session is not None,
            "sinceSeconds": round(now - self._since, 3),
            "error": self._error,
            "feeds": session.feeds.snapshots(now) if session else self._last,
        }


def _factory(build: Callable[[], SyncSession]) -> Factory[SyncSession]:
    factory = Factory.forProtocol(build)
    factory.noisy = False
    return factory
