"""Watches of an embedded store: they catch up from its history, then follow its commits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.logger import Logger

from metasync.interfaces import StoreError, WatchObserver
from metasync.model import Event, KeyRange, WatchBatch


@dataclass(frozen=True, slots=True)
class History:
    """A stretch of the past: every batch of a range from a revision up to (and without) ``next_revision``.

    ``complete`` says that nothing at or after ``next_revision`` had been committed when it was read.
    """

    batches: tuple[WatchBatch, ...]
    next_revision: int
    complete: bool


class HistoryReader(Protocol):
    def __call__(self, keys: KeyRange, start_revision: int, done: Callable[[History | StoreError], None]) -> None:
        """Read a stretch and call ``done`` later, in order with :meth:`Watches.committed`."""


class _Watch:
    """One watch. It is live once its history has been delivered."""

    def __init__(self, owner: Watches, keys: KeyRange, next_revision: int, observer: WatchObserver) -> None:
        self.keys = keys
        self.next_revision = next_revision
        self.live = False
        self.cancelled = False
        self._owner = owner
        self._observer = observer

    def cancel(self) -> None:
        self.cancelled = True
        self._owner.forget(self)

    def _is_over(self) -> bool:
        return self.cancelled

    def history(self, found: History | StoreError) -> None:
        if self.cancelled:
            return
        if isinstance(found, StoreError):
            self.cancel()
            self._tell(lambda: self._observer.failed(found))
            return
        for batch in found.batches:
            if self._is_over():  # the observer may cancel in the middle
                return
            self._deliver(batch)
        if self._is_over():
            return
        self.next_revision = max(self.next_revision, found.next_revision)
        if not found.complete:
            self._owner.catch_up(self)
            return
        self.live = True
        self._progress(self.next_revision - 1)

    def committed(self, revision: int, events: tuple[Event, ...]) -> None:
        if not self.live or self.cancelled or revision < self.next_revision:
            return
        mine = tuple(event for event in events if self.keys.contains(event.kv.key))
        if mine:
            self._deliver(WatchBatch(revision, mine))
        else:
            self._progress(revision)
        self.next_revision = revision + 1

    def _deliver(self, batch: WatchBatch) -> None:
        self._tell(lambda: self._observer.batch(batch))

    def _progress(self, revision: int) -> None:
        self._tell(lambda: self._observer.progress(revision))

    def failed(self, error: StoreError) -> None:
        if not self.cancelled:
            self.cancel()
            self._tell(lambda: self._observer.failed(error))

    def _tell(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            # One observer's mistake must not rob the others, nor the writer, of what was committed.
            self._owner.log.failure("a watcher of {keys} failed", keys=self.keys)


class Watches:
    """All watches of one store.

    :param revision: the store's own at the start.
    """

    log = Logger()

    def __init__(self, revision: int, read_history: HistoryReader) -> None:
        self.revision = revision
        self._read_history = read_history
        self._watches: list[_Watch] = []

    def add(self, keys: KeyRange, start_revision: int, observer: WatchObserver) -> _Watch:
        watch = _Watch(self, keys, start_revision or self.revision + 1, observer)
        self._watches.append(watch)
        self.catch_up(watch)
        return watch

    def catch_up(self, watch: _Watch) -> None:
        self._read_history(watch.keys, watch.next_revision, watch.history)

    def forget(self, watch: _Watch) -> None:
        if watch in self._watches:
            self._watches.remove(watch)

    def watched(self, key: bytes) -> bool:
        """Whether anybody watches a key. May be asked on any thread."""
        return any(watch.keys.contains(key) for watch in list(self._watches))

    def committed(self, revision: int, events: tuple[Event, ...]) -> None:
        """A revision is durable: tell who follows. Revisions must come in order."""
        self.revision = revision
        for watch in list(self._watches):
            watch.committed(revision, events)

    def fail_all(self, error: StoreError) -> None:
        for watch in list(self._watches):
            watch.failed(error)

    def cancel_all(self) -> None:
        for watch in list(self._watches):
            watch.cancel()
