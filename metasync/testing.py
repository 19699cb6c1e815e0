# mypy: disallow-untyped-calls=False
"""For tests: a memory store's companions, and the contract every store must meet.

A test case for a store mixes :class:`StoreContract` with :class:`twisted.trial.unittest.TestCase` and opens its
store in :meth:`StoreContract.open_store`. The suite writes under ``self.root`` only, so that a shared etcd will do.
"""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from metasync.interfaces import (
    Compacted,
    FutureRevision,
    LeaseExists,
    LeaseNotFound,
    LeaseTooLong,
    Store,
    StoreError,
    TxnTooLarge,
    Watch,
)
from metasync.memory import MemoryStore
from metasync.model import (
    Compare,
    CompareOp,
    CompareTarget,
    Delete,
    DeleteResult,
    EventType,
    Get,
    KeyRange,
    Op,
    Put,
    PutResult,
    RangeResult,
    TxnResult,
    WatchBatch,
)

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object

__all__ = ["MemoryStore", "Recorder", "StoreContract"]


class Recorder:
    """A :class:`metasync.interfaces.WatchObserver` that remembers, and tells when something has come."""

    def __init__(self) -> None:
        self.batches: list[WatchBatch] = []
        self.reached = 0
        self.error: StoreError | None = None
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def batch(self, batch: WatchBatch) -> None:
        self.batches.append(batch)
        self.progress(batch.revision)

    def progress(self, revision: int) -> None:
        self.reached = max(self.reached, revision)
        self._wake()

    def failed(self, error: StoreError) -> None:
        self.error = error
        self._wake()

    def _wake(self) -> None:
        due = [waiter for waiter in self._waiting if waiter[0]()]
        self._waiting = [waiter for waiter in self._waiting if waiter not in due]
        for _, done in due:
            done.callback(None)

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires once ``condition()`` is true; it is asked after every call."""
        done: Deferred[None] = Deferred()
        self._waiting.append((condition, done))
        self._wake()
        return done

    def seen(self, revision: int) -> Deferred[None]:
        """Fires once a batch of ``revision`` or later has come."""
        return self.until(lambda: bool(self.batches) and self.batches[-1].revision >= revision)

    @property
    def changes(self) -> list[tuple[int, list[tuple[str, bytes, bytes]]]]:
        """Every batch as ``(revision, [(type, key, value), …])``."""
        return [(b.revision, [(e.type.value, e.kv.key, e.kv.value) for e in b.events]) for b in self.batches]


class StoreContract(_Base):
    """What every :class:`metasync.interfaces.Store` does."""

    store: Store
    root: bytes

    async def open_store(self) -> Store:
        raise NotImplementedError

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.root = f"/contract/{token_hex(4)}/".encode()
        self.store = await self.open_store()

    async def tearDown(self) -> None:  # type: ignore[override]
        await self.store.close()

    def key(self, name: str) -> bytes:
        return self.root + name.encode()

    @property
    def everything(self) -> KeyRange:
        return KeyRange.prefix(self.root)

    async def put(self, name: str, value: str) -> int:
        return (await self.store.txn((), [Put(self.key(name), value.encode())])).revision

    async def delete(self, name: str) -> int:
        return (await self.store.txn((), [Delete.single(self.key(name))])).revision

    async def values(self, revision: int = 0) -> dict[str, str]:
        found = await self.store.range(self.everything, revision=revision)
        return {kv.key[len(self.root) :].decode(): kv.value.decode() for kv in found.kvs}

    def observe(self, start_revision: int, keys: KeyRange | None = None) -> Recorder:
        recorder = Recorder()
        watch: Watch = self.store.watch(keys or self.everything, start_revision, recorder)
        self.addCleanup(watch.cancel)
        return recorder

    async def refused(self, error: type[Exception], wanted: object) -> StoreError:
        """The error with which an awaitable fails."""
        caught: StoreError = await self.assertFailure(Deferred.fromCoroutine(wanted), error)  # type: ignore[arg-type]
        return caught

    # Keys and revisions

    async def test_putCountsRevisionsAndVersions(self) -> None:
        first = await self.put("a", "1")
        second = await self.put("a", "2")
        other = await self.put("b", "x")
        self.assertEqual([second - first, other - second], [1, 1])
        a, b = (await self.store.range(self.everything)).kvs
        self.assertEqual((a.value, a.create_revision, a.mod_revision, a.version), (b"2", first, second, 2))
        self.assertEqual((b.value, b.create_revision, b.mod_revision, b.version), (b"x", other, other, 1))

    async def test_aKeyIsBornAgainAfterItsDeletion(self) -> None:
        await self.put("a", "1")
        await self.delete("a")
        again = await self.put("a", "3")
        (a,) = (await self.store.range(self.everything)).kvs
        self.assertEqual((a.create_revision, a.version), (again, 1))

    async def test_aTransactionIsOneRevision(self) -> None:
        before = await self.put("old", "1")
        result = await self.store.txn(
            (), [Put(self.key("a"), b"1"), Put(self.key("b"), b"2"), Delete.single(self.key("old"))]
        )
        self.assertEqual(result.revision, before + 1)
        found = await self.store.range(self.everything)
        self.assertEqual([kv.mod_revision for kv in found.kvs], [result.revision] * 2)
        self.assertEqual(found.revision, result.revision)

    async def test_aTransactionThatChangesNothingTakesNoRevision(self) -> None:
        before = await self.put("a", "1")
        result = await self.store.txn((), [Delete.single(self.key("none"))])
        self.assertEqual((result.revision, result.results), (before, (DeleteResult(0),)))
        self.assertEqual(await self.put("a", "2"), before + 1)

    async def test_binaryKeysAndValues(self) -> None:
        key, value = self.root + bytes(range(256)), bytes(range(255, -1, -1))
        await self.store.txn((), [Put(key, value)])
        (kv,) = (await self.store.range(KeyRange.single(key))).kvs
        self.assertEqual((kv.key, kv.value), (key, value))

    # Ranges

    async def test_rangeIsOrderedBytewise(self) -> None:
        for name in ("b", "a/2", "a", "a/1", "B"):
            await self.put(name, name)
        self.assertEqual(list(await self.values()), ["B", "a", "a/1", "a/2", "b"])

    async def test_rangeHasAnOpenEnd(self) -> None:
        for name in "abc":
            await self.put(name, name)
        found = await self.store.range(KeyRange(self.key("a"), self.key("c")))
        self.assertEqual([kv.value for kv in found.kvs], [b"a", b"b"])

    async def test_rangeLimitSaysThatThereIsMore(self) -> None:
        for name in "abc":
            await self.put(name, name)
        found = await self.store.range(self.everything, limit=2)
        self.assertEqual(([kv.value for kv in found.kvs], found.more, found.count), ([b"a", b"b"], True, 3))
        found = await self.store.range(self.everything, limit=3)
        self.assertEqual((len(found.kvs), found.more), (3, False))

    async def test_rangeOfKeysOnly(self) -> None:
        revision = await self.put("a", "1")
        (kv,) = (await self.store.range(self.everything, keys_only=True)).kvs
        self.assertEqual((kv.key, kv.value, kv.mod_revision), (self.key("a"), b"", revision))

    async def test_rangeByModRevision(self) -> None:
        await self.put("a", "1")
        since = await self.put("b", "1")
        await self.put("c", "1")
        found = await self.store.range(self.everything, min_mod_revision=since)
        self.assertEqual([kv.key for kv in found.kvs], [self.key("b"), self.key("c")])

    async def test_rangeInThePast(self) -> None:
        await self.put("a", "1")
        past = await self.put("b", "1")
        await self.put("a", "2")
        await self.delete("b")
        await self.put("c", "3")
        self.assertEqual(await self.values(past), {"a": "1", "b": "1"})
        self.assertEqual(await self.values(past + 2), {"a": "2"})
        self.assertEqual(await self.values(), {"a": "2", "c": "3"})

    async def test_rangeInTheFutureIsRefused(self) -> None:
        now = await self.put("a", "1")
        await self.refused(FutureRevision, self.store.range(self.everything, revision=now + 10))

    # Transactions

    async def test_comparesDecide(self) -> None:
        revision = await self.put("a", "1")
        a = self.key("a")
        cases = [
            (Compare.unchanged(a, revision), True),
            (Compare.unchanged(a, revision - 1), False),
            (Compare.absent(a), False),
            (Compare.absent(self.key("none")), True),
            (Compare.unchanged(self.key("none"), 0), True),
            (Compare(a, CompareTarget.VALUE, CompareOp.EQUAL, b"1"), True),
            (Compare(a, CompareTarget.VALUE, CompareOp.NOT_EQUAL, b"1"), False),
            (Compare(self.key("none"), CompareTarget.VALUE, CompareOp.NOT_EQUAL, b"1"), False),
            (Compare(a, CompareTarget.VERSION, CompareOp.GREATER, 0), True),
            (Compare(a, CompareTarget.CREATE, CompareOp.LESS, revision), False),
        ]
        for compare, expected in cases:
            result = await self.store.txn([compare], [Get(self.everything)], [])
            self.assertEqual(result.succeeded, expected, compare)

    async def test_failureBranch(self) -> None:
        await self.put("a", "1")
        result = await self.store.txn(
            [Compare.absent(self.key("a"))], [Put(self.key("a"), b"2")], [Put(self.key("b"), b"3")]
        )
        self.assertFalse(result.succeeded)
        self.assertEqual(await self.values(), {"a": "1", "b": "3"})

    async def test_everyCompareMustHold(self) -> None:
        await self.put("a", "1")
        result = await self.store.txn(
            [Compare.absent(self.key("b")), Compare.absent(self.key("a"))], [Put(self.key("b"), b"2")]
        )
        self.assertFalse(result.succeeded)
        self.assertEqual(await self.values(), {"a": "1"})

    async def test_getsSeeTheWritesBeforeThem(self) -> None:
        await self.put("a", "1")
        get = Get(self.everything)
        ops: list[Op] = [get, Put(self.key("b"), b"2"), get, Delete.single(self.key("a")), get]
        result = await self.store.txn((), ops)
        reads = [[kv.value for kv in r.kvs] for r in result.results if isinstance(r, RangeResult)]
        self.assertEqual(reads, [[b"1"], [b"1", b"2"], [b"2"]])

    async def test_resultsTellWhatWasThere(self) -> None:
        await self.put("a", "1")
        await self.put("b", "2")
        result = await self.store.txn((), [Put(self.key("a"), b"3"), Delete(KeyRange.prefix(self.key("b")))])
        put, deleted = result.results
        assert isinstance(put, PutResult) and isinstance(deleted, DeleteResult)
        assert put.previous is not None
        self.assertEqual(put.previous.value, b"1")
        self.assertEqual((deleted.deleted, [kv.value for kv in deleted.previous]), (1, [b"2"]))

    async def test_deletingARange(self) -> None:
        for name in ("a/1", "a/2", "b"):
            await self.put(name, name)
        result = await self.store.txn((), [Delete(KeyRange.prefix(self.key("a/")))])
        self.assertEqual(await self.values(), {"b": "b"})
        self.assertEqual(await self.values(result.revision - 1), {"a/1": "a/1", "a/2": "a/2", "b": "b"})

    async def test_aKeyIsWrittenOnceInATransaction(self) -> None:
        before = await self.put("a", "1")
        twice = [Put(self.key("b"), b"1"), Put(self.key("b"), b"2")]
        await self.refused(StoreError, self.store.txn((), twice))
        both: list[Op] = [Put(self.key("c"), b"1"), Delete(self.everything)]
        await self.refused(StoreError, self.store.txn((), both))
        self.assertEqual(await self.values(), {"a": "1"})
        self.assertEqual((await self.store.range(self.everything)).revision, before)

    async def test_tooManyOperations(self) -> None:
        ops = [Put(self.key(f"{i:06}"), b"") for i in range(self.store.max_txn_ops + 1)]
        if len(ops) > 10_000:
            return  # a store without a limit worth the test's time
        await self.refused(TxnTooLarge, self.store.txn((), ops))
        self.assertEqual(await self.values(), {})
        await self.store.txn((), ops[:-1])
        self.assertEqual(len(await self.values()), len(ops) - 1)

    async def test_tooManyBytes(self) -> None:
        if self.store.max_request_bytes > 1 << 24:
            return
        await self.refused(
            TxnTooLarge, self.store.txn((), [Put(self.key("a"), bytes(self.store.max_request_bytes + 1))])
        )
        self.assertEqual(await self.values(), {})

    async def test_oneOfManyConcurrentSwapsWins(self) -> None:
        revision = await self.put("a", "0")
        attempts = [
            Deferred.fromCoroutine(
                self.store.txn([Compare.unchanged(self.key("a"), revision)], [Put(self.key("a"), b"%d" % i)])
            )
            for i in range(20)
        ]
        results: list[TxnResult] = [await attempt for attempt in attempts]
        self.assertEqual([r.succeeded for r in results].count(True), 1)

    # Watches

    async def test_watchFromNow(self) -> None:
        await self.put("a", "0")
        recorder = self.observe(0)
        first = await self.put("a", "1")
        await self.store.txn((), [Put(self.key("b"), b"2"), Delete.single(self.key("a"))])
        await recorder.seen(first + 1)
        self.assertEqual(
            [(r, sorted(c)) for r, c in recorder.changes],
            [
                (first, [("put", self.key("a"), b"1")]),
                (first + 1, [("delete", self.key("a"), b""), ("put", self.key("b"), b"2")]),
            ],
        )

    async def test_watchFromThePastThenOn(self) -> None:
        first = await self.put("a", "1")
        await self.put("b", "2")
        await self.delete("a")
        recorder = self.observe(first)
        last = await self.put("c", "3")
        await recorder.seen(last)
        self.assertEqual(
            [(r, [(t, k[len(self.root) :], v) for t, k, v in c]) for r, c in recorder.changes],
            [
                (first, [("put", b"a", b"1")]),
                (first + 1, [("put", b"b", b"2")]),
                (first + 2, [("delete", b"a", b"")]),
                (last, [("put", b"c", b"3")]),
            ],
        )

    async def test_watchFromTheFuture(self) -> None:
        now = await self.put("a", "1")
        recorder = self.observe(now + 2)
        await self.put("a", "2")
        await self.put("a", "3")
        await recorder.seen(now + 2)
        self.assertEqual([b.revision for b in recorder.batches], [now + 2])

    async def test_watchedEventsAreWhole(self) -> None:
        first = await self.put("a", "1")
        recorder = self.observe(first)
        second = await self.put("a", "2")
        gone = await self.delete("a")
        await recorder.seen(gone)
        put1, put2, deletion = (batch.events[0] for batch in recorder.batches)
        self.assertEqual((put1.kv.create_revision, put1.kv.mod_revision, put1.kv.version), (first, first, 1))
        self.assertEqual((put2.kv.create_revision, put2.kv.mod_revision, put2.kv.version), (first, second, 2))
        self.assertIs(deletion.type, EventType.DELETE)
        self.assertEqual((deletion.kv.mod_revision, deletion.kv.version, deletion.kv.value), (gone, 0, b""))

    async def test_watchOfOneKeyAmongOthers(self) -> None:
        recorder = self.observe(0, KeyRange.single(self.key("b")))
        await self.store.txn((), [Put(self.key("a"), b"1"), Put(self.key("b"), b"1"), Put(self.key("ba"), b"1")])
        last = await self.put("b", "2")
        await recorder.seen(last)
        self.assertEqual([k for _, c in recorder.changes for _, k, _ in c], [self.key("b")] * 2)

    async def test_revisionsBeforeTheWatchAreProgress(self) -> None:
        last = await self.put("a", "1")
        recorder = self.observe(last + 1)
        self.assertEqual(recorder.reached, 0)  # nothing is called during watch()
        await self.put("a", "2")
        await recorder.until(lambda: recorder.reached >= last + 1)

    async def test_aCancelledWatchIsSilent(self) -> None:
        silent, other = Recorder(), self.observe(0)
        watch = self.store.watch(self.everything, 0, silent)
        watch.cancel()
        watch.cancel()
        await other.seen(await self.put("a", "1"))
        self.assertEqual(silent.batches, [])

    # Compaction

    async def test_compactionForgetsThePastOnly(self) -> None:
        await self.put("a", "1")
        await self.put("gone", "1")
        await self.put("a", "2")
        await self.delete("gone")
        kept = await self.put("b", "1")
        last = await self.put("a", "3")
        await self.store.compact(kept)
        self.assertEqual(await self.values(kept), {"a": "2", "b": "1"})
        self.assertEqual(await self.values(), {"a": "3", "b": "1"})
        error = await self.refused(Compacted, self.store.range(self.everything, revision=kept - 1))
        assert isinstance(error, Compacted)
        self.assertEqual((await self.store.range(self.everything)).revision, last)

    async def test_watchOfACompactedRevisionFails(self) -> None:
        first = await self.put("a", "1")
        await self.put("a", "2")
        last = await self.put("a", "3")
        await self.store.compact(last)
        recorder = self.observe(first)
        await recorder.until(lambda: recorder.error is not None)
        assert isinstance(recorder.error, Compacted)
        self.assertEqual(recorder.error.compact_revision, last)
        follow = self.observe(last)
        await follow.seen(last)
        self.assertEqual(follow.changes, [(last, [("put", self.key("a"), b"3")])])

    async def test_compactingTwiceOrInTheFutureIsRefused(self) -> None:
        await self.put("a", "1")
        last = await self.put("a", "2")
        await self.store.compact(last)
        await self.refused(Compacted, self.store.compact(last))
        await self.refused(FutureRevision, self.store.compact(last + 10))

    # Leases

    async def test_aLeaseEndsWithItsKeys(self) -> None:
        """They are deleted in one revision, like by anybody else."""
        lease = await self.store.lease_grant(2)
        self.assertGreaterEqual(lease.granted, 2)
        await self.put("free", "1")
        held = [Put(self.key(name), b"1", lease.lease) for name in ("a", "b")]
        revision = (await self.store.txn((), held)).revision
        kvs = (await self.store.range(KeyRange.prefix(self.root))).kvs
        self.assertEqual([kv.lease for kv in kvs], [lease.lease] * 2 + [0])
        recorder = self.observe(revision + 1)
        await recorder.until(lambda: bool(recorder.batches))
        self.assertEqual(
            [(r, sorted(c)) for r, c in recorder.changes],
            [(revision + 1, [("delete", self.key("a"), b""), ("delete", self.key("b"), b"")])],
        )
        self.assertEqual(await self.values(), {"free": "1"})
        await self.refused(LeaseNotFound, self.store.lease_time_to_live(lease.lease))

    async def test_revokingDeletesInOneRevision(self) -> None:
        lease = (await self.store.lease_grant(60)).lease
        before = (await self.store.txn((), [Put(self.key(name), b"1", lease) for name in ("a", "b")])).revision
        self.assertEqual(await self.store.lease_revoke(lease), before + 1)
        self.assertEqual((await self.values(), await self.values(before)), ({}, {"a": "1", "b": "1"}))
        await self.refused(LeaseNotFound, self.store.lease_revoke(lease))
        await self.refused(LeaseNotFound, self.store.lease_keep_alive(lease))

    async def test_revokingAnEmptyLeaseTakesNoRevision(self) -> None:
        before = await self.put("a", "1")
        await self.store.lease_revoke((await self.store.lease_grant(60)).lease)
        self.assertEqual(await self.put("a", "2"), before + 1)

    async def test_aPutDecidesAnewWhichLeaseAKeyHas(self) -> None:
        first, second = [(await self.store.lease_grant(60)).lease for _ in range(2)]
        for name in ("stays", "moves", "goes"):
            await self.store.txn((), [Put(self.key(name), b"1", first)])
        await self.store.txn((), [Put(self.key("stays"), b"2")])
        await self.store.txn((), [Put(self.key("moves"), b"2", second), Delete.single(self.key("goes"))])
        self.assertEqual((await self.store.lease_time_to_live(first)).keys, ())
        self.assertEqual((await self.store.lease_time_to_live(second)).keys, (self.key("moves"),))
        await self.store.lease_revoke(first)
        self.assertEqual(await self.values(), {"stays": "2", "moves": "2"})
        await self.store.lease_revoke(second)
        self.assertEqual(await self.values(), {"stays": "2"})

    async def test_aLeaseHasTime(self) -> None:
        granted = await self.store.lease_grant(100)
        self.assertEqual((granted.ttl, granted.granted), (100, 100))
        found = await self.store.lease_time_to_live(granted.lease)
        self.assertTrue(90 <= found.ttl <= 100, found)
        self.assertEqual(found.granted, 100)
        self.assertEqual((await self.store.lease_keep_alive(granted.lease)).ttl, 100)
        self.assertIn(granted.lease, await self.store.leases())
        await self.store.lease_revoke(granted.lease)
        self.assertNotIn(granted.lease, await self.store.leases())

    async def test_aLeaseMayHaveAnIDOfOnesOwn(self) -> None:
        wanted = int(token_hex(6), 16) + 1
        self.assertEqual((await self.store.lease_grant(60, wanted)).lease, wanted)
        await self.refused(LeaseExists, self.store.lease_grant(60, wanted))
        await self.refused(LeaseTooLong, self.store.lease_grant(1 << 40))
        await self.store.lease_revoke(wanted)

    async def test_aPutWithAnUnknownLeaseIsRefused(self) -> None:
        before = await self.put("a", "1")
        ops = [Put(self.key("b"), b"1"), Put(self.key("c"), b"1", 12345)]
        await self.refused(LeaseNotFound, self.store.txn((), ops))
        await self.refused(LeaseNotFound, self.store.lease_time_to_live(12345))
        self.assertEqual((await self.values(), await self.put("a", "2")), ({"a": "1"}, before + 1))

    async def test_leasesCanBeCompared(self) -> None:
        lease = (await self.store.lease_grant(60)).lease
        await self.store.txn((), [Put(self.key("a"), b"1", lease)])
        compare = Compare(self.key("a"), CompareTarget.LEASE, CompareOp.EQUAL, lease)
        self.assertTrue((await self.store.txn([compare], [Get(self.everything)])).succeeded)
        await self.store.lease_revoke(lease)
