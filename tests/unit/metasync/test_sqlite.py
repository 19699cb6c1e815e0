# mypy: disallow-untyped-calls=False
"""The embedded store meets the contract, and what is its own: files, durability, group commit."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from metasync import sqlite_rescue
from metasync.interfaces import LeaseNotFound, Stage, Store, StoreError, StoreUnavailable
from metasync.model import Compare, Delete, KeyRange, Op, Put
from metasync.sqlite import SQLiteStore
from metasync.sqlite_file import SQLiteFile
from metasync.testing import Recorder, StoreContract

reactor: Any = _reactor
ALL = KeyRange.prefix(b"")


class SQLiteStoreTests(StoreContract, TestCase):
    async def open_store(self) -> Store:
        return SQLiteStore.open(reactor, self.mktemp(), max_txn_ops=128, max_request_bytes=1_572_864)


class LeaseTests(TestCase):
    """Time that counts is time that the store runs, by a clock that nobody sets."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.now = 1000.0

    def open(self, path: Path | None = None) -> SQLiteStore:
        return SQLiteStore.open(reactor, path or self.path, clock=lambda: self.now)

    async def held(self, store: SQLiteStore) -> int:
        lease = (await store.lease_grant(100)).lease
        await store.txn((), [Put(b"a", b"1", lease)])
        return lease

    async def left(self, store: SQLiteStore, lease: int) -> int:
        await store.range(ALL)  # so that the store looks at the clock
        return (await store.lease_time_to_live(lease)).ttl

    def crashed(self, name: str) -> Path:
        """The files as they are now, as if the power had gone."""
        copy = self.path.with_name(self.path.name + name)
        for companion in ("", "-wal"):
            shutil.copy(f"{self.path}{companion}", f"{copy}{companion}")
        return copy

    async def test_aLeaseGoesOnAfterARestart(self) -> None:
        store = self.open()
        lease = await self.held(store)
        self.now += 60
        await store.close()
        self.now = 5.0  # the device has booted again
        store = self.open()
        self.assertEqual(await self.left(store, lease), 40)
        self.now += 39
        self.assertEqual(await self.left(store, lease), 1)
        recorder = Recorder()
        store.watch(ALL, 0, recorder)
        self.now += 1
        await store.range(ALL)
        await recorder.until(lambda: bool(recorder.batches))
        self.assertEqual((await store.range(ALL)).kvs, ())
        await self.assertFailure(Deferred.fromCoroutine(store.lease_time_to_live(lease)), LeaseNotFound)
        await store.close()
        store = self.open()
        self.assertEqual((await store.leases(), (await store.range(ALL)).kvs), ((), ()))
        await store.close()

    async def test_afterACrashItEndsNoEarlierThanItWould(self) -> None:
        store = self.open()
        lease = await self.held(store)
        self.now += 90
        await self.left(store, lease)
        await store.range(ALL)  # by now what is left has been saved
        copy = self.open(self.crashed("-1"))
        self.assertEqual(await self.left(copy, lease), 10)
        await copy.close()
        await store.lease_keep_alive(lease)
        copy = self.open(self.crashed("-2"))
        self.assertEqual(await self.left(copy, lease), 100)
        for each in (copy, store):
            await each.close()

    async def test_whoeverHeldALeaseHasAMomentToComeBack(self) -> None:
        store = self.open()
        lease = await self.held(store)
        self.now += 99.9
        await store.close()
        store = self.open()
        self.assertEqual(await self.left(store, lease), 2)
        await store.close()

    async def test_theWallClockDoesNotMatter(self) -> None:
        store = SQLiteStore.open(reactor, self.path)
        lease = await self.held(store)
        year = 365 * 86400.0
        for wall in (time.time() + year, time.time() - year):
            self.patch(time, "time", lambda wall=wall: wall)
            self.assertIn(await self.left(store, lease), range(90, 101))
        await store.close()

    async def test_aFileOfTheFormerFormatIsTakenOver(self) -> None:
        store = self.open()
        await store.txn((), [Put(b"a", b"1")])
        await store.close()
        db = sqlite3.connect(self.path)
        db.executescript("DROP TABLE lease; DROP INDEX history_lease; PRAGMA user_version = 1;")
        db.close()
        store = self.open()
        self.assertEqual([kv.value for kv in (await store.range(ALL)).kvs], [b"1"])
        await self.held(store)
        await store.close()

    async def test_aLeaseThatCannotBeEndedNowEndsLater(self) -> None:
        store = self.open()
        lease = await self.held(store)
        revoke = store._file.revoke

        def full(lease: int) -> Any:
            raise sqlite3.OperationalError("database or disk is full")

        store._file.revoke = full  # type: ignore[method-assign]
        self.now += 101
        await store.range(ALL)
        self.assertEqual(await self.left(store, lease), 5)
        store._file.revoke = revoke  # type: ignore[method-assign]
        recorder = Recorder()
        store.watch(ALL, 0, recorder)
        self.now += 6
        await store.range(ALL)
        await recorder.until(lambda: bool(recorder.batches))
        await store.close()


class StageTests(TestCase):
    """A transaction that is gathered in a file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.store = SQLiteStore.open(reactor, self.path)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.store.close()))

    async def stage(self, *parts: list[Op]) -> Stage:
        stage = self.store.stage()
        for part in parts:
            await stage.add(part)
        return stage

    async def test_itIsOneRevision(self) -> None:
        before = (await self.store.txn((), [Put(b"a", b"1"), Put(b"gone", b"1")])).revision
        watched, other = Recorder(), Recorder()
        self.store.watch(KeyRange.prefix(b"b"), 0, watched)
        self.store.watch(KeyRange.prefix(b"z"), 0, other)
        stage = await self.stage([Put(b"a", b"2"), Put(b"b1", b"")], [Delete.single(b"gone"), Put(b"b2", b"2" * 9999)])
        self.assertEqual((await self.store.range(ALL)).revision, before)
        done = await stage.commit([Compare.unchanged(b"a", before)])
        self.assertEqual((done.succeeded, done.revision), (True, before + 1))
        kvs = (await self.store.range(ALL)).kvs
        self.assertEqual([(kv.key, kv.mod_revision) for kv in kvs], [(k, before + 1) for k in (b"a", b"b1", b"b2")])
        await watched.seen(before + 1)
        self.assertEqual([len(batch.events) for batch in watched.batches], [2])
        await other.until(lambda: other.reached >= before + 1)

    async def test_itIsNotDoneIfACompareFails(self) -> None:
        stage = await self.stage([Put(b"a", b"1")])
        self.assertFalse((await stage.commit([Compare.unchanged(b"a", 7)])).succeeded)
        self.assertEqual((await self.store.range(ALL)).kvs, ())

    async def test_aKeyIsWrittenOnce(self) -> None:
        twice: list[list[Op]] = [
            [Put(b"a", b"1"), Put(b"b", b"1"), Put(b"a", b"2")],
            [Put(b"a", b"1"), Delete.single(b"a")],
        ]
        for ops in twice:
            stage = await self.stage(ops)
            other = Deferred.fromCoroutine(self.store.txn((), [Put(b"o", b"1")]))
            error = await self.assertFailure(Deferred.fromCoroutine(stage.commit(())), StoreError)
            self.assertIn("twice", str(error))
            await other
        self.assertEqual([kv.key for kv in (await self.store.range(ALL)).kvs], [b"o"])

    async def test_aFullDiskIsTold(self) -> None:
        def full(*arguments: Any, **options: Any) -> Any:
            raise OSError(28, "No space left on device")

        self.patch(tempfile, "TemporaryFile", full)
        stage = await self.stage([Put(b"a", b"1")])
        error = await self.assertFailure(Deferred.fromCoroutine(stage.commit(())), StoreUnavailable)
        self.assertIn("disk is full", str(error))
        self.assertEqual((await self.store.range(ALL)).kvs, ())

    async def test_nothingIsLeftBehind(self) -> None:
        stage = await self.stage([Put(b"a", b"1")])
        stage.discard()
        await self.store.range(ALL)
        self.assertEqual([p.name for p in self.path.parent.glob(".staged*")], [])


class FileTests(TestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def open(self, **options: Any) -> SQLiteStore:
        return SQLiteStore.open(reactor, self.path, **options)

    async def test_everythingIsThereAfterReopening(self) -> None:
        store = self.open()
        await store.txn((), [Put(b"a", b"1"), Put(b"b", b"2")])
        before = await store.range(ALL)
        identity = store.identity
        await store.close()
        store = self.open()
        self.assertEqual(await store.range(ALL), before)
        self.assertEqual(store.identity, identity)
        await store.close()

    async def test_compactionLastsAndFrees(self) -> None:
        store = self.open()
        for i in range(50):
            last = (await store.txn((), [Put(b"a", b"%d" % i * 1000)])).revision
        await store.compact(last)
        await store.close()
        store = self.open()
        recorder = Recorder()
        store.watch(ALL, 2, recorder)
        await recorder.until(lambda: recorder.error is not None)
        self.assertIn(f"before {last}", str(recorder.error))
        await store.close()

    async def test_concurrentWritesShareCommits(self) -> None:
        store = self.open()
        commits = 0
        commit = store._file.commit

        def counted() -> None:
            nonlocal commits
            commits += 1
            commit()

        store._file.commit = counted  # type: ignore[method-assign]
        results = await gatherResults(
            [Deferred.fromCoroutine(store.txn((), [Put(b"%d" % i, b"")])) for i in range(200)]
        )
        self.assertEqual([r.revision for r in results], list(range(2, 202)))
        self.assertLess(commits, 100)
        await store.close()

    async def test_aLongHistoryComesWhole(self) -> None:
        store = self.open()
        for i in range(30):
            await store.txn((), [Put(b"%d/%d" % (i, j), bytes(1000)) for j in range(100)])
        recorder = Recorder()
        store.watch(ALL, 1, recorder)
        await recorder.seen(31)
        self.assertEqual([(b.revision, len(b.events)) for b in recorder.batches], [(i, 100) for i in range(2, 32)])
        await store.close()

    async def test_theFileIsThisProcessAlone(self) -> None:
        store = self.open()
        error = self.assertRaises(StoreError, self.open)
        self.assertIn("in use by another process", str(error))
        await store.close()

    async def test_aFileThatIsReplacedMeanwhile(self) -> None:
        """Nothing is acknowledged that would be lost with the old file; a restart takes the new one."""
        store = self.open()
        await store.txn((), [Put(b"a", b"1")])
        copy = self.path.with_name("copy")
        copy.write_bytes(b"")
        for replaced in (lambda: copy.rename(self.path), self.path.unlink):
            replaced()
            error = await self.assertFailure(Deferred.fromCoroutine(store.txn((), [Put(b"a", b"2")])), StoreUnavailable)
            self.assertIn("replaced or removed", str(error))
        self.assertEqual((await store.range(ALL)).kvs[0].value, b"1")
        await store.close()
        store = self.open()
        await store.txn((), [Put(b"b", b"1")])
        await store.close()

    async def test_theFileIsPrivate(self) -> None:
        store = self.open()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        await store.close()

    async def test_afterClosingCallsFail(self) -> None:
        store = self.open()
        await store.close()
        await store.close()
        await self.assertFailure(Deferred.fromCoroutine(store.range(ALL)), StoreUnavailable)

    def test_aDirectoryThatIsMissing(self) -> None:
        self.path = self.path / "none" / "store"
        self.assertIn("directory", str(self.assertRaises(StoreError, self.open)))

    async def test_ofADamagedFileWhatCanBeReadIsKept(self) -> None:
        store = self.open()
        await store.txn((), [Put(b"/kubebus/default/sync/cursors/n/desired", b"token")])
        for i in range(200):
            await store.txn((), [Put(b"%03d" % i, b"%03d" % i * 300)])
        await store.txn((), [Put(b"000", b"new")])
        await store.txn((), [Delete.single(b"001")])
        identity = store.identity
        await store.close()
        size = self.path.stat().st_size
        with self.path.open("r+b") as file:
            file.seek(size // 2 // 4096 * 4096)
            file.write(bytes(range(256)) * 16 * 3)
        store = self.open()
        kept = {kv.key: kv.value for kv in (await store.range(ALL)).kvs}
        self.assertGreater(len(kept), 150)
        self.assertLess(len(kept), 201)
        self.assertEqual(kept[b"000"], b"new")
        self.assertNotIn(b"001", kept)
        self.assertNotIn(b"/kubebus/default/sync/cursors/n/desired", kept)
        self.assertTrue(all(value == key * 300 for key, value in kept.items() if key != b"000"))
        self.assertNotEqual(store.identity, identity)
        await store.txn((), [Put(b"a", b"1")])
        await store.close()
        self.assertTrue(self.path.with_name(self.path.name + ".damaged-1").exists())

    async def damaged(self) -> None:
        """A store of a hundred keys, in the middle of whose file something else stands."""
        store = self.open()
        for i in range(100):
            await store.txn((), [Put(b"%03d" % i, b"%03d" % i * 300)])
        await store.close()
        self.damage()

    def damage(self) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.path.stat().st_size // 2 // 4096 * 4096)
            file.write(bytes(range(256)) * 16 * 3)

    async def test_aRescueThatIsCutShortBeginsAgain(self) -> None:
        """The disk is full, or the power goes: the damaged file stays where it is until all is read of it."""
        await self.damaged()
        txn, count = SQLiteFile.txn, []

        def full(*arguments: Any) -> Any:
            count.append(1)
            if len(count) > 30:
                raise sqlite3.OperationalError("database or disk is full")
            return txn(*arguments)

        self.patch(SQLiteFile, "txn", full)
        self.assertIn("full", str(self.assertRaises(StoreError, self.open)))
        self.assertEqual([each.name for each in self.path.parent.glob(self.path.name + ".*")], [])
        self.patch(SQLiteFile, "txn", txn)
        await self.assertRescued()

    async def assertRescued(self) -> None:
        store = self.open()
        self.assertGreater(len((await store.range(ALL)).kvs), 70)
        await store.close()
        store = self.open()
        self.assertGreater(len((await store.range(ALL)).kvs), 70)
        await store.close()

    async def test_thePowerGoesBeforeTheRescuedFileIsInPlace(self) -> None:
        await self.damaged()
        finish = sqlite_rescue._finish

        def gone(path: Path) -> None:
            if not path.exists():
                path.with_name(path.name + "-wal").write_bytes(b"of the damaged file")
                raise OSError("the power is gone")

        self.patch(sqlite_rescue, "_finish", gone)
        self.assertRaises(StoreError, self.open)
        self.assertFalse(self.path.exists())
        self.patch(sqlite_rescue, "_finish", finish)
        await self.assertRescued()

    async def test_onlyTheLatestDamagedFilesAreKept(self) -> None:
        for _ in range(4):
            await self.damaged()
            await self.open().close()
        kept = sorted(each.name[len(self.path.name) :] for each in self.path.parent.glob(self.path.name + ".*"))
        self.assertEqual([name for name in kept if not name.endswith(("-wal", "-shm"))], [".damaged-3", ".damaged-4"])

    async def test_aSmallWriteSparesTheFlash(self) -> None:
        """Bytes that are written, log and file together, for each acknowledged write of 300 bytes."""
        store = self.open()

        def written() -> int:
            return int(Path("/proc/self/io").read_text().partition("wchar: ")[2].partition("\n")[0])

        for count in (200, 600):  # the first fill the file
            before = written()
            for i in range(count):
                await store.txn((), [Put(b"/kubebus/default/nodes/n1/reported/pods/%d" % (i % 50), b"%03d" % i * 100)])
        self.assertLess((written() - before) / 600, 13_000)
        await store.close()

    async def test_aValueThatHasChangedByItselfIsNotBelieved(self) -> None:
        store = self.open()
        await store.txn((), [Put(b"good", b"g" * 300), Put(b"bad", b"unmistakable" * 30)])
        await store.close()
        data = self.path.read_bytes()
        self.path.write_bytes(data.replace(b"unmistakable", b"unmistakeable"[:12], 1))
        store = self.open()
        self.assertEqual([kv.key for kv in (await store.range(ALL)).kvs], [b"good"])
        await store.close()

    async def test_aFileOfRubbishIsMovedAside(self) -> None:
        self.path.write_bytes(b"rubbish " * 10_000)
        store = self.open()
        self.assertEqual((await store.range(ALL)).kvs, ())
        await store.txn((), [Put(b"a", b"1")])
        await store.close()

    async def test_afterAPowerCutEveryAcknowledgedWriteIsThere(self) -> None:
        """The files are cut off at every point of their growth: what was acknowledged before is there, and whole."""
        store = self.open()
        wal = self.path.with_name(self.path.name + "-wal")
        acknowledged = [(wal.stat().st_size, 1)]
        for i in range(25):
            result = await store.txn((), [Put(b"%d/%d" % (i, j), b"%d" % i * 400) for j in range(4)])
            acknowledged.append((wal.stat().st_size, result.revision))
        database, log = self.path.read_bytes(), wal.read_bytes()
        await store.close()
        random = Random(1)
        for number in range(30):
            cut = random.randrange(acknowledged[0][0], len(log) + 1)
            self.path = Path(self.mktemp())
            self.path.write_bytes(database)
            torn = bytes(random.randbytes(random.randrange(5000))) if number % 2 else b""
            self.path.with_name(self.path.name + "-wal").write_bytes(log[:cut] + torn)
            store = self.open()
            found = await store.range(ALL)
            await store.close()
            safe = max(revision for size, revision in acknowledged if size <= cut)
            self.assertGreaterEqual(found.revision, safe)
            self.assertEqual(len(found.kvs), 4 * (found.revision - 1))
            self.assertFalse(self.path.with_name(self.path.name + ".damaged-1").exists())

    def test_anotherProgramsDatabase(self) -> None:
        db = sqlite3.connect(self.path)
        db.execute("CREATE TABLE x (y)")
        db.close()
        self.assertIn("other program", str(self.assertRaises(StoreError, self.open)))
