"""Removes the stamps of deleted application data once nobody can come with anything older.

A stamp that says "deleted" is what an old write loses against. It may go when every member of its scope is known to
have it, for then no member has anything older; and not before it has been there for a while, so that what was on its
way when it came has arrived. What is written to the key later counts on from the greatest counter that was removed
in its scope (the *floor*), and so wins against the deletion where that still stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from metasync.conflict import SANE_COUNTER, Version
from metasync.feeds import spawn
from metasync.interfaces import Store
from metasync.model import Compare, Delete, KeyRange, KeyValue, Op, Put
from metasync.stamping import Stamper, compares_of

KEEP_SECONDS = 24 * 3600.0
INTERVAL = 3600.0
"""The defaults: a deletion's stamp stays for a day at least, of this process's own time; looked for every hour."""

_PAGE = 500

Horizons = Callable[[], Awaitable[Mapping[str, int]]]
"""By scope the revision of the store up to which every member has everything. A scope that is not told is kept."""


class StampCollector:
    """Collects in one store, from :meth:`start` on."""

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        store: Store,
        stamper: Stamper,
        horizons: Horizons,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._stamper = stamper
        self._horizons = horizons
        self._keep_seconds = keep_seconds
        self._past: deque[tuple[float, int]] = deque()
        self._old = 0
        self._loop = LoopingCall(lambda: spawn(self._on_time(), self._failed))
        self._loop.clock = reactor

    def start(self) -> None:
        if not self._loop.running:
            self._loop.start(INTERVAL, now=False)

    def stop(self) -> None:
        """The store may come back with another past: nothing that was seen of it counts any more."""
        self._past.clear()
        self._old = 0
        if self._loop.running:
            self._loop.stop()

    async def _on_time(self) -> None:
        count = await self.collect()
        if count:
            self.log.info("{count} stamps of deleted data were removed: everybody has them", count=count)

    async def collect(self) -> int:
        """Do it now. Returns how many stamps went."""
        horizons = await self._horizons()
        found = await self._store.range(KeyRange.single(self._stamper.keys.stamps), limit=1)
        old = self._revision_of_age(found.revision)
        count = 0
        for scope, horizon in horizons.items():
            if min(horizon, old) > 0:
                count += await self._collect(scope, min(horizon, old))
        return count

    def _revision_of_age(self, now_at: int) -> int:
        """The newest revision that is old enough, by what was seen earlier."""
        now = float(self._reactor.seconds())
        self._past.append((now, now_at))
        while self._past and self._past[0][0] <= now - self._keep_seconds:
            self._old = self._past.popleft()[1]
        return self._old

    async def _collect(self, scope: str, horizon: int) -> int:
        rest = KeyRange.prefix(self._stamper.keys.stamps + scope.encode() + b"/")
        count = 0
        while True:
            page = await self._store.range(rest, limit=_PAGE)
            gone = [kv for kv in page.kvs if kv.mod_revision <= horizon and _may_go(Version.unpack(kv.value))]
            step = max(1, compares_of(self._store) - 1)
            for at in range(0, len(gone), step):
                count += await self._remove(scope, gone[at : at + step])
            if not page.more:
                return count
            rest = KeyRange(page.kvs[-1].key + b"\0", rest.end)

    async def _remove(self, scope: str, stamps: Sequence[KeyValue]) -> int:
        """Only if nothing of it has changed; else another time."""
        keys = self._stamper.keys
        floor_key = keys.floors + scope.encode()
        (floor,) = (await self._store.range(KeyRange.single(floor_key))).kvs or (None,)
        highest = max(Version.unpack(kv.value).counter for kv in stamps)
        compares = [Compare.unchanged(floor_key, floor.mod_revision if floor else 0)]
        ops: list[Op] = [Put(floor_key, b"%d" % max(highest, int(floor.value) if floor else 0))]
        for kv in stamps:
            compares.append(Compare.unchanged(kv.key, kv.mod_revision))
            compares.append(Compare.absent(keys.data + kv.key[len(keys.stamps) :]))
            ops.append(Delete.single(kv.key))
        return len(stamps) if (await self._store.txn(compares, ops)).succeeded else 0

    def _failed(self, error: Exception) -> None:
        self.log.warn("old stamps of deleted data could not be removed: {error}", error=error)


def _may_go(version: Version) -> bool:
    """A counter that somebody made up must not become the floor of a whole scope."""
    return version.deleted and version.counter < SANE_COUNTER
