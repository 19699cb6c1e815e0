"""Keeps a copy of a prefix in memory: reads it, watches it, and reads it again when the watch ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import random

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from metasync.interfaces import Store, StoreError, Watch
from metasync.model import EventType, KeyRange, KeyValue, WatchBatch

RETRY_SECONDS = 1.0
"""Between attempts while the store cannot be read; up to twice that, at random."""

Changed = Callable[[Mapping[bytes, KeyValue | None]], None]


class Follower:
    """The keys below ``prefix``, as the store has them.

    :param changed: told of all changes of a revision as one: by key below the prefix, ``None`` for what is gone.
        First it is told of everything, even if that is nothing; after a lost watch, of the difference only.
    """

    log = Logger()

    def __init__(self, reactor: IReactorTime, store: Store, prefix: str | bytes, changed: Changed) -> None:
        self._reactor, self._store, self._changed = reactor, store, changed
        self._prefix = prefix.encode() if isinstance(prefix, str) else prefix
        self._watch: Watch | None = None
        self._reading: Deferred[None] | None = None
        self._retry: IDelayedCall | None = None
        self._stopped = False
        self.items: dict[bytes, KeyValue] = {}
        self.synced = False

    def start(self) -> None:
        self._retry = None
        self._reading = Deferred.fromCoroutine(self._read())
        self._reading.addErrback(self._lost)

    def stop(self) -> None:
        """No call follows."""
        self._stopped = True
        if self._watch is not None:
            self._watch.cancel()
        if self._reading is not None:
            self._reading.cancel()
        if self._retry is not None:
            self._retry.cancel()

    async def _read(self) -> None:
        found = await self._store.range(KeyRange.prefix(self._prefix))
        if self._stopped:
            return
        now = {kv.key[len(self._prefix) :]: kv for kv in found.kvs}
        changes: dict[bytes, KeyValue | None] = dict.fromkeys(self.items.keys() - now.keys())
        changes.update({key: kv for key, kv in now.items() if self.items.get(key) != kv})
        self.items = now
        first, self.synced = not self.synced, True
        # The watch first: what the call leads to may change the store.
        self._watch = self._store.watch(KeyRange.prefix(self._prefix), found.revision + 1, self)
        if changes or first:
            self._changed(changes)

    def batch(self, batch: WatchBatch) -> None:
        changes: dict[bytes, KeyValue | None] = {}
        for event in batch.events:
            key = event.kv.key[len(self._prefix) :]
            if event.type is EventType.PUT:
                changes[key] = self.items[key] = event.kv
            elif self.items.pop(key, None) is not None:
                changes[key] = None
        if changes:
            self._changed(changes)

    def progress(self, revision: int) -> None:
        pass

    def failed(self, error: StoreError) -> None:
        self._again(error)

    def _lost(self, failure: Failure) -> None:
        if failure.check(CancelledError):  # type: ignore[no-untyped-call]
            return
        if not failure.check(StoreError):  # type: ignore[no-untyped-call]
            self.log.failure("following {prefix} failed", failure, prefix=self._prefix.decode())
        self._again(failure.value)

    def _again(self, why: BaseException | None) -> None:
        if self._stopped:
            return
        self._watch = None
        self.log.info("{prefix} is read again: {why}", prefix=self._prefix.decode(), why=str(why))
        self._retry = self._reactor.callLater(RETRY_SECONDS * (1 + random()), self.start)
