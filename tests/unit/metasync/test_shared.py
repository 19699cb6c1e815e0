"""One watch for many followers."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from metasync.compaction import CompactionService
from metasync.interfaces import Compacted, StoreError, StoreUnavailable, Watch, WatchObserver
from metasync.memory import MemoryStore
from metasync.model import Delete, KeyRange, Put
from metasync.shared import SharedWatchStore
from metasync.testing import Recorder
from tests.unit.metasync.pairs import now


class CountingStore(MemoryStore):
    """Tells how many watches it had."""

    opened = 0
    alive: list[WatchObserver]

    def watch(self, keys: KeyRange, start_revision: int, observer: WatchObserver) -> Watch:
        self.opened += 1
        self.alive = [*getattr(self, "alive", []), observer]
        return super().watch(keys, start_revision, observer)


class SharedWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = CountingStore(self.clock)
        self.failures: list[StoreError] = []
        self.shared = SharedWatchStore(self.clock, self.store, b"/k/", self.failures.append, keep_bytes=1000)

    def start(self) -> None:
        now(self.shared.start())
        self.put("/k/mark")
        self.settle()

    def put(self, *keys: str) -> int:
        revision: int = now(self.store.txn((), [Put(key.encode(), b"x" * 100) for key in keys])).revision
        return revision

    def settle(self) -> None:
        for _ in range(10):
            self.clock.advance(0)

    def follow(self, prefix: str, start: int = 0) -> Recorder:
        recorder = Recorder()
        self.shared.watch(KeyRange.prefix(prefix.encode()), start, recorder)
        return recorder

    def seen(self, recorder: Recorder) -> list[tuple[int, list[str]]]:
        return [(b.revision, [e.kv.key.decode() for e in b.events]) for b in recorder.batches]

    def test_eachGetsItsOwn(self) -> None:
        self.start()
        a, b = self.follow("/k/a/"), self.follow("/k/b/")
        self.settle()
        first = self.put("/k/a/1", "/k/b/1", "/k/b/2", "/other")
        now(self.store.txn((), [Delete.single(b"/k/a/1")]))
        self.settle()
        self.assertEqual(self.seen(a), [(first, ["/k/a/1"]), (first + 1, ["/k/a/1"])])
        self.assertEqual(self.seen(b), [(first, ["/k/b/1", "/k/b/2"])])

    def test_aHundredFollowersAreOneWatch(self) -> None:
        self.start()
        followers = [self.follow(f"/k/{i}/") for i in range(100)]
        self.settle()
        for i in range(100):
            self.put(f"/k/{i}/x")
        self.settle()
        self.assertEqual([len(follower.batches) for follower in followers], [1] * 100)
        self.assertEqual(self.store.opened, 1)

    def test_theRecentPastIsRemembered(self) -> None:
        self.start()
        first = self.put("/k/a/1")
        self.put("/k/b/1")
        self.settle()
        late = self.follow("/k/a/", first)
        self.settle()
        self.put("/k/a/2")
        self.settle()
        self.assertEqual(self.seen(late), [(first, ["/k/a/1"]), (first + 2, ["/k/a/2"])])
        self.assertEqual(self.store.opened, 1)

    def test_allWhoAreFarBehindShareOneMoreWatch(self) -> None:
        first = self.put("/k/a/0", "/k/b/0")
        self.start()
        for i in range(30):
            self.put(f"/k/{'ab'[i % 2]}/{i}")
        self.settle()
        late = [self.follow("/k/a/", first), self.follow("/k/b/", first + 3), self.follow("/k/a/", first)]
        self.put("/k/a/end")
        self.settle()
        last = self.put("/k/b/end")
        self.settle()
        self.assertEqual([len(each.batches) for each in late], [17, 16, 17])
        for each in late:
            revisions = [batch.revision for batch in each.batches]
            self.assertEqual(revisions, sorted(set(revisions)))
        self.assertEqual(late[1].batches[-1].revision, last)
        self.assertEqual(self.store.opened, 2)

    def test_compactedPast(self) -> None:
        first = self.put("/k/a/0")
        self.put("/k/a/1")
        self.start()
        now(self.store.compact(first + 1))
        late, fine = self.follow("/k/a/", first), self.follow("/k/a/", first + 1)
        self.settle()
        self.assertIsInstance(late.error, Compacted)
        self.assertEqual(self.seen(fine), [(first + 1, ["/k/a/1"])])

    def test_aLostStoreIsToldToAll(self) -> None:
        self.start()
        live = self.follow("/k/a/")
        self.settle()
        self.store.alive[0].failed(StoreUnavailable("gone"))
        self.assertEqual(str(live.error), "gone")
        self.assertEqual(len(self.failures), 1)
        self.start()
        again = self.follow("/k/a/")
        self.settle()
        self.put("/k/a/1")
        self.settle()
        self.assertEqual(len(again.batches), 1)

    def test_cancelled(self) -> None:
        self.start()
        recorder = Recorder()
        watch = self.shared.watch(KeyRange.prefix(b"/k/a/"), 0, recorder)
        self.settle()
        watch.cancel()
        watch.cancel()
        self.put("/k/a/1")
        self.settle()
        self.assertEqual(recorder.batches, [])


class _HistoryStore(MemoryStore):
    """With what :class:`CompactionService` needs besides."""

    oldest = 0

    async def oldest_after(self, keep: int) -> int:
        return self.oldest


class CompactionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = _HistoryStore(self.clock)
        self.synced: int | None = None
        self.service = CompactionService(self.clock, self.store, lambda: self.synced, keep_seconds=3600)
        self.service.startService()
        self.addCleanup(self.service.stopService)
        for _ in range(10):
            now(self.store.txn((), [Put(b"a", b"")]))

    def compacted(self) -> Any:
        return self.store._compacted

    def test_oldHistoryGoes(self) -> None:
        self.clock.pump([600] * 5)
        self.assertEqual(self.compacted(), 0)
        self.clock.pump([600] * 3)
        self.assertGreater(self.compacted(), 1)

    def test_whatTheCloudLacksStays(self) -> None:
        self.synced = 4
        self.clock.pump([600] * 20)
        self.assertEqual(self.compacted(), 5)

    def test_butNeverMoreThanSoMuch(self) -> None:
        self.synced = 4
        self.store.oldest = 9
        self.clock.pump([600])
        self.assertEqual(self.compacted(), 9)


class SameAsAloneTests(SynchronousTestCase):
    """Whoever follows through the shared watch sees what it would see with a watch of its own."""

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("put"), st.sets(st.sampled_from(["a/1", "a/2", "b/1", "c"]), min_size=1)),
                st.tuples(st.just("delete"), st.sampled_from(["a/", "b/"])),
                st.tuples(st.just("follow"), st.integers(0, 40)),
                st.tuples(st.just("time"), st.integers(1, 3)),
            ),
            max_size=60,
        )
    )
    def test_inWhateverOrder(self, steps: list[tuple[str, Any]]) -> None:
        clock = Clock()
        store = MemoryStore(clock)
        shared = SharedWatchStore(clock, store, b"/k/", lambda error: None, keep_bytes=60)
        now(shared.start())
        pairs: list[tuple[Recorder, Recorder]] = []
        for kind, what in steps:
            if kind == "put":
                now(store.txn((), [Put(f"/k/{name}".encode(), b"x" * 10) for name in what]))
            elif kind == "delete":
                now(store.txn((), [Delete(KeyRange.prefix(f"/k/{what}".encode()))]))
            elif kind == "follow":
                start = max(1, store.revision - what + 1)
                keys = KeyRange.prefix(b"/k/a/")
                pairs.append((Recorder(), Recorder()))
                shared.watch(keys, start, pairs[-1][0])
                store.watch(keys, start, pairs[-1][1])
            else:
                for _ in range(what):
                    clock.advance(0)
        now(store.txn((), [Put(b"/k/end", b"")]))
        for _ in range(20):
            clock.advance(0)
        for mine, alone in pairs:
            self.assertEqual(mine.batches, alone.batches)
