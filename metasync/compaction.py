"""Keeps an embedded store's history short, so that a device's flash lives and holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from metasync.feeds import spawn
from metasync.interfaces import Compacted, StoreError
from metasync.model import KeyRange, RangeResult

KEEP_CHANGES = 20_000
KEEP_SECONDS = 6 * 3600.0
INTERVAL = 600.0
"""The defaults: history older than six hours goes, but for what the cloud lacks; never more than so many changes."""


@runtime_checkable
class Compactable(Protocol):
    """What is needed of a store. :class:`metasync.sqlite.SQLiteStore` has it."""

    async def range(self, keys: KeyRange, *, limit: int = 0) -> RangeResult: ...

    async def compact(self, revision: int) -> None: ...

    async def oldest_after(self, keep: int) -> int: ...


class CompactionService(Service):
    """Compacts now and then.

    :param unsynced: the revision after which the cloud lacks something (``None``: there is no cloud to wait for). That
        is kept, as long as ``keep_changes`` allows: beyond it, the sync finds differences by digests.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        store: Compactable,
        unsynced: Callable[[], int | None],
        *,
        keep_changes: int = KEEP_CHANGES,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._unsynced = unsynced
        self._keep_changes = keep_changes
        self._keep_seconds = keep_seconds
        self._past: deque[tuple[float, int]] = deque()
        self._loop = LoopingCall(lambda: spawn(self.compact(), self._failed))
        self._loop.clock = reactor

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._loop.start(INTERVAL)

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._loop.running:
            self._loop.stop()

    async def compact(self) -> None:
        """Do it now."""
        revision = max(self._by_age((await self._store.range(KeyRange.single(b"\0"), limit=1)).revision), 0)
        synced = self._unsynced()
        if synced is not None:
            revision = min(revision, synced + 1)
        revision = max(revision, await self._store.oldest_after(self._keep_changes))
        if revision:
            try:
                await self._store.compact(revision)
            except Compacted:
                pass  # it has been done

    def _by_age(self, now_at: int) -> int:
        """The newest revision that is old enough to go, by what was seen at earlier times."""
        now = float(self._reactor.seconds())
        self._past.append((now, now_at))
        old = 0
        while self._past and self._past[0][0] <= now - self._keep_seconds:
            old = self._past.popleft()[1]
        return old

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, StoreError) or self.running:
            self.log.warn("the metadata store's history could not be compacted: {error}", error=error)
