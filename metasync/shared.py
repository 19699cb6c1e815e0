"""One watch of a store, for any number of followers of its prefixes."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from metasync.feeds import spawn
from metasync.interfaces import Compacted, Stage, Store, StoreError, Watch, WatchObserver
from metasync.model import Event, KeyRange, Put, WatchBatch
from metasync.opening import stageable
from metasync.passing import PassingStore

_log = Logger()
KEEP_BYTES = 16 << 20
"""Of recent changes, so that a node that was away for a moment costs the store nothing."""

_NEWS_SECONDS = 30
"""So often followers that had no change hear how far the store has come."""

_SILENT_REVISIONS = 100
"""So far the store may be ahead of the watch, by what others write elsewhere, before the watch is made to say so."""


class SharedWatchStore(PassingStore):
    """A store whose watches, all of prefixes below ``prefix`` that end in ``/``, share one watch of the real one.

    Who begins in the past is served from recent changes, or else, together with all others who do, from one more
    watch that ends when it has caught up. Reads and writes go straight through. Use it after :meth:`start`.

    :param failed: called when the shared watch has failed; every follower has been told before.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        store: Store,
        prefix: bytes,
        failed: Callable[[StoreError], None],
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        super().__init__(store)
        self._reactor = reactor
        self._stages = stageable(store)
        self._keys = KeyRange.prefix(prefix)
        self._on_failed = failed
        self._keep = keep_bytes
        self._recent: deque[WatchBatch] = deque()
        self._recent_bytes = 0
        self._first = 1
        self._last_change = 0
        self._reached = 0
        self._watch: Watch | None = None
        self._followers: dict[bytes, list[_Follower]] = defaultdict(list)
        self._behind: list[_Follower] = []
        self._past: _Past | None = None
        self._beat = prefix + b"sync/beat"
        self._news = LoopingCall(lambda: spawn(self._tell_news(), self._no_news))
        self._news.clock = reactor

    async def start(self) -> None:
        """Follow the store from now on.

        :raises StoreError: if it does not answer.
        """
        found = await self.beneath.range(KeyRange.single(self._keys.start), limit=1, keys_only=True)
        self._reached, self._first = found.revision, found.revision + 1
        self._recent.clear()
        self._recent_bytes = 0
        self._watch = self.beneath.watch(self._keys, self._first, self)
        if not self._news.running:
            self._news.start(_NEWS_SECONDS, now=False)

    def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._past is not None:
            self._past.cancel()
            self._past = None
        if self._news.running:
            self._news.stop()

    # Store

    async def close(self) -> None:
        self.stop()
        await super().close()

    @property
    def stage_ops(self) -> int:
        return self._stages.stage_ops

    @property
    def stage_bytes(self) -> int:
        return self._stages.stage_bytes

    def stage(self, prefix: bytes) -> Stage:
        return self._stages.stage(prefix)

    async def settle(self, prefix: bytes) -> None:
        await self._stages.settle(prefix)

    async def recover(self, network: str) -> None:
        await self._stages.recover(network)

    def watch(self, keys: KeyRange, start_revision: int, observer: WatchObserver) -> Watch:
        follower = _Follower(self, keys, start_revision or self._reached + 1, observer)
        self._behind.append(follower)
        self._reactor.callLater(0, self._serve, follower)
        return follower

    # The shared watch (WatchObserver)

    def batch(self, batch: WatchBatch) -> None:
        self._recent.append(batch)
        self._recent_bytes += _size(batch)
        while self._recent_bytes > self._keep and len(self._recent) > 1:
            oldest = self._recent.popleft()
            self._recent_bytes -= _size(oldest)
            self._first = oldest.revision + 1
        self._reached = self._last_change = batch.revision
        for follower, events in self._addressees(batch):
            follower.offer(batch.revision, events)
        self._catch_up()

    def _addressees(self, batch: WatchBatch) -> Iterable[tuple[_Follower, list[Event]]]:
        found: dict[_Follower, list[Event]] = defaultdict(list)
        for event in batch.events:
            for prefix in _prefixes(event.kv.key):
                for follower in self._followers.get(prefix, ()):
                    found[follower].append(event)
        return found.items()

    def progress(self, revision: int) -> None:
        self._reached = max(self._reached, revision)

    def failed(self, error: StoreError) -> None:
        self.stop()
        for follower in [*self._behind, *(f for group in self._followers.values() for f in group)]:
            follower.fail(error)
        self._on_failed(error)

    # Followers

    def _serve(self, follower: _Follower) -> None:
        """Bring a follower up to date from recent changes, if they reach back to it; then it is live."""
        if follower not in self._behind:
            return
        early = follower.next_revision < self._first
        if early and (not self._last_change or follower.next_revision <= self._last_change):
            self._catch_up()
            return
        self._behind.remove(follower)
        self._followers[follower.keys.start].append(follower)
        for batch in [each for each in self._recent if each.revision >= follower.next_revision]:
            events = [event for event in batch.events if follower.keys.contains(event.kv.key)]
            if events:
                follower.offer(batch.revision, events)
        follower.progress(self._reached)

    def _catch_up(self) -> None:
        if self._past is None and self._last_change and self._watch is not None:
            late = [follower for follower in self._behind if follower.next_revision < self._first]
            if late:
                self._past = _Past(late, self._last_change, self._caught_up)
                start = min(follower.next_revision for follower in late)
                self._past.watch = self.beneath.watch(self._keys, start, self._past)

    def _caught_up(self, followers: list[_Follower], error: StoreError | None) -> None:
        self._past = None
        oldest = error.compact_revision if isinstance(error, Compacted) else 0
        for follower in followers:
            if error is not None and (not oldest or follower.next_revision < oldest):
                follower.fail(error)
            else:
                self._serve(follower)
        self._catch_up()

    def forget(self, follower: _Follower) -> None:
        for group in (self._behind, self._followers.get(follower.keys.start, [])):
            if follower in group:
                group.remove(follower)
        if not self._followers.get(follower.keys.start, True):
            del self._followers[follower.keys.start]

    async def _tell_news(self) -> None:
        """Of itself an etcd tells a silent watch every ten minutes how far it is, and others may compact it sooner.

        So a key of our own is written, and comes by the watch behind everything before it. (etcd has a request for
        this, but before 3.4.25 and 3.5.8 its answer may overtake events.)
        """
        found = await self.beneath.range(KeyRange.single(self._beat), limit=1, keys_only=True)
        if self._watch is not None and found.revision >= self._reached + _SILENT_REVISIONS:
            await self.beneath.txn((), [Put(self._beat, b"")])
        for follower in [each for group in self._followers.values() for each in group]:
            follower.progress(self._reached)

    def _no_news(self, error: Exception) -> None:
        _log.info("the store does not say how far it is: {error}", error=error)


class _Follower:
    """One watch as its owner sees it."""

    def __init__(self, owner: SharedWatchStore, keys: KeyRange, next_revision: int, observer: WatchObserver) -> None:
        self.keys = keys
        self.next_revision = next_revision
        self._owner = owner
        self._observer = observer
        self._over = False

    def offer(self, revision: int, events: Sequence[Event]) -> None:
        if not self._over and revision >= self.next_revision:
            self.next_revision = revision + 1
            self._observer.batch(WatchBatch(revision, tuple(events)))

    def progress(self, revision: int) -> None:
        if not self._over:
            self.next_revision = max(self.next_revision, revision + 1)
            self._observer.progress(revision)

    def fail(self, error: StoreError) -> None:
        if not self._over:
            self.cancel()
            self._observer.failed(error)

    def cancel(self) -> None:
        self._over = True
        self._owner.forget(self)


class _Past(WatchObserver):
    """The watch that catches up, for all who are behind. It ends at the last change that the shared watch has seen."""

    def __init__(
        self,
        followers: list[_Follower],
        end: int,
        done: Callable[[list[_Follower], StoreError | None], None],
    ) -> None:
        self.watch: Watch | None = None
        self._followers = followers
        self._end = end
        self._done = done

    def batch(self, batch: WatchBatch) -> None:
        for follower in self._followers:
            events = [event for event in batch.events if follower.keys.contains(event.kv.key)]
            if events:
                follower.offer(batch.revision, events)
        self.progress(batch.revision)

    def progress(self, revision: int) -> None:
        if revision < self._end:
            return
        self.cancel()
        for follower in self._followers:
            follower.next_revision = max(follower.next_revision, revision + 1)
        self._done(self._followers, None)

    def failed(self, error: StoreError) -> None:
        self._done(self._followers, error)

    def cancel(self) -> None:
        if self.watch is not None:
            self.watch.cancel()


def _size(batch: WatchBatch) -> int:
    return sum(len(event.kv.key) + len(event.kv.value) for event in batch.events)


def _prefixes(key: bytes) -> Iterable[bytes]:
    """Every prefix of a key that ends in a slash."""
    end = key.find(b"/")
    while end >= 0:
        yield key[: end + 1]
        end = key.find(b"/", end + 1)
