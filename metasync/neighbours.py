"""The sync of a site's data among its nodes, whether there is a cloud or not: a session for each pair that has a link.

Only the scope ``site.<name>`` takes part. Both ends are alike but for who connects, the lesser name. Whatever way a
version takes, over neighbours, over the cloud or both, the rule of :mod:`metasync.conflict` gives the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import random
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, ServerFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from metasync.client import SyncClientService
from metasync.data import FEED_PREFIX, add_data_feeds
from metasync.feeds import Outlet, Rate
from metasync.interfaces import Store
from metasync.loglimit import UNLIMITED, LogLimit
from metasync.session import Feeds, SyncSession
from metasync.sitefeed import site_scope
from metasync.wire import Hello

SERVICE: Final = "site-sync/1"
"""The service's name among the nodes of a site."""

WRITES_PER_SECOND: Final = 20.0
WRITES_BURST: Final = 200.0
MAX_BYTES: Final = 8 << 20
"""How often, and how much at once, a neighbour may change this node's store: as nodes may the cloud's."""

_EVERYTHING: Final = 1 << 62

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 15.0
"""Seconds between attempts while there is a link: doubled at every failure, less up to a half at random."""


class NeighbourSync(Service):
    """Shares the site's scope with every neighbour that has a link.

    :param client: the node's sync with the cloud, whose stamps and marks are used: a store has one of each.
    :param site: the node's site now, or ``None``.
    :param members: the nodes of that site, as the newest roster says; ``None`` if there is none.
    :param jitter: a number from 0 to 1, at random.
    :param limit: how many lines the log takes for one neighbour's sake.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        store: Store,
        network: str,
        node: str,
        client: SyncClientService,
        site: Callable[[], str | None],
        *,
        members: Callable[[], Collection[str] | None] = lambda: None,
        jitter: Callable[[], float] = random,
        limit: LogLimit = UNLIMITED,
    ) -> None:
        self._limit = limit
        self._rates: dict[str, Rate] = {}
        self._members = members
        self._known: dict[tuple[str, str], int] = {}
        client.share(self.all_have)
        self._reactor, self._store, self._network, self._node = reactor, store, network, node
        self._client, self._site, self._jitter = client, site, jitter
        self._tasks: dict[str, Deferred[None]] = {}
        self._sessions: dict[str, SyncSession] = {}

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        for name in list(self._tasks):
            self._hang_up(name)
        for session in list(self._sessions.values()):
            session.broken(ConnectionAbortedError("the node stops"))

    def factory(self) -> ServerFactory:
        """For :data:`SERVICE`: what neighbours connect to. ``addr.peer`` alone says who they are."""
        return _Server(self)

    def neighbour(self, name: str, endpoint: IStreamClientEndpoint | None) -> None:
        """There is a link to that node now, and over it ``endpoint`` to its :data:`SERVICE`; or (``None``) no more."""
        self._hang_up(name)
        if endpoint is None:
            session = self._sessions.get(name)
            if session is not None:
                session.broken(ConnectionAbortedError("the link is gone"))
        elif self.running and self._node < name:
            self._tasks[name] = task = Deferred.fromCoroutine(self._keep_up(name, endpoint))
            task.addErrback(self._crashed, name)

    def all_have(self, scope: str) -> int:
        """The revision of the node's store up to which every other member of the site has a scope's data (0: nobody
        knows). A member that was not linked to this node since it started may have anything.
        """
        site, members = self._site(), self._members()
        if site is None or members is None or scope != site_scope(site):
            return 0
        for name, session in self._sessions.items():
            self._note_known(name, session)
        return min((self._known.get((name, scope), 0) for name in members if name != self._node), default=_EVERYTHING)

    def _note_known(self, name: str, session: SyncSession) -> None:
        for feed_name, feed in session.feeds.sources.items():
            self._known[name, feed_name.removeprefix(FEED_PREFIX)] = feed.status.synced_revision or 0

    def status(self) -> dict[str, Any]:
        """``neighbours``: how the sync with each stands; nothing without any. JSON-able."""
        now = float(self._reactor.seconds())
        found = {name: session.feeds.snapshots(now) for name, session in sorted(self._sessions.items())}
        return {"neighbours": found} if found else {}

    def _hang_up(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    def _crashed(self, failure: Any, name: str) -> None:
        if not failure.check(CancelledError):
            self.log.failure("the sync with node {name} has crashed", failure, name=name)

    async def _keep_up(self, name: str, endpoint: IStreamClientEndpoint) -> None:
        wait = FIRST_WAIT
        while True:
            if self._client.ready:
                ended: Deferred[Exception] = Deferred()
                try:
                    await endpoint.connect(_Client(self, name, ended))
                    reason = await ended
                    wait = FIRST_WAIT
                except CancelledError:
                    raise
                except Exception as error:
                    reason = error
                self.log.info("sync with node {name} is down ({reason})", name=name, reason=reason)
            await deferLater(self._reactor, wait * (1 - self._jitter() / 2), lambda: None)
            wait = min(wait * 2, LONGEST_WAIT)

    def session(self, name: str, ended: Callable[[Exception], None] | None = None) -> SyncSession | None:
        """A session with that neighbour, which ends the one before; ``None`` if there can be none now."""
        site = self._site()
        if site is None or not self._client.ready:
            return None
        scope = site_scope(site)

        def over(session: SyncSession, reason: Exception) -> None:
            if self._sessions.get(name) is session:
                self._note_known(name, session)
                del self._sessions[name]
            if ended is not None:
                ended(reason)

        old = self._sessions.get(name)
        if old is not None:
            old.broken(ConnectionAbortedError("there is a newer session"))
        self._sessions[name] = session = SyncSession(
            self._reactor,
            f"node {name}",
            Hello(scopes=(scope,)),
            lambda outlet, scopes: self._feeds(name, scope, scopes, outlet),
            over,
            self._rates.setdefault(name, Rate(WRITES_PER_SECOND, WRITES_BURST)),
            self._limit,
        )
        return session

    def _feeds(self, name: str, scope: str, scopes: Sequence[str], outlet: Outlet) -> Feeds:
        feeds = Feeds({}, {})
        if scope in scopes:
            client = self._client
            add_data_feeds(feeds, scope, self._store, client.stamper, client.lineage, name, outlet, MAX_BYTES)
        return feeds


class _Server(ServerFactory):
    noisy = False

    def __init__(self, sync: NeighbourSync) -> None:
        self._sync = sync

    def buildProtocol(self, addr: IAddress | None) -> SyncSession | None:
        peer: Any = getattr(addr, "peer", None)
        return None if peer is None else self._sync.session(peer.name)


class _Client(Factory):
    noisy = False

    def __init__(self, sync: NeighbourSync, name: str, ended: Deferred[Exception]) -> None:
        self._sync, self._name, self._ended = sync, name, ended

    def buildProtocol(self, addr: IAddress | None) -> SyncSession | None:
        return self._sync.session(self._name, self._ended.callback)
